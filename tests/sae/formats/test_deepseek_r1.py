"""A bare dictionary of two nn.Linear: the equation, the line that says what was taken for granted, and what is left to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

FILE = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"


def tensors() -> dict[str, Tensor]:
    return {
        "encoder.weight": rand(S, D, seed=1), "encoder.bias": rand(S, seed=2),
        "decoder.weight": rand(D, S, seed=3), "decoder.bias": rand(D, seed=4),
    }  # fmt: skip


def written(folder: Path, content: object, name: str = FILE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)
    return folder


def equation(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents = (x @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    return latents, latents @ t["decoder.weight"].T + t["decoder.bias"]


def test_equation_and_name(tmp_path: Path) -> None:
    t = {key: one.bfloat16() for key, one in tensors().items()}
    folder = written(tmp_path / "a", t)
    sae = load_sae(folder)
    agrees(sae, acts(), *equation({key: one.float() for key, one in t.items()}, acts()))
    c = sae.config
    assert (c.format, c.architecture, c.d_sae) == ("deepseek_r1", "standard", S)
    assert (c.model_id, c.site) == ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "blocks.19.hook_resid_post")
    assert any("ReLU" in line and "AutoEncoderNew" in line for line in c.assumptions)
    assert inspect_sae(folder / FILE)["format"] == "deepseek_r1"


def test_the_same_tensors_under_another_name(tmp_path: Path) -> None:
    """They are taken for the same, with a line that says so; dictionary_learning's AutoEncoderNew has the same equation."""
    sae = load_sae(written(tmp_path / "a", tensors(), "mine.pt"))
    agrees(sae, acts(), *equation(tensors(), acts()))
    assert (sae.config.site, sae.config.model_id) == (None, None)
    assert any("no settings" in line for line in sae.config.assumptions)
    run = written(tmp_path / "b", tensors(), "ae.pt")
    (run / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderNew"}}))
    known = load_sae(run)
    assert known.config.format == "dictionary_learning"
    assert torch.equal(known.reconstruct(acts()), sae.reconstruct(acts()))


@pytest.mark.parametrize(("at", "settings"), [(".", "hyperparams.json"), ("a", "config.json")])
def test_settings_near_it_say_otherwise(tmp_path: Path, at: str, settings: str) -> None:
    """OpenMOSS has the same tensors and settings that change what they mean: it is not taken unasked."""
    folder = written(tmp_path / "a", tensors(), "final.pt")
    (tmp_path / at / settings).write_text("{}")
    with pytest.raises(InputError, match=r"--format: .*deepseek_r1"):
        load_sae(folder)
    assert load_sae(folder, format="deepseek_r1").config.format == "deepseek_r1"


def test_other_dictionaries_are_left_alone(tmp_path: Path) -> None:
    for name, content in (("a.pt", tensors() | {"k": torch.tensor(4)}), (FILE, {"W_q": rand(3, 3)})):
        with pytest.raises(InputError, match="no SAE of a known format"):
            load_sae(written(tmp_path / name.removesuffix(".pt"), content, name))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"decoder.bias": None}, r"lacks the tensor 'decoder\.bias'"),
        ({"encoder.weight": None}, r"lacks the tensor 'encoder\.weight'"),
        ({"decoder.weight": rand(D + 1, S)}, r"decoder\.weight is \[13, 40\]"),
        ({"encoder.bias": rand(D)}, r"encoder\.bias has 12 entries"),
    ],
)
def test_damage(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    kept = {key: one for key, one in (tensors() | changed).items() if one is not None}
    with pytest.raises(InputError, match=said) as caught:
        load_sae(written(tmp_path / "a", kept))
    assert FILE in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", tensors())
    (folder / FILE).write_bytes(b"PK\x03\x04cut")
    with pytest.raises(InputError, match=r"SAE-l19\.pt is not a whole"):
        load_sae(folder)
