"""e2e_sae: several SAEs in one file, decoders normalised when they are used, model and context from final_config.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees, rand

FIRST, SECOND, INNER = "blocks.2.hook_resid_pre", "blocks.10.hook_resid_pre", "blocks.2.ln2.hook_normalized"
SETTINGS: dict[str, Any] = {
    "tlens_model_name": "gpt2-small", "tlens_model_path": None, "lr": 5e-4,
    "train_data": {"n_ctx": 1024, "tokenizer_name": "gpt2"},
    "saes": {"sae_positions": [FIRST, SECOND], "dict_size_to_input_ratio": S / D},
}  # fmt: skip


def tensors(*sites: str, **changed: Tensor | None) -> dict[str, Tensor]:
    """Return the state dict of a ``ModuleDict`` of SAEs; decoder columns are of many lengths, one of them of none."""
    found: dict[str, Tensor | None] = {}
    for n, site in enumerate(sites or (FIRST, SECOND)):
        own = site.replace(".", "-")
        decoder = rand(D, S, seed=10 * n + 3) * torch.linspace(0.1, 3, S)
        decoder[:, 4] = 0
        found |= {
            f"{own}.encoder.0.weight": rand(S, D, seed=10 * n + 1), f"{own}.encoder.0.bias": rand(S, seed=10 * n + 2),
            f"{own}.decoder.weight": decoder, f"{own}.decoder.bias": rand(D, seed=10 * n + 4),
        }  # fmt: skip
    found |= {f"{FIRST.replace('.', '-')}.{key.replace('__', '.')}": one for key, one in changed.items()}
    return {key: one for key, one in found.items() if one is not None}


def write(folder: Path, content: Any = None, settings: dict[str, Any] | None = SETTINGS, name: str = "samples_400000.pt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors() if content is None else content, folder / name)
    if settings is not None:
        (folder / "final_config.yaml").write_text(yaml.safe_dump(settings))
    return folder / name


def expected(t: dict[str, Tensor], site: str, x: Tensor) -> tuple[Tensor, Tensor]:
    own = site.replace(".", "-")
    latents = (x @ t[f"{own}.encoder.0.weight"].T + t[f"{own}.encoder.0.bias"]).clamp_min(0)
    decoder = t[f"{own}.decoder.weight"]
    decoder = decoder / decoder.norm(dim=0).clamp_min(1e-12)
    return latents, latents @ decoder.T + t[f"{own}.decoder.bias"]


def refused(path: str | Path, *said: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        load_sae(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    for text in said:
        assert text in line, line


@pytest.mark.parametrize("site", [FIRST, SECOND])
def test_each_sae_of_a_file(tmp_path: Path, site: str) -> None:
    file, x = write(tmp_path / "run"), acts()
    sae = load_sae(f"{file}#{site}")
    agrees(sae, x, *expected(tensors(), site, x))
    c = sae.config
    assert (c.format, c.architecture, c.site, c.model_id, c.context_length) == ("apollo", "standard", site, "gpt2-small", 1024)
    assert (c.residual, c.path, c.name) == ("centred", f"{file}#{site}", f"samples_400000-{site}")
    assert any("centred" in line and "e2e_sae" in line for line in c.assumptions)
    norms = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms[torch.arange(S) != 4], torch.ones(S - 1))
    assert float(norms[4]) == 0
    assert load_sae(f"{file}#{site.replace('.', '-')}").sha256 == sae.sha256, "hyphens, as the file writes them"
    assert load_sae(f"{file.parent}#{site}").sha256 == sae.sha256, "the folder names the file"
    about = inspect_sae(f"{file}#{site}")
    assert (about["site"], about["sha256"], about["d_sae"]) == (site, sae.sha256, S)


def test_a_file_of_several_has_to_be_told_which(tmp_path: Path) -> None:
    file = write(tmp_path / "run")
    refused(file, "holds 2 SAEs", f"{file}#{FIRST}", f"{file}#{SECOND}", "--select")
    refused(file, "holds 2 SAEs", f"#{FIRST}", format="apollo")
    refused(f"{file}#blocks.3.hook_resid_pre", "blocks.3.hook_resid_pre", "Did you mean", f"It has {FIRST}, {SECOND}")
    assert [found.source.part for found in find_all(file)] == [FIRST, SECOND], "by layer, not by text"
    assert [found.source.part for found in find_all(tmp_path, select="*.10.*")] == [SECOND]
    assert [(row["site"], row["refused"]) for row in list_saes(tmp_path)] == [(FIRST, None), (SECOND, None)]


def test_checkpoints_of_a_run_are_files_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "run", tensors(FIRST), name="samples_1000.pt")
    write(tmp_path / "run", tensors(FIRST), name="samples_2000.pt")
    assert [found.path.split("/")[-1] for found in find_all(tmp_path)] == [f"samples_{n}000.pt#{FIRST}" for n in (1, 2)]
    assert load_sae(tmp_path / "run/samples_2000.pt").config.site == FIRST, "one SAE needs no name"
    refused(tmp_path / "run", "holds 2 SAEs; name one", format="apollo")


def test_sites_outside_the_stream_and_other_models(tmp_path: Path) -> None:
    c = load_sae(write(tmp_path / "a", tensors(INNER))).config
    assert (c.site, c.residual, c.assumptions) == (INNER, "raw", ())
    own = SETTINGS | {"tlens_model_name": None, "tlens_model_path": "model/epoch_1.pt"}
    c = load_sae(write(tmp_path / "b", tensors(FIRST), own)).config
    assert (c.model_id, c.residual) == (None, "raw")
    assert any("checkpoint" in line for line in c.assumptions)
    c = load_sae(write(tmp_path / "c", tensors(FIRST), None)).config
    assert (c.model_id, c.residual, c.context_length) == (None, "centred", None)


def test_look_alikes_are_not_taken_for_it(tmp_path: Path) -> None:
    plain = {"encoder.0.weight": rand(S, D), "encoder.0.bias": rand(S), "decoder.weight": rand(D, S), "decoder.bias": rand(D)}
    for n, content in enumerate(
        (plain, {f"net.{key}": one for key, one in plain.items()}, tensors() | {"embed.weight": rand(3, 3)})
    ):
        file = write(tmp_path / str(n), content)
        try:
            found = [one.format for one in find_all(file)]
        except InputError:
            found = []
        assert "apollo" not in found
        refused(file, "has no SAE at a hook point", format="apollo")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoder__0__bias": None}, "encoder.0.bias"), ({"decoder__weight": None}, "decoder.weight"),
        ({"decoder__bias": None}, "decoder.bias"), ({"decoder__weight": rand(S, D)}, "decoder.weight"),
        ({"encoder__0__weight": rand(S)}, "encoder.0.weight"), ({"encoder__0__bias": rand(D)}, "b_enc"),
        ({"decoder__bias": rand(S)}, "b_dec"), ({"encoder__0__weight": torch.ones(S, D, dtype=torch.int32)}, "int32"),
        ({"decoder__weight": torch.full((D, S), torch.nan)}, "NaN"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    file = write(tmp_path / "run", tensors(**changed))
    refused(f"{file}#{FIRST}", said, str(file))
    assert load_sae(f"{file}#{SECOND}").config.site == SECOND, "the other one is whole"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tlens_model_name": 5}, "tlens_model_name"), ({"train_data": {"n_ctx": "long"}}, "n_ctx"),
        ({"saes": {"dict_size_to_input_ratio": 60.0}}, "60.0"), ({"saes": {"dict_size_to_input_ratio": "x"}}, "'x'"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_are_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    refused(f"{write(tmp_path / 'run', None, SETTINGS | changed)}#{FIRST}", said, "final_config.yaml")
