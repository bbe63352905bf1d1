"""``saelens:RELEASE/ID`` is what the real ``SAE.from_pretrained`` makes of it, from the same hub: a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saebench.registry import FORMATS
from saebench.sae import load_sae
from saebench.sae.hub import saelens
from saebench.sae.hub.repository import parse
from tests.sae.formats.cases import D, S, acts
from tests.sae.hub.fake_hub import FakeHub, client_of, serving
from tests.sae.hub.repositories import dictionary_learning_folder, sae_lens

pytestmark = pytest.mark.peers

SAMPLES = {
    "scaled": ("gpt2-small-mlp-tm", "blocks.0.hook_mlp_out", {"normalize_activations": True}),
    "plain": ("gpt2-small-res-jb", "blocks.8.hook_resid_pre", {}),
    "rescaled": ("mistral-7b-res-wg", "blocks.8.hook_resid_pre", {"normalize_activations": "none", "sae_lens_version": "3.0.0"}),
    "topk": (
        "gpt2-small-resid-post-v5-32k", "blocks.0.hook_resid_post",
        {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": "layer_norm"},
    ),
    "unscaled": ("gemma-2b-res-jb", "blocks.0.hook_resid_post", {"apply_b_dec_to_input": False}),
}  # fmt: skip
"""Of sae_lens' own format: release, id, and what its settings say besides sizes and site."""
SWEEP = ("sae_bench_gemma-2-2b_topk_width-2pow12_date-1109", "blocks.12.hook_resid_post__trainer_0")


class Told:
    """What the real library said, and the hub that it got files from."""

    def __init__(self, root: Path, hub: FakeHub) -> None:
        self.root, self.hub = root, hub
        data = json.loads((root / "directory.json").read_text())
        self.file, self.saes = Path(data["file"]), data["saes"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    root = tmp_path_factory.mktemp("saelens")
    np.save(root / "acts.npy", acts().numpy())
    listed = saelens.directory(_file_of(python))
    with serving() as hub:
        names: dict[str, tuple[str, str]] = {name: (release, id) for name, (release, id, _) in SAMPLES.items()}
        for name, (release, id) in (names | {"sweep": SWEEP}).items():
            one = listed[release][id]
            folder = root / "repositories" / name
            if name == "sweep":
                dictionary_learning_folder(folder / one.path, n=1)
            else:
                sae_lens(folder, one.path, seed=len(name), **SAMPLES[name][2])
            hub.push(one.repo, folder)
        (root / "list.tsv").write_text("".join(f"{name}\t{r}\t{i}\n" for name, (r, i) in (names | {"sweep": SWEEP}).items()))
        hidden = {"PYTHONPATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"}
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(root / "home"), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        script = Path(__file__).with_name("read_saelens.py")
        done = subprocess.run([python, str(script), str(root)], capture_output=True, text=True, env=env, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        yield Told(root, hub)


def _file_of(python: str) -> Path:
    find = "import importlib.util as u; print(u.find_spec('sae_lens').submodule_search_locations[0])"
    done = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True, timeout=300)
    return Path(done.stdout.strip()) / "pretrained_saes.yaml"


def test_the_directory_says_of_every_sae_what_sae_lens_says(told: Told) -> None:
    ours: dict[str, dict[str, list[Any]]] = {}
    for release, listed in saelens.directory(told.file).items():
        ours[release] = {
            id: [one.repo, one.path, one.loader, one.model, one.factor, dict(one.overrides)] for id, one in listed.items()
        }
    assert sum(map(len, ours.values())) > 10_000
    assert ours == told.saes


def test_every_sae_has_an_address_and_every_loader_a_format_or_a_reason(told: Told) -> None:
    loaders = set()
    for listed in saelens.directory(told.file).values():
        for one in listed.values():
            loaders.add(one.loader)
            address = parse(f"hub:{one.repo}:{one.path}")
            assert (address.repo, address.inside) == (one.repo, one.path)
    assert loaders <= set(saelens.FORMAT_OF) | set(saelens.REFUSED)
    assert {saelens.FORMAT_OF[loader] for loader in loaders - set(saelens.REFUSED)} <= set(FORMATS.names())


@pytest.mark.parametrize("name", [*SAMPLES, "sweep"])
def test_latents_and_recons_agree_to_1e_5(name: str, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client_of(told.hub, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(saelens, "_file", lambda: told.file)
    release, id = SWEEP if name == "sweep" else SAMPLES[name][:2]
    sae = load_sae(f"saelens:{release}/{id}")
    assert (sae.config.d_in, sae.config.d_sae) == (D, S)
    x, theirs = acts(), np.load(told.root / f"{name}.npz")
    latents = sae.encode(x)
    assert (theirs["latents"] != 0).any()
    for a, b in ((latents.to_dense(), theirs["latents"]), (sae.decode(latents, x), theirs["recon"])):
        b = torch.from_numpy(b)
        assert float((a - b).abs().max() / b.abs().max()) < 1e-5
