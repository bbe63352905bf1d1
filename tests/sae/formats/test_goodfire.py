"""Goodfire: two nn.Linear and a ReLU, model and site by the name, and the tied SAEs of DeepSeek-R1 that are refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

FILE = "Llama-3.1-8B-Instruct-SAE-l19.pth"


def tensors(**changed: Tensor | None) -> dict[str, Tensor]:
    own = {
        "encoder_linear.weight": rand(S, D, seed=1), "encoder_linear.bias": rand(S, seed=2),
        "decoder_linear.weight": rand(D, S, seed=3), "decoder_linear.bias": rand(D, seed=4),
    }  # fmt: skip
    return {key: one for key, one in (own | {k.replace("__", "."): v for k, v in changed.items()}).items() if one is not None}


def written(folder: Path, content: object, name: str = FILE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)
    (folder / "config.yaml").write_text("# of the release\n")
    return folder


def equation(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Nothing is taken off x, whatever the decoder's bias is."""
    latents = (x @ t["encoder_linear.weight"].T + t["encoder_linear.bias"]).relu()
    return latents, latents @ t["decoder_linear.weight"].T + t["decoder_linear.bias"]


def test_equation(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", OrderedDict(tensors()))
    for path in (folder, folder / FILE):
        sae = load_sae(path)
        agrees(sae, acts(), *equation(tensors(), acts()))
        assert sae.config.site == "blocks.19.hook_resid_post"
        assert (sae.config.format, sae.config.activation, sae.config.d_in, sae.config.d_sae) == ("goodfire", "relu", D, S)


@pytest.mark.parametrize(
    ("file", "model", "site"),
    [
        (FILE, "meta-llama/Llama-3.1-8B-Instruct", "blocks.19.hook_resid_post"),
        ("Llama-3.3-70B-Instruct-SAE-l50.pt", "meta-llama/Llama-3.3-70B-Instruct", "blocks.50.hook_resid_post"),
        ("Other-7B-SAE-l3.pt", None, "blocks.3.hook_resid_post"),
        ("sae.pt", None, None),
    ],
)
def test_model_and_site_by_the_name(tmp_path: Path, file: str, model: str | None, site: str | None) -> None:
    about = inspect_sae(written(tmp_path / "a", tensors(), file) / file)
    assert (about["model_id"], about["site"]) == (model, site)
    assert (site is None) == ("-SAE-l" not in str(about["assumptions"]))


def test_a_hubs_cache(tmp_path: Path) -> None:
    """The repository's name serves where the file's says nothing, and names the SAE: the folder is called by its commit."""
    folder = written(tmp_path / "models--Goodfire--Llama-3.1-8B-Instruct-SAE-l19/snapshots/f677", tensors(), "weights.pth")
    c = load_sae(folder).config
    assert (c.model_id, c.site) == ("meta-llama/Llama-3.1-8B-Instruct", "blocks.19.hook_resid_post")
    assert c.name == "Llama-3.1-8B-Instruct-SAE-l19"
    assert load_sae(folder / "weights.pth").config.name == "Llama-3.1-8B-Instruct-SAE-l19-weights"


def test_square_matrices_are_nn_linears(tmp_path: Path) -> None:
    """By the format, for the shape does not tell."""
    t = tensors(
        encoder_linear__weight=rand(D, D, seed=1), encoder_linear__bias=rand(D), decoder_linear__weight=rand(D, D, seed=3)
    )
    agrees(load_sae(written(tmp_path / "a", t)), acts(), *equation(t, acts()))


def test_bfloat16(tmp_path: Path) -> None:
    t = {key: one.bfloat16() for key, one in tensors().items()}
    agrees(load_sae(written(tmp_path / "a", t)), acts(), *equation({key: one.float() for key, one in t.items()}, acts()))


def test_the_tied_sae_of_deepseek_r1_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "math", {"W": rand(D, S), "b_enc": rand(S), "b_dec": rand(D)}, "DeepSeek-R1-SAE-l37.pt")
    for path in (folder, folder / "DeepSeek-R1-SAE-l37.pt"):
        with pytest.raises(InputError, match=r"DeepSeek-R1.*tied.*whole batch"):
            load_sae(path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoder_linear__bias": None}, r"lacks the tensor 'encoder_linear\.bias'"),
        ({"decoder_linear__weight": None}, r"lacks the tensor 'decoder_linear\.weight'"),
        ({"decoder_linear__weight": rand(S, D)}, r"decoder_linear\.weight is \[40, 12\]"),
        ({"decoder_linear__bias": rand(S)}, r"decoder_linear\.bias has 40 entries"),
        ({"encoder_linear__weight": rand(S)}, r"'encoder_linear\.weight' should be a matrix"),
        ({"encoder_linear__bias": torch.zeros(S, dtype=torch.int8)}, "int8"),
    ],
)
def test_damage(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_sae(written(tmp_path / "a", tensors(**changed)))
    assert FILE in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_named_and_other_torch_files_are_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", tensors())
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-50])
    with pytest.raises(InputError, match=r"SAE-l19\.pth is not a whole"):
        load_sae(folder)
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(written(tmp_path / "b", {"conv.weight": rand(3, 3)}, "model.pt"))
    written(tmp_path / "c", tensors())
    written(tmp_path / "c", tensors(), "Llama-3.3-70B-Instruct-SAE-l50.pt")
    for format in (None, "goodfire"):
        with pytest.raises(InputError, match="2 SAEs"):
            load_sae(tmp_path / "c", format=format)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no torch file, or several"):
        load_sae(tmp_path / "none", format="goodfire")
