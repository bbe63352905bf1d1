"""Llama Scope's files: scales folded in as the authors fold them, the subfolder of weights, and what is asked for and refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, load_sae
from saebench.sae.find import locate
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees
from tests.sae.formats.moss import ACROSS, OUT_SITE, SITE, STREAM, V1, V2, linear, stored, write

FINAL = "checkpoints/final.safetensors"
NORM_OF_STREAM = {f"dataset_average_activation_norm.{STREAM}": torch.tensor(5.9)}
NORMS = {"in": 6.2, "out": 0.797}


def written(folder: Path, tensors: dict[str, Tensor] | None = None, where: str = FINAL, **settings: Any) -> Path:
    return write(folder, V1 | settings, linear(tensors or stored()), where)


def authors(t: dict[str, Tensor], x: Tensor, nin: float, nout: float, keep: Any, shift: bool = False) -> tuple[Tensor, Tensor]:
    """The library's own order: biases and decoder to the model's scale, then decoders of norm 1, then the activation."""
    dec, b_dec = t["W_D"] * (nin / nout), t["b_D"] / nout
    dn = dec.norm(dim=1)
    pre = (x - (b_dec if shift else 0)) @ (t["W_E"] * dn) + t["b_E"] / nin * dn
    latents = keep(pre)
    return latents, latents @ (dec / dn[:, None]) + b_dec


def over(threshold: float) -> Any:
    return lambda pre: pre * (pre > threshold)


def largest(k: int) -> Any:
    def keep(pre: Tensor) -> Tensor:
        top = pre.relu().topk(k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values)

    return keep


def scales(norms: dict[str, float]) -> tuple[float, float]:
    return D**0.5 / norms["in"], D**0.5 / norms["out"]


def test_an_sae_of_the_stream(tmp_path: Path) -> None:
    folder = written(tmp_path / "Llama3_1-8B-Base-L18R-8x")
    sae, x = load_sae(folder), acts()
    agrees(sae, x, *authors(stored(), x, *scales(V1["dataset_average_activation_norm"]), over(0.7)))
    c = sae.config
    assert (c.format, c.architecture, c.activation, c.site, c.site_out) == ("openmoss_v1", "jumprelu", "jumprelu", STREAM, None)
    assert (c.model_id, c.context_length, c.prepend_bos) == ("meta-llama/Llama-3.1-8B", 1024, True)
    assert any("Llama3_1-8B-Base-L18R-8x" in line for line in c.assumptions)


def test_a_transcoder_has_two_scales(tmp_path: Path) -> None:
    """What is read has norm 6.2 and what is written 0.797, so a loader with one factor is off by 8."""
    sae = load_sae(written(tmp_path / "a", **ACROSS, dataset_average_activation_norm=NORMS))
    agrees(sae, acts(), *authors(stored(), acts(), *scales(NORMS), over(0.7)))
    assert (sae.config.site, sae.config.site_out, sae.config.architecture) == (SITE, OUT_SITE, "jumprelu_transcoder")
    assert sae.config.model_id is None


def test_the_threshold_is_in_output_units(tmp_path: Path) -> None:
    """Trap 8: the same files read with the threshold on scaled pre-activations would keep other latents."""
    sae, x, t = load_sae(written(tmp_path / "a")), acts(), stored()
    nin, _ = scales(V1["dataset_average_activation_norm"])
    scaled = (x * nin) @ t["W_E"] + t["b_E"]
    assert not torch.equal(sae.encode(x).to_dense() != 0, scaled > 0.7 * nin)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(S))


@pytest.mark.parametrize(
    ("settings", "keep"),
    [
        ({"act_fn": "topk", "jump_relu_threshold": 0.7}, over(0.7)),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0}, largest(5)),
        ({"act_fn": "TopK", "jump_relu_threshold": None}, largest(5)),
        ({"act_fn": "relu", "jump_relu_threshold": 0.0}, torch.relu),
    ],
)
def test_activations(tmp_path: Path, settings: dict[str, Any], keep: Any) -> None:
    """Topk with a threshold is jumprelu, as the library converts it."""
    sae = load_sae(written(tmp_path / "a", **settings, dataset_average_activation_norm=NORMS))
    agrees(sae, acts(), *authors(stored(), acts(), *scales(NORMS), keep))
    converted = settings["act_fn"] == "topk" and bool(settings["jump_relu_threshold"])
    assert any("taken as jumprelu" in line for line in sae.config.assumptions) == converted


def test_relu_reconstructs_as_in_the_scaled_space(tmp_path: Path) -> None:
    """Folding moves scales about and changes no recon: the identity that the fold rests on."""
    sae, x, t = load_sae(written(tmp_path / "a", act_fn="relu", dataset_average_activation_norm=NORMS)), acts(), stored()
    nin, nout = scales(NORMS)
    plain = (((x * nin) @ t["W_E"] + t["b_E"]).relu() @ t["W_D"] + t["b_D"]) / nout
    torch.testing.assert_close(sae.reconstruct(x), plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["inference", "none", None])
def test_without_scales(tmp_path: Path, kind: str | None) -> None:
    settings = {"norm_activation": kind, "dataset_average_activation_norm": None, "sparsity_include_decoder_norm": False}
    sae, x, t = load_sae(written(tmp_path / "a", **settings)), acts(), stored()
    latents = over(0.7)(x @ t["W_E"] + t["b_E"])
    agrees(sae, x, latents, latents @ t["W_D"] + t["b_D"])
    assert sae.config.normalisation == "none"


def test_token_wise(tmp_path: Path) -> None:
    sae, x, t = load_sae(written(tmp_path / "a", norm_activation="token-wise")), acts(), stored()
    factor = D**0.5 / x.norm(dim=1, keepdim=True)
    latents, recon = authors(t, x * factor, 1, 1, over(0.7))
    agrees(sae, x, latents, recon / factor)
    assert sae.config.normalisation == "unit_norm"
    with pytest.raises(InputError, match="token-wise"):
        load_sae(written(tmp_path / "b", **ACROSS, norm_activation="token-wise"))


def test_b_dec_before_the_encoder_only_with_its_flag(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "a", apply_decoder_bias_to_pre_encoder=True))
    agrees(sae, acts(), *authors(stored(), acts(), *scales(V1["dataset_average_activation_norm"]), over(0.7), shift=True))
    assert load_sae(written(tmp_path / "b")).weights.b_in is None


def test_without_a_decoder_bias(tmp_path: Path) -> None:
    t = stored()
    sae = load_sae(written(tmp_path / "a", {k: v for k, v in t.items() if k != "b_D"}, use_decoder_bias=False))
    t["b_D"] = torch.zeros(D)
    agrees(sae, acts(), *authors(t, acts(), *scales(V1["dataset_average_activation_norm"]), over(0.7)))


def test_half_precision_is_folded_in_float32(tmp_path: Path) -> None:
    """Published files are bfloat16; rounding once more after the fold would be off by 4e-3."""
    t = {key: one.to(torch.bfloat16) for key, one in stored().items()}
    sae = load_sae(written(tmp_path / "a", t, dataset_average_activation_norm=NORMS))
    wide = {key: one.float() for key, one in t.items()}
    agrees(sae, acts(), *authors(wide, acts(), *scales(NORMS), over(0.7)))


def test_a_latent_without_decoder_never_fires(tmp_path: Path) -> None:
    """The library divides by its norm, 0."""
    t = stored()
    t["W_D"][7] = 0
    assert not bool((load_sae(written(tmp_path / "a", t)).encode(acts()).to_dense()[:, 7] != 0).any())


def test_weights_are_taken_in_the_librarys_order(tmp_path: Path) -> None:
    other = stored() | {"b_D": 3 * stored()["b_D"]}
    folder = written(tmp_path / "a")
    written(folder, other, "checkpoints/pruned.pt")
    nin, nout = scales(V1["dataset_average_activation_norm"])
    agrees(load_sae(folder), acts(), *authors(other, acts(), nin, nout, over(0.7)))
    agrees(load_sae(folder / FINAL), acts(), *authors(stored(), acts(), nin, nout, over(0.7)))
    agrees(load_sae(folder / "checkpoints"), acts(), *authors(other, acts(), nin, nout, over(0.7)))


@pytest.mark.parametrize(
    ("settings", "tensors", "where"),
    [
        (V1, linear(stored()), "checkpoints/final.pt"),
        (V2 | {"act_fn": "relu"}, linear(stored()) | NORM_OF_STREAM, "sae_weights.pt"),
        (V2 | {"act_fn": "topk"}, stored() | NORM_OF_STREAM, "sae_weights.pt"),
    ],
    ids=["v1", "v2", "v3"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_scales_are_folded_into_tensors_of_their_own(
    tmp_path: Path, settings: dict, tensors: dict[str, Tensor], where: str, zipped: bool
) -> None:
    """A torch file stays open after its headers were read: what is folded in place must not be folded again."""
    folder = write(tmp_path / "a", settings, tensors, where)
    if not zipped:
        torch.save({"sae": tensors}, folder / where, _use_new_zipfile_serialization=False)
    found = locate(folder)
    entry = found.member.read(found.source)
    first, second, third = (SAE(entry.config, one()).sha256 for one in (entry.weights, entry.weights, entry.weights))
    assert first == second == third
    assert SAE(entry.config, found.member.read(found.source).weights()).sha256 == first


def test_a_listing_shows_each_folder_once(tmp_path: Path) -> None:
    for layer in (3, 12):
        written(tmp_path / f"run/Llama3_1-8B-Base-L{layer}R-8x", hook_point_in=f"blocks.{layer}.hook_resid_post")
        shutil.copy(tmp_path / f"run/Llama3_1-8B-Base-L{layer}R-8x/{FINAL}", tmp_path / f"run/{layer}.bin")
    rows = list_saes(tmp_path / "run")
    names = [str(row["path"]).rsplit("/", 1)[1] for row in rows]
    assert names == ["Llama3_1-8B-Base-L12R-8x", "Llama3_1-8B-Base-L3R-8x"]
    assert {row["format"] for row in rows} == {"openmoss_v1"}
    with pytest.raises(InputError, match="2 SAEs"):
        load_sae(tmp_path / "run")
    one = inspect_sae(tmp_path / "run/Llama3_1-8B-Base-L3R-8x", hash=False)
    files = [file for file in (tmp_path / "run/Llama3_1-8B-Base-L3R-8x").rglob("*") if file.is_file()]
    assert one["bytes"] == sum(file.stat().st_size for file in files) and len(files) > 1
    assert one["tensors"] == {"encoder.weight": [S, D], "encoder.bias": [S], "decoder.weight": [D, S], "decoder.bias": [D]}


def test_links_stay_in_the_folder(tmp_path: Path) -> None:
    """A link from checkpoints/ to elsewhere in the folder is followed, one that leads out is not, nor a linked checkpoints/."""
    folder = written(tmp_path / "a")
    (folder / FINAL).rename(folder / "blob")
    (folder / FINAL).symlink_to("../blob")
    assert load_sae(folder).config.d_sae == S
    (folder / FINAL).unlink()
    (folder / "blob").rename(tmp_path / "blob")
    (folder / FINAL).symlink_to("../../blob")
    with pytest.raises(InputError, match="leads out of"):
        load_sae(folder)
    other = written(tmp_path / "b")
    (other / "checkpoints").rename(tmp_path / "elsewhere")
    (other / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="leads out of"):
        load_sae(other)


def test_a_missing_norm_is_asked_for(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", dataset_average_activation_norm=None)
    with pytest.raises(InputError, match=r"lack that norm.*--set norm_scale"):
        load_sae(folder)
    agrees(load_sae(folder, given={"norm_scale": "0.5"}), acts(), *authors(stored(), acts(), 0.5, 0.5, over(0.7)))
    for wrong in ("0", "-1", "nan"):
        with pytest.raises(InputError, match="norm_scale"):
            load_sae(folder, given={"norm_scale": wrong})
    both = load_sae(written(tmp_path / "b"), given={"norm_scale": "0.5"})
    assert any("norm_scale moves nothing" in line for line in both.config.warnings)
    with pytest.raises(InputError, match=f"lack the average norm of what it writes .{OUT_SITE}"):
        load_sae(written(tmp_path / "c", **ACROSS, dataset_average_activation_norm={"in": 6.2}))


def test_a_missing_k_is_asked_for(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", act_fn="topk", jump_relu_threshold=0, top_k=None)
    with pytest.raises(InputError, match=r"hyperparams.json does not say top_k.*--set k"):
        load_sae(folder)
    assert load_sae(folder, given={"k": "4"}).config.k == 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"norm_activation": "batch-wise"}, "batch-wise"),
        ({"norm_activation": "sideways"}, "sideways"),
        ({"use_glu_encoder": True}, "gated linear unit"),
        ({"act_fn": "batchtopk"}, "whole batch"),
        ({"act_fn": "gelu"}, "gelu"),
        ({"jump_relu_threshold": None}, "no jump_relu_threshold"),
        ({"jump_relu_threshold": -0.1}, "0 or more"),
        ({"jump_relu_threshold": "0.1"}, "0 or more"),
        ({"d_model": 13}, "d_model is 13"),
        ({"d_sae": 41}, "41 latents"),
        ({"dataset_average_activation_norm": {"in": 0, "out": 1}}, "positive number, found 0"),
        ({"dataset_average_activation_norm": [1, 2]}, "'in' and 'out'"),
        ({"sparsity_include_decoder_norm": "yes"}, "true or false"),
        ({"hook_point_in": 3}, "hook_point_in"),
    ],
)
def test_refusals(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = written(tmp_path / "a", **settings)
    with pytest.raises(InputError, match=said) as caught:
        load_sae(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list_saes(tmp_path)[0]["refused"] is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"b_E": None}, "encoder.bias"),
        ({"W_D": None}, "decoder.weight"),
        ({"b_E": torch.ones(S + 1)}, "41"),
        ({"W_D": torch.ones(S - 1, D)}, "39"),
        ({"W_E": torch.ones(S)}, "encoder.weight"),
        ({"encoder_glu.weight": torch.ones(S, D)}, "gated linear unit"),
        ({"W_E": torch.ones(D, S, dtype=torch.int8)}, "int8"),
        ({"b_D": torch.full((D,), float("nan"))}, "NaN"),
    ],
)
def test_damaged_tensors(tmp_path: Path, changed: dict[str, Tensor | None], said: str) -> None:
    t = {key: one for key, one in (stored() | changed).items() if one is not None}
    with pytest.raises(InputError, match=said):
        load_sae(written(tmp_path / "a", t))


def test_damaged_files(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    (folder / FINAL).write_bytes(b"cut")
    with pytest.raises(InputError, match=r"final\.safetensors is not a whole safetensors file"):
        load_sae(folder)
    (written(tmp_path / "b", where="checkpoints/final.pt") / "checkpoints/final.pt").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"final\.pt"):
        load_sae(tmp_path / "b")
    torch.save({"sae": torch.ones(3)}, tmp_path / "b/checkpoints/final.pt")
    with pytest.raises(InputError, match=r"final\.pt"):
        load_sae(tmp_path / "b")
    (folder / "checkpoints").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(folder)
    with pytest.raises(InputError, match="weights beside it"):
        load_sae(folder, format="openmoss_v1")
