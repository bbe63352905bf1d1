"""Formats from the files alone: detection, the traps of each, and refusals. tests/peers has the libraries as oracles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae, save_native
from saebench.sae.inspect import inspect_sae
from tests.metrics.conftest import random_sae

D, S = 12, 40


def tensors(**more: Tensor) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    return {
        "W_enc": torch.randn(D, S, generator=g),
        "b_enc": torch.randn(S, generator=g),
        "W_dec": torch.randn(S, D, generator=g),
        "b_dec": torch.randn(D, generator=g),
        **more,
    }


def sae_lens_folder(folder: Path, cfg: dict, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": S} | cfg))
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    return folder


def dl_folder(folder: Path, dict_class: str, weights: dict[str, Tensor], **trainer: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class, **trainer}}))
    return folder


def acts() -> Tensor:
    return torch.randn(20, D, generator=torch.Generator().manual_seed(6))


def test_native_round_trip(tmp_path: Path) -> None:
    sae = random_sae(D, S, k=3, model_id="some/model", context_length=99)
    save_native(sae, tmp_path / "x", training={"recipe": "none"})
    back = load_sae(tmp_path / "x")
    assert back.sha256 == sae.sha256
    assert back.config.model_id == "some/model"
    assert back.config.context_length == 99
    assert torch.equal(back.reconstruct(acts()), sae.reconstruct(acts()))
    config = json.loads((tmp_path / "x/config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps(config | {"nromalisation": "none"}))
    with pytest.raises(InputError, match="Did you mean 'normalisation'"):
        load_sae(tmp_path / "x")


LEGACY = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "dtype": "torch.float32",
    "context_size": 128,
}


def test_legacy_configuration_of_early_2024(tmp_path: Path) -> None:
    """The layout of the well-known GPT-2 SAEs: flat, hook_point, no word on centring."""
    sae = load_sae(sae_lens_folder(tmp_path / "a", LEGACY, tensors()))
    t, c = tensors(), sae.config
    assert (c.site, c.model_id, c.context_length, c.residual) == ("blocks.8.hook_resid_pre", "gpt2-small", 128, "centred")
    assert any("centred" in a and "hook_point" in a for a in c.assumptions)
    expected = ((acts() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(sae.reconstruct(acts()), expected, rtol=1e-5, atol=1e-4)


def test_legacy_centring_is_read_where_it_is_said(tmp_path: Path) -> None:
    raw = LEGACY | {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
    assert load_sae(sae_lens_folder(tmp_path / "a", raw, tensors())).config.residual == "raw"
    newer = {
        "metadata": {"hook_name": "blocks.0.hook_resid_pre", "model_from_pretrained_kwargs": {"center_writing_weights": True}}
    }
    assert load_sae(sae_lens_folder(tmp_path / "b", newer, tensors())).config.residual == "centred"
    silent = {"metadata": {"hook_name": "blocks.0.hook_resid_pre"}}
    assert load_sae(sae_lens_folder(tmp_path / "c", silent, tensors())).config.residual == "raw"


def test_legacy_top_k_and_scaling_factor(tmp_path: Path) -> None:
    cfg = LEGACY | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": False}
    scale = torch.linspace(0.5, 2, S)
    sae = load_sae(sae_lens_folder(tmp_path / "a", cfg, tensors(scaling_factor=scale)))
    assert sae.config.k == 4
    assert (sae.encode(acts()).l0() <= 4).all()
    torch.testing.assert_close(sae.W_dec, tensors()["W_dec"] * scale[:, None])
    ones = load_sae(sae_lens_folder(tmp_path / "b", cfg, tensors(scaling_factor=torch.ones(S))))
    assert torch.equal(ones.W_dec, tensors()["W_dec"])


def test_old_log_threshold(tmp_path: Path) -> None:
    weights = tensors(log_threshold=torch.linspace(-2, 0, S))
    sae = load_sae(sae_lens_folder(tmp_path / "a", LEGACY | {"architecture": "jumprelu"}, weights))
    torch.testing.assert_close(sae.weights.threshold, torch.linspace(-2, 0, S).exp())


def test_expected_average_only_in_is_no_op_and_warned_of(tmp_path: Path) -> None:
    plain = load_sae(sae_lens_folder(tmp_path / "a", LEGACY, tensors()))
    flagged = load_sae(sae_lens_folder(tmp_path / "b", LEGACY | {"normalize_activations": "expected_average_only_in"}, tensors()))
    assert torch.equal(plain.reconstruct(acts()), flagged.reconstruct(acts()))
    assert any("expected_average_only_in" in w for w in flagged.config.warnings)


@pytest.mark.parametrize("architecture", ["temporal", "matching_pursuit", "frobnicated"])
def test_architectures_that_are_refused_by_name(tmp_path: Path, architecture: str) -> None:
    with pytest.raises(InputError, match=architecture):
        load_sae(sae_lens_folder(tmp_path / "a", LEGACY | {"architecture": architecture}, tensors()))


def test_never_estimated_threshold_is_refused(tmp_path: Path) -> None:
    t = tensors()
    weights = {
        "encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "decoder.weight": t["W_dec"].T.contiguous(),
        "b_dec": t["b_dec"], "k": torch.tensor(4), "threshold": torch.tensor(-1.0),
    }  # fmt: skip
    with pytest.raises(InputError, match="never estimated"):
        load_sae(dl_folder(tmp_path / "a", "BatchTopKSAE", weights))
    topk = load_sae(dl_folder(tmp_path / "b", "AutoEncoderTopK", weights))
    assert (topk.encode(acts()).l0() <= 4).all(), "AutoEncoderTopK saves a threshold and does not use it"


def test_dictionary_learning_keeps_small_decoder_norms(tmp_path: Path) -> None:
    """The library's loader renormalises the decoder by default, which changes the latents; ours must not."""
    t = tensors()
    weights = {
        "encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"],
        "decoder.weight": 0.1 * t["W_dec"].T.contiguous(), "bias": t["b_dec"],
    }  # fmt: skip
    sae = load_sae(dl_folder(tmp_path / "a", "AutoEncoder", weights, submodule_name="resid_post_layer_2"))
    expected = ((acts() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    torch.testing.assert_close(sae.encode(acts()).to_dense(), expected, rtol=1e-5, atol=1e-5)
    assert sae.config.site == "blocks.2.hook_resid_post"


def test_backup_from_the_middle_of_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="normalised units"):
        load_sae(dl_folder(tmp_path / "a", "AutoEncoder", {"ae": {}, "optimizer": {}}))


def sparsify_folder(folder: Path, cfg: dict, **more: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    t = tensors()
    weights = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "W_dec": t["W_dec"], "b_dec": t["b_dec"]}
    save_file(weights | more, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 4, "d_in": D, "num_latents": 0, "expansion_factor": 32} | cfg))
    return folder


def test_sparsify_takes_the_width_from_the_tensor_and_the_site_from_the_folder(tmp_path: Path) -> None:
    sae = load_sae(sparsify_folder(tmp_path / "layers.3", {}))
    assert (sae.config.d_sae, sae.config.site) == (S, "blocks.3.hook_resid_post")
    assert load_sae(sparsify_folder(tmp_path / "h.3.mlp", {})).config.site == "blocks.3.hook_mlp_out"
    assert load_sae(sparsify_folder(tmp_path / "layers.3.self_attn", {})).config.site == "blocks.3.hook_attn_out"
    transcoder = load_sae(sparsify_folder(tmp_path / "layers.1.mlp", {"transcode": True}))
    assert (transcoder.config.site, transcoder.config.site_out) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    t = tensors()
    expected = ((acts() - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).topk(4, 1).values.relu().sum(1)
    torch.testing.assert_close(sae.encode(acts()).l1().float(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cfg", "said"), [({"signed": True}, "signed"), ({"activation": "softmax"}, "softmax"), ({"d_in": 13}, "13")]
)
def test_sparsify_refusals(tmp_path: Path, cfg: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_sae(sparsify_folder(tmp_path / "layers.3", cfg))


def test_cross_layer_transcoders_are_recognised_and_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cross-layer"):
        load_sae(sparsify_folder(tmp_path / "layers.3", {}, **{"W_decs.0": torch.zeros(2, 2)}))


def test_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"ae\.pt.*cfg\.json \+ sae_weights\.safetensors"):
        load_sae(tmp_path)


def test_several_formats_in_one_folder_are_refused_with_the_choices(tmp_path: Path) -> None:
    sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    sparsify_folder(tmp_path / "a", {})
    with pytest.raises(InputError, match=r"sae_lens, sparsify.*--format"):
        load_sae(tmp_path / "a")


def test_a_folder_of_several_saes_names_them_and_of_one_takes_it(tmp_path: Path) -> None:
    sparsify_folder(tmp_path / "run/layers.1", {})
    assert load_sae(tmp_path / "run").config.site == "blocks.1.hook_resid_post"
    assert load_sae(tmp_path / "run/layers.1/sae.safetensors").config.site == "blocks.1.hook_resid_post"
    sparsify_folder(tmp_path / "run/layers.2", {})
    with pytest.raises(InputError, match=r"2 SAEs.*layers\.1, layers\.2"):
        load_sae(tmp_path / "run")


def test_overrides_are_warned_of(tmp_path: Path) -> None:
    folder = sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    sae = load_sae(folder, site="blocks.5.hook_resid_pre", model_id="other/model", residual="raw")
    assert sae.config.site == "blocks.5.hook_resid_pre"
    assert len([w for w in sae.config.warnings if "overridden" in w]) == 3


def test_inspect_is_plain_data(tmp_path: Path) -> None:
    about = inspect_sae(sae_lens_folder(tmp_path / "a", LEGACY, tensors()))
    assert json.loads(json.dumps(about)) == about
    assert {"format", "architecture", "site", "model_id", "normalisation", "residual", "sha256", "tensors", "dtype"} <= set(about)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    weights = tensors()
    del weights["b_dec"]
    with pytest.raises(InputError, match="b_dec"):
        load_sae(sae_lens_folder(tmp_path / "a", LEGACY, weights))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    sae = load_sae(sae_lens_folder(tmp_path / "a", LEGACY, {k: v.to(torch.bfloat16) for k, v in tensors().items()}))
    assert sae.dtype == torch.float32


def test_a_header_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    folder = sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    (folder / "sae_weights.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="header claims"):
        load_sae(folder)
