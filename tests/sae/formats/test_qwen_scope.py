"""Qwen-Scope: equation, k by the repository's name or by --set, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees, rand

WIDE = 1024
REPO = "SAE-Res-Qwen3-1.7B-Base-W1K-L0_5"


def tensors(d_sae: int = S) -> dict[str, Tensor]:
    """Latents first in the encoder, last in the decoder, as the model card says."""
    return {
        "W_enc": rand(d_sae, D, seed=1), "W_dec": rand(D, d_sae, seed=2), "b_enc": rand(d_sae, seed=3), "b_dec": rand(D, seed=4)
    }  # fmt: skip


def written(folder: Path, content: object, layer: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / f"layer{layer}.sae.pt")
    return folder


def equation(t: dict[str, Tensor], x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    pre = x @ t["W_enc"].T + t["b_enc"]
    kept = pre >= pre.sort(1, descending=True).values[:, k - 1 : k]
    latents = torch.where(kept, pre, torch.zeros(())).relu()
    return latents, latents @ t["W_dec"].T + t["b_dec"]


@pytest.mark.parametrize("cache", [False, True], ids=["folder", "hub cache"])
def test_equation_with_k_of_the_name(tmp_path: Path, cache: bool) -> None:
    root = tmp_path / (f"models--Qwen--{REPO}/snapshots/0af" if cache else REPO)
    sae = load_sae(written(root, tensors(WIDE)) / "layer7.sae.pt")
    agrees(sae, acts(), *equation(tensors(WIDE), acts(), 5))
    c = sae.config
    assert (c.format, c.activation, c.k, c.d_in, c.d_sae) == ("qwen_scope", "topk", 5, D, WIDE)
    assert (c.model_id, c.site) == ("Qwen/Qwen3-1.7B-Base", "blocks.7.hook_resid_post")
    assert c.name == f"{REPO}-layer7.sae"
    assert any(REPO in line and "k = 5" in line for line in c.assumptions)


def test_k_is_asked_for_where_no_name_says_it(tmp_path: Path) -> None:
    """Pre-activations that are negative among the k largest stay 0."""
    folder = written(tmp_path / "a", t := tensors() | {"b_enc": rand(S, seed=3) - 25})
    with pytest.raises(InputError, match="--set k=50"):
        load_sae(folder)
    sae = load_sae(folder, given={"k": "6"})
    latents, recon = equation(t, acts(), 6)
    agrees(sae, acts(), latents, recon)
    assert bool(((latents != 0).sum(1) < 6).any())
    assert sae.config.model_id is None
    assert inspect_sae(folder, given={"k": "6"})["site"] == "blocks.7.hook_resid_post"
    with pytest.raises(InputError, match="whole number"):
        load_sae(folder, given={"k": "many"})
    with pytest.raises(InputError, match="k between 1 and d_sae=40"):
        load_sae(folder, given={"k": "41"})


def test_k_is_not_asked_for_where_a_name_says_it(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / REPO, tensors(WIDE)), given={"k": "6"})
    assert sae.config.k == 5
    assert any("--set k moves nothing" in line for line in sae.config.warnings)


def test_a_folder_of_layers(tmp_path: Path) -> None:
    for layer in (3, 7, 11):
        written(tmp_path / REPO, tensors(WIDE), layer)
    with pytest.raises(InputError, match="3 SAEs"):
        load_sae(tmp_path / REPO)
    rows = list_saes(tmp_path / REPO)
    assert {row["site"] for row in rows} == {f"blocks.{n}.hook_resid_post" for n in (3, 7, 11)}
    assert all(row["refused"] is None for row in rows)


@pytest.mark.parametrize(
    ("repo", "model", "k"),
    [
        ("SAE-Res-Qwen3.5-27B-W1K-L0_100", "Qwen/Qwen3.5-27B", 100),
        ("SAE-Res-Qwen3-30B-A3B-Base-W1K-L0_50", "Qwen/Qwen3-30B-A3B-Base", 50),
    ],
)
def test_names(tmp_path: Path, repo: str, model: str, k: int) -> None:
    c = load_sae(written(tmp_path / repo, tensors(WIDE))).config
    assert (c.model_id, c.k) == (model, k)


def test_a_name_that_contradicts_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 40 latents, but the name.*says 1024"):
        load_sae(written(tmp_path / REPO, tensors()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"b_dec": None}, "lacks the tensor 'b_dec'"),
        ({"W_dec": None}, "lacks the tensor 'W_dec'"),
        ({"W_dec": rand(S, D)}, r"W_dec is \[40, 12\], expected \[12, 40\]"),
        ({"b_enc": rand(S + 1)}, r"b_enc is \[41\], expected \[40\]"),
        ({"W_enc": rand(D, S)}, r"expected \[40, 12\] by W_enc"),
        ({"W_enc": rand(S)}, "'W_enc' should be a matrix"),
    ],
)
def test_damage(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    kept = {key: one for key, one in (tensors() | changed).items() if one is not None}
    with pytest.raises(InputError, match=said) as caught:
        load_sae(written(tmp_path / "a", kept), given={"k": "4"})
    assert "layer7.sae.pt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_named_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", tensors())
    (folder / "layer7.sae.pt").write_bytes(b"PK\x03\x04cut")
    with pytest.raises(InputError, match=r"layer7\.sae\.pt is not a whole"):
        load_sae(folder)
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(written(tmp_path / "b", {"conv.weight": rand(3, 3)}))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"no layer<n>\.sae\.pt"):
        load_sae(tmp_path / "none", format="qwen_scope")
