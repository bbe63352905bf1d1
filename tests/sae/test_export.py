"""An exported SAE, read back by our own loader, is the same SAE; what a format cannot hold is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import InputError
from saebench.sae import SAE, SAEWeights, load_sae, save_native
from saebench.sae.export import EXPORTS, check_export, export_notes, export_sae
from saebench.sae.pursuit import Pursuit
from tests.sae.export_cases import SITE, SUPPORTED, D, S, acts, make


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def assert_same(a: SAE, b: SAE) -> None:
    x = acts()
    mine, theirs = a.encode(x), b.encode(x)
    assert theirs.l0().sum() > 0
    assert relative(mine.to_dense(), theirs.to_dense()) < 1e-5
    assert relative(a.reconstruct(x), b.reconstruct(x)) < 1e-5
    assert relative(a.decode(theirs, x), b.decode(theirs, x)) < 1e-5


@pytest.mark.parametrize("name", SUPPORTED)
def test_our_loader_reads_the_same_sae(name: str, tmp_path: Path) -> None:
    to, sae = SUPPORTED[name]
    folder = export_sae(sae, tmp_path / "out", to)
    for path in (folder, tmp_path / "out"):
        back = load_sae(path)
        assert_same(back, sae)
        assert back.config.format == to.replace("saelens", "sae_lens")
        assert (back.config.model_id, back.config.context_length) == ("openai-community/gpt2", 128)
        assert back.config.site == sae.config.site
        assert back.config.residual == sae.config.residual
        if to == "saelens":
            assert back.config.prepend_bos is True
            assert (back.config.site_out, back.config.architecture) == (sae.config.site_out, sae.config.architecture)
            assert back.config.normalisation == sae.config.normalisation.replace("constant_scale", "none")


def test_what_needs_no_folding_keeps_every_bit(tmp_path: Path) -> None:
    for to in EXPORTS:
        sae = make("topk")
        back = load_sae(export_sae(sae, tmp_path / to, to))
        assert all(torch.equal(t, getattr(back.weights, name)) for name, t in sae.weights.items())


@pytest.mark.parametrize(("share", "subtracts"), [(1.0, True), (1.1, True), (0.3, False), (-1.0, False)])
def test_as_little_as_possible_is_folded_for_sae_lens(share: float, subtracts: bool, tmp_path: Path) -> None:
    sae = make("topk")
    shift = share * sae.weights.b_dec
    sae = SAE(sae.config, SAEWeights(**dict(sae.weights.items()) | {"b_in": shift}))
    folder = export_sae(sae, tmp_path, "saelens")
    assert json.loads((folder / "cfg.json").read_text())["apply_b_dec_to_input"] is subtracts
    assert_same(load_sae(folder), sae)


def test_other_dtypes_are_written_in_float32(tmp_path: Path) -> None:
    sae = make("relu").to(dtype=torch.bfloat16)
    for to in ("saelens", "dictionary_learning"):
        back = load_sae(export_sae(sae, tmp_path / to, to))
        assert torch.equal(back.W_enc, sae.W_enc.float())


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        ("relu", "AutoEncoderNew"),
        ("relu-unit", "AutoEncoder"),
        ("topk", "AutoEncoderTopK"),
        ("jumprelu", "JumpReluAutoEncoder"),
        ("jumprelu-scalar", "BatchTopKSAE"),
        ("gated", "GatedAutoEncoder"),
    ],
)
@pytest.mark.parametrize("normalisation", ["none", "constant_scale"])
def test_the_class_of_dictionary_learning(activation: str, kind: str, normalisation: str, tmp_path: Path) -> None:
    folder = export_sae(make(activation, normalisation), tmp_path, "dictionary_learning")
    assert json.loads((folder / "config.json").read_text())["trainer"]["dict_class"] == kind


def test_a_scalar_threshold_below_zero_is_not_taken_for_one_never_estimated(tmp_path: Path) -> None:
    sae = make("jumprelu-scalar")
    weights = dict(sae.weights.items()) | {"threshold": torch.tensor([-0.5])}
    sae = SAE(sae.config, SAEWeights(**weights))
    assert_same(load_sae(export_sae(sae, tmp_path, "dictionary_learning")), sae)


@pytest.mark.parametrize(
    ("site", "model", "module", "read"),
    [
        ("blocks.3.hook_resid_pre", "openai-community/gpt2", "h.2", "blocks.2.hook_resid_post"),
        ("blocks.3.hook_resid_post", "EleutherAI/pythia-70m-deduped", "layers.3", "blocks.3.hook_resid_post"),
        ("blocks.3.hook_attn_out", "openai-community/gpt2", "h.3.attn", "blocks.3.hook_attn_out"),
        ("blocks.3.hook_attn_out", "EleutherAI/pythia-70m-deduped", "layers.3.attention", "blocks.3.hook_attn_out"),
        ("blocks.3.hook_attn_out", "meta-llama/Llama-3.2-1B", "layers.3.self_attn", "blocks.3.hook_attn_out"),
        ("blocks.3.hook_mlp_out", "meta-llama/Llama-3.2-1B", "layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("blocks.0.hook_resid_pre", "openai-community/gpt2", "sae", None),
        ("blocks.3.mlp.hook_post", "openai-community/gpt2", "sae", None),
        (None, None, "sae", None),
    ],
)
def test_the_module_names_of_sparsify(site: str | None, model: str | None, module: str, read: str | None, tmp_path: Path) -> None:
    sae = make("topk", site=site, model_id=model)
    folder = export_sae(sae, tmp_path, "sparsify")
    assert folder == tmp_path / module
    back = load_sae(folder)
    assert (back.config.site, back.config.model_id) == (read, model)
    renamed = [note for note in export_notes(sae, "sparsify") if "prepend_bos" not in note]
    assert bool(renamed) == (site != read)


@pytest.mark.parametrize(
    ("site", "layer"), [("blocks.3.hook_resid_pre", 2), ("blocks.3.hook_mlp_out", 3), ("blocks.0.hook_resid_pre", 0)]
)
def test_the_module_names_of_dictionary_learning(site: str, layer: int, tmp_path: Path) -> None:
    folder = export_sae(make("topk", site=site), tmp_path, "dictionary_learning")
    config = json.loads((folder / "config.json").read_text())
    assert config["trainer"]["layer"] == layer
    assert config["buffer"]["io"] == ("in" if "blocks.0" in site else "out")
    assert load_sae(folder).config.site == site


def test_notes_name_what_is_lost(tmp_path: Path) -> None:
    sae = make("jumprelu-scalar", site="blocks.1.mlp.hook_post")
    told = export_notes(sae, "dictionary_learning")
    assert [word in note for word, note in zip(("hook_post", "prepend_bos", "k of training"), told, strict=True)] == [True] * 3
    folder = export_sae(sae, tmp_path, "dictionary_learning")
    own = json.loads((folder / "config.json").read_text())["saebench"]
    assert (own["notes"], own["site"]) == (told, "blocks.1.mlp.hook_post")
    assert load_sae(folder).config.site is None
    assert export_notes(sae, "saelens") == []


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("saelens", {"activation": "groupmax"}, "no groupmax", "sparsify"),
    ("saelens", {"activation": "topk", "skip": True}, "relu or jumprelu", "sparsify"),
    ("saelens", {"activation": "relu", "normalisation": "layer_norm", "skip": True}, "skip connection", "native"),
    ("dictionary_learning", {"activation": "abstopk"}, "no abstopk", "saelens"),
    ("dictionary_learning", {"activation": "groupmax"}, "no groupmax", "sparsify"),
    ("dictionary_learning", {"activation": "topk", "normalisation": "layer_norm"}, "each token", "saelens"),
    ("dictionary_learning", {"activation": "topk", "normalisation": "unit_norm"}, "each token", "saelens"),
    ("dictionary_learning", {"activation": "topk", "residual": "centred"}, "mean", "saelens"),
    ("dictionary_learning", {"activation": "relu", "d_out": 9}, "no transcoders", "saelens"),
    ("sparsify", {"activation": "relu"}, "topk and groupmax only", "saelens or dictionary_learning"),
    ("sparsify", {"activation": "topk", "normalisation": "layer_norm"}, "each token", "saelens"),
    ("sparsify", {"activation": "groupmax", "normalisation": "unit_norm"}, "each token", "native"),
    ("sparsify", {"activation": "topk", "residual": "centred"}, "mean", "saelens"),
    ("sparsify", {"activation": "topk", "d_out": 9, "shift": "own"}, "reads 12 and writes 9", "native"),
]


_PURSUIT = {"activation": "matching_pursuit", "pursuit": Pursuit(residual_threshold=0.01, max_iterations=9)}
REFUSED += [(to, {"activation": "signed_topk", "k": 4}, "signed_topk", "native") for to in EXPORTS]
REFUSED += [(to, _PURSUIT, "matching_pursuit", "native") for to in EXPORTS]


@pytest.mark.parametrize("to", EXPORTS)
def test_a_topk_that_ranks_by_a_scale_is_refused(to: str, tmp_path: Path) -> None:
    plain = make("topk")
    sae = SAE(plain.config, SAEWeights(**dict(plain.weights.items()) | {"rank": torch.linspace(0.5, 2, S)}))
    with pytest.raises(InputError, match=rf"for {to}: .*\(rank\).*native") as caught:
        export_sae(sae, tmp_path / "out", to)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="rank"):
        check_export(plain.config, to, rank=True)


@pytest.mark.parametrize(("to", "options", "why", "instead"), REFUSED)
def test_refused_with_the_reason_and_what_to_do(to: str, options: dict[str, Any], why: str, instead: str, tmp_path: Path) -> None:
    sae = make(**options)
    with pytest.raises(InputError, match=why) as caught:
        export_sae(sae, tmp_path / "out", to)
    assert instead in str(caught.value).partition(why)[2]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=why):
        check_export(sae.config, to, skip="skip" in options)


def test_an_unknown_name_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown export 'sae_lens'.*'saelens'"):
        export_sae(make("relu"), tmp_path, "sae_lens")


def test_another_sae_in_the_folder_stays(tmp_path: Path) -> None:
    save_native(make("relu"), tmp_path / "own")
    for to in EXPORTS:
        with pytest.raises(InputError, match="already holds an SAE of the format native"):
            export_sae(make("topk"), tmp_path / "own", to)
    assert load_sae(tmp_path / "own").config.activation == "relu"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        export_sae(make("topk"), tmp_path / "file", "saelens")


def test_the_same_kind_in_the_folder_is_replaced(tmp_path: Path) -> None:
    for to in EXPORTS:
        export_sae(make("topk"), tmp_path / to, to)
        sae = make("topk", "constant_scale")
        assert_same(load_sae(export_sae(sae, tmp_path / to, to)), sae)


def test_sparsify_takes_several_sites_of_one_model_in_a_folder(tmp_path: Path) -> None:
    first = export_sae(make("topk", site="blocks.1.hook_mlp_out"), tmp_path, "sparsify")
    second = export_sae(make("topk", site=SITE), tmp_path, "sparsify")
    assert json.loads((tmp_path / "config.json").read_text())["hookpoints"] == [first.name, second.name]
    assert load_sae(first).config.site == "blocks.1.hook_mlp_out"
    with pytest.raises(InputError, match="belongs to something else"):
        export_sae(make("topk", model_id="other"), tmp_path, "sparsify")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match="belongs to something else"):
        export_sae(make("topk"), tmp_path / "model", "sparsify")


def test_shapes_are_not_square() -> None:
    assert D != S
