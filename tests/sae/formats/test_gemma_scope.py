"""Gemma Scope 1: equation, what names say, embedding SAEs, transcoders, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from saebench.sae.reading import archives
from saebench.sae.reading.containers import open_npz
from tests.sae.formats.cases import OUT, D, S, acts, agrees, rand

TAIL = "layer_20/width_16k/average_l0_71"


def params(d_out: int = D) -> dict[str, Tensor]:
    return {
        "W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, d_out, seed=3), "b_dec": rand(d_out, seed=4),
        "threshold": rand(S, seed=5).abs() + 0.3,
    }  # fmt: skip


def written(folder: Path, tensors: dict[str, Tensor] | None = None, *, compressed: bool = False) -> Path:
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {key: one.numpy() for key, one in (tensors or params()).items()}
    (np.savez_compressed if compressed else np.savez)(folder / "params.npz", **arrays)
    return folder


def equation(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    pre = x @ t["W_enc"] + t["b_enc"]
    latents = torch.where(pre > t["threshold"], pre, torch.zeros(())).relu()
    return latents, latents @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("compressed", [False, True])
def test_equation(tmp_path: Path, compressed: bool) -> None:
    """JumpReLU with b_dec added and never taken off; that a threshold is not everywhere 0 shows."""
    sae = load_sae(written(tmp_path / "gemma-scope-2b-pt-res" / TAIL, compressed=compressed))
    latents, recon = equation(params(), acts())
    agrees(sae, acts(), latents, recon)
    assert bool((((acts() @ params()["W_enc"] + params()["b_enc"]).relu() > 0) & (latents == 0)).any())
    assert (sae.config.format, sae.config.activation, sae.config.architecture) == ("gemma_scope", "jumprelu", "jumprelu")


@pytest.mark.parametrize(
    ("repo", "site", "model"),
    [
        ("gemma-scope-2b-pt-res", "blocks.20.hook_resid_post", "google/gemma-2-2b"),
        ("gemma-scope-9b-it-res", "blocks.20.hook_resid_post", "google/gemma-2-9b-it"),
        ("gemma-scope-27b-pt-res", "blocks.20.hook_resid_post", "google/gemma-2-27b"),
        ("gemma-scope-9b-pt-mlp", "blocks.20.hook_mlp_out", "google/gemma-2-9b"),
        ("gemma-scope-2b-pt-att", "blocks.20.attn.hook_z", "google/gemma-2-2b"),
    ],
)
@pytest.mark.parametrize("cache", [False, True], ids=["folder", "hub cache"])
def test_names_say_model_and_site(tmp_path: Path, repo: str, site: str, model: str, cache: bool) -> None:
    root = tmp_path / f"models--google--{repo}/snapshots/0123abc" if cache else tmp_path / repo
    about = inspect_sae(written(root / TAIL))
    assert (about["site"], about["site_out"], about["model_id"]) == (site, None, model)
    assert (about["context_length"], about["prepend_bos"], about["residual"]) == (1024, True, "raw")
    lines = str(about["assumptions"])
    assert repo in lines and "layer_20" in lines and "1024" in lines


def test_the_name_is_not_the_folders_alone(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "gemma-scope-2b-pt-res" / TAIL))
    assert sae.config.name == "width_16k-average_l0_71"


def test_a_transcoder_by_its_repository(tmp_path: Path) -> None:
    """It reads before the norm's gain and writes behind the second norm; its output width is its own."""
    t = params(OUT)
    sae = load_sae(written(tmp_path / "gemma-scope-2b-pt-transcoders" / TAIL, t))
    c = sae.config
    assert (c.site, c.site_out) == ("blocks.20.ln2.hook_normalized", "blocks.20.hook_mlp_out")
    assert (c.architecture, c.d_in, c.d_out, c.model_id) == ("jumprelu_transcoder", D, OUT, "google/gemma-2-2b")
    assert sae.is_transcoder
    agrees(sae, acts(), *equation(t, acts()))
    square = load_sae(written(tmp_path / "copy/gemma-scope-2b-pt-transcoders" / TAIL))
    assert square.is_transcoder, "of a square one only the name tells"
    longer = load_sae(written(tmp_path / "gemma-scope-9b-pt-mlp-transcoders" / TAIL))
    assert (longer.config.site, longer.config.site_out) == (c.site, c.site_out), "mlp in front of it is no site"


def test_a_transcoder_of_no_known_layer_asks(tmp_path: Path) -> None:
    folder = written(tmp_path / "gemma-scope-2b-pt-transcoders/mine")
    with pytest.raises(InputError, match=r"no name in its path.*--set site_out="):
        load_sae(folder)
    told = {"site_out": "blocks.3.hook_mlp_out"}
    sae = load_sae(folder, given=told, site="blocks.3.ln2.hook_normalized")
    assert (sae.config.site, sae.config.site_out) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    with pytest.raises(InputError, match="unknown site"):
        load_sae(folder, given={"site_out": "mlp_out"})


def test_without_the_repositorys_name(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "downloads/one"))
    assert (sae.config.site, sae.config.model_id, sae.is_transcoder) == (None, None, False)
    assert any("taken as an SAE, not as a transcoder" in line and "site_out" in line for line in sae.config.assumptions)
    told = load_sae(tmp_path / "downloads/one", given={"site_out": "blocks.1.hook_mlp_out"}, site="blocks.1.ln2.hook_normalized")
    assert told.is_transcoder and told.config.architecture == "jumprelu_transcoder"
    named = load_sae(written(tmp_path / "transcoders/layer_4/width_16k"))
    assert (named.config.site, named.config.model_id) == ("blocks.4.ln2.hook_normalized", None)
    with pytest.raises(InputError, match=r"is a transcoder.*--set site_out="):
        load_sae(written(tmp_path / "downloads/two", params(OUT)))


def test_an_embedding_sae_acts_on_the_scaled_embedding(tmp_path: Path) -> None:
    """Trained on rows e; at blocks.0.hook_resid_pre stands √D e, and the recon is √D times that of e, b_dec included."""
    t, e = params(), acts()
    sae = load_sae(written(tmp_path / "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", t))
    latents, recon = equation(t, e)
    agrees(sae, math.sqrt(D) * e, latents, math.sqrt(D) * recon)
    assert sae.config.site == "blocks.0.hook_resid_pre"
    assert any("√D" in line and "b_dec" in line for line in sae.config.assumptions)
    alone = load_sae(written(tmp_path / "x/embedding/width_4k/average_l0_6"))
    assert (alone.config.site, alone.config.model_id) == ("blocks.0.hook_resid_pre", None)
    other = load_sae(written(tmp_path / "embedding/gemma-scope-2b-pt-res" / TAIL))
    assert other.config.site == "blocks.20.hook_resid_post", "a folder of that name further out says nothing"


def test_keys_in_lower_case(tmp_path: Path) -> None:
    """SAELens reads these too."""
    t = params()
    lower = {key.replace("W_", "w_"): one for key, one in t.items()}
    agrees(load_sae(written(tmp_path / "gemma-scope-2b-pt-res" / TAIL, lower)), acts(), *equation(t, acts()))


def test_what_means_nothing_is_warned_of(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "gemma-scope-2b-pt-res" / TAIL, params() | {"scaling_factor": torch.ones(S)}))
    assert any("scaling_factor" in line for line in sae.config.warnings)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"threshold": None}, "lacks the tensor 'threshold'"),
        ({"b_dec": None}, "lacks the tensor 'b_dec'"),
        ({"W_dec": None}, "lacks the tensor 'W_dec'"),
        ({"W_dec": rand(S + 1, D)}, "the decoder takes 41"),
        ({"b_enc": rand(S - 1)}, "'b_enc' has 39 entries"),
        ({"threshold": rand(S + 2)}, "'threshold' has 42 entries"),
        ({"W_enc": rand(D)}, "'W_enc' should be a matrix"),
        ({"b_dec": rand(D).to(torch.int32)}, "int32"),
        ({"b_dec": torch.full((D,), float("nan"))}, "NaN"),
    ],
)
def test_damaged_tensors(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    tensors = {key: one for key, one in (params() | changed).items() if one is not None}
    with pytest.raises(InputError) as caught:
        load_sae(written(tmp_path / "gemma-scope-2b-pt-res" / TAIL, tensors))
    assert said in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04cut"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    folder = written(tmp_path / "gemma-scope-2b-pt-res" / TAIL)
    (folder / "params.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"params\.npz.*fetch it again"):
        load_sae(folder)


def test_archives_of_other_things_are_not_claimed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(written(tmp_path / "a", {"embeddings": rand(4, 3)}))
    with pytest.raises(InputError, match=r"has no params\.npz"):
        load_sae(tmp_path, format="gemma_scope")


def test_arrays_that_are_not_plain(tmp_path: Path) -> None:
    """Turned in memory: read as it is. Pickled objects: refused, nothing is unpickled."""
    t = params()
    turned: dict[str, Any] = {key: one.numpy() for key, one in t.items()} | {"W_enc": np.asfortranarray(t["W_enc"].numpy())}
    np.savez(tmp_path / "turned.npz", **turned)
    assert torch.equal(open_npz(tmp_path / "turned.npz")["W_enc"], t["W_enc"])
    folder = written(tmp_path / "gemma-scope-2b-pt-res" / TAIL)
    np.savez(folder / "params.npz", W_enc=np.array([{}], dtype=object), W_dec=np.zeros((S, D)))
    with pytest.raises(InputError, match="pickled objects"):
        load_sae(folder)


def test_a_file_that_compresses_well_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published files unpack to 6 times their size; one that would unpack a thousandfold is not opened."""
    monkeypatch.setattr(archives, "_SLACK", 0)
    wide, alive = 40 * S, 300
    dead = {
        "W_enc": torch.cat([rand(D, alive), torch.zeros(D, wide - alive)], 1), "b_enc": torch.zeros(wide),
        "W_dec": torch.zeros(wide, D), "b_dec": rand(D), "threshold": torch.ones(wide),
    }  # fmt: skip
    folder = written(tmp_path / "a", dead, compressed=True)
    unpacked = sum(one.nbytes for one in dead.values())
    assert 6 < unpacked / (folder / "params.npz").stat().st_size < 16
    assert load_sae(folder).config.d_sae == wide
    bomb = written(tmp_path / "b", {"W_enc": torch.zeros(1 << 20)}, compressed=True)
    with pytest.raises(InputError, match="would unpack"):
        load_sae(bomb)
