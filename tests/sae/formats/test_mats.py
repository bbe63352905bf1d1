"""mats_sae_training and what was made of it: equations, sites, sparsities beside SAEs, refusals. Hostile files: test_inert."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, load_sae
from saebench.sae.find import find_all
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import OUT, D, S, acts, agrees, rand
from tests.sae.formats.mats_files import (
    NAME,
    SETTINGS,
    SPARSITY,
    TRANSCODER,
    VISION,
    module,
    state,
    transcoder_state,
    write,
    write_sparsity,
)


def encoded(t: dict[str, Tensor], x: Tensor) -> Tensor:
    return ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).clamp_min(0)


def refused(path: Path, *said: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_sae(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    for text in (str(path), *said):
        assert text in line, line
    return line


@pytest.mark.parametrize("zipped", [True, False])
def test_the_published_layout(tmp_path: Path, zipped: bool) -> None:
    file = write(tmp_path / "repo" / NAME, zipped=zipped)
    sae, t, x = load_sae(file), state(), acts()
    latents = encoded(t, x)
    agrees(sae, x, latents, latents @ t["W_dec"] + t["b_dec"])
    c = sae.config
    assert (c.format, c.architecture, c.site, c.site_out, c.model_id) == (
        "mats", "standard", "blocks.8.hook_resid_pre", None, "gpt2-small",
    )  # fmt: skip
    assert (c.context_length, c.residual, c.normalisation, c.prepend_bos) == (128, "centred", "none", None)
    assert any("centred" in line and "default processing" in line for line in c.assumptions)
    assert not c.warnings
    assert c.name == "repo-" + NAME.removesuffix(".pt")
    about = inspect_sae(file)
    assert (about["format"], about["sha256"], about["d_sae"]) == ("mats", sae.sha256, S)
    assert inspect_sae(file, hash=False)["tensors"] == {f"state_dict/{key}": list(one.shape) for key, one in t.items()}


@pytest.mark.parametrize(
    ("package", "kind"), [("sae_lens.training.config", "LanguageModelSAERunnerConfig"), ("sae_training", "Cfg")]
)
def test_other_names_of_file_and_class(tmp_path: Path, package: str, kind: str) -> None:
    file = write(tmp_path / "layer8.pt", package=package, kind=kind)
    assert load_sae(file).sha256 == load_sae(write(tmp_path / "b" / NAME)).sha256


def test_plain_settings_need_no_stand_in(tmp_path: Path) -> None:
    torch.save({"cfg": {"hook_point": "blocks.2.hook_mlp_out"}, "state_dict": state()}, tmp_path / "a.pt")
    sae = load_sae(tmp_path / "a.pt")
    assert (sae.config.format, sae.config.site, sae.config.residual) == ("mats", "blocks.2.hook_mlp_out", "centred")


def test_sparsities_beside_saes_are_none_and_disturb_nothing(tmp_path: Path) -> None:
    write(tmp_path / "one" / NAME)
    write_sparsity(tmp_path / "one" / SPARSITY)
    assert load_sae(tmp_path / "one").config.site == "blocks.8.hook_resid_pre"
    other = NAME.replace("blocks.8", "blocks.9")
    write(tmp_path / "two" / NAME)
    write(tmp_path / "two" / other, SETTINGS | {"hook_point": "blocks.9.hook_resid_pre"})
    for name in (SPARSITY, SPARSITY.replace("blocks.8", "blocks.9")):
        write_sparsity(tmp_path / "two" / name)
    found = find_all(tmp_path / "two")
    assert [(one.format, one.source.file) for one in found] == [("mats", NAME), ("mats", other)]
    with pytest.raises(InputError, match="holds 2 SAEs"):
        load_sae(tmp_path / "two")
    assert load_sae(tmp_path / "two" / other).config.site == "blocks.9.hook_resid_pre"
    refused(tmp_path / "two" / SPARSITY, "no SAE of a known format")


def test_other_torch_files_are_not_taken_for_it(tmp_path: Path) -> None:
    for content in ({"state_dict": {"weight": rand(D, S)}}, dict(state()), rand(3), [1, 2]):
        torch.save(content, tmp_path / "x.pt")
        try:
            found = [one.format for one in find_all(tmp_path)]
        except InputError:
            found = []
        assert "mats" not in found, content


def test_a_transcoder_takes_b_dec_off_and_adds_b_dec_out(tmp_path: Path) -> None:
    file = write(
        tmp_path / "final_sparse_autoencoder_gpt2-small_blocks.8.ln2.hook_normalized_24576.pt", TRANSCODER, transcoder_state()
    )
    sae, t, x = load_sae(file), transcoder_state(), acts()
    latents = encoded(t, x)
    agrees(sae, x, latents, latents @ t["W_dec"] + t["b_dec_out"])
    c = sae.config
    assert (c.architecture, c.site, c.site_out) == ("transcoder", "blocks.8.ln2.hook_normalized", "blocks.8.hook_mlp_out")
    assert (c.d_in, c.d_out, c.residual, sae.is_transcoder) == (D, OUT, "centred", True), "what it writes is centred"


def test_a_transcoder_that_does_not_say_where_it_writes_is_asked(tmp_path: Path) -> None:
    file = write(tmp_path / NAME, TRANSCODER | {"out_hook_point": None}, transcoder_state())
    refused(file, "--set site_out=")
    assert load_sae(file, given={"site_out": "blocks.8.hook_mlp_out"}).config.site_out == "blocks.8.hook_mlp_out"
    refused(write(tmp_path / "b" / NAME, TRANSCODER), "b_dec_out")


def test_a_vision_sae_has_no_site_and_says_so(tmp_path: Path) -> None:
    sae, t, x = load_sae(write(tmp_path / "vit.pt", VISION, kind="ViTSAERunnerConfig")), state(), acts()
    latents = encoded(t, x)
    agrees(sae, x, latents, latents @ t["W_dec"] + t["b_dec"])
    assert (sae.config.site, sae.config.residual) == (None, "raw")
    assert any("vision model ('openai/clip-vit-base-patch32', 'resid' of block 10)" in line for line in sae.config.warnings)


@pytest.mark.parametrize("gate", ["b_gate", "b_enc"])
def test_gated_ones(tmp_path: Path, gate: str) -> None:
    t = state(r_mag=rand(S, seed=8, scale=0.3), b_mag=rand(S, seed=9))
    t[gate] = t.pop("b_enc")
    sae, x = load_sae(write(tmp_path / "g.pt", SETTINGS, t)), acts()
    pre = (x - t["b_dec"]) @ t["W_enc"]
    latents = ((pre + t[gate]) > 0) * ((pre * t["r_mag"].exp()) + t["b_mag"]).clamp_min(0)
    agrees(sae, x, latents, latents @ t["W_dec"] + t["b_dec"])
    assert sae.config.architecture == "gated"


def test_scaling_factor_is_folded_once_and_b_dec_left_alone(tmp_path: Path) -> None:
    scale = torch.linspace(0.5, 2, S)
    file = write(tmp_path / NAME, SETTINGS, state(scaling_factor=scale))
    sae, t, x = load_sae(file), state(), acts()
    latents = encoded(t, x)
    agrees(sae, x, latents, (latents * scale) @ t["W_dec"] + t["b_dec"])
    assert any("scaling_factor" in line for line in sae.config.assumptions)
    (found,) = find_all(file)
    entry = found.member.read(found.source)
    assert SAE(entry.config, entry.weights()).sha256 == SAE(entry.config, entry.weights()).sha256 == sae.sha256
    ones = load_sae(write(tmp_path / "b" / NAME, SETTINGS, state(scaling_factor=torch.ones(S))))
    assert torch.equal(ones.W_dec, t["W_dec"])
    refused(write(tmp_path / "c" / NAME, SETTINGS, state(scaling_factor=torch.ones(3))), "[3]", str(S))


def test_b_dec_is_not_taken_off_where_the_settings_say_so(tmp_path: Path) -> None:
    sae, t, x = load_sae(write(tmp_path / NAME, SETTINGS | {"apply_b_dec_to_input": False})), state(), acts()
    latents = (x @ t["W_enc"] + t["b_enc"]).clamp_min(0)
    agrees(sae, x, latents, latents @ t["W_dec"] + t["b_dec"])


def test_the_scale_of_its_acts_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / NAME, SETTINGS | {"normalize_activations": True})
    refused(file, "--set norm_scale=")
    for scale in ("inf", "0", "-2", "nan"):
        with pytest.raises(InputError, match="positive"):
            load_sae(file, given={"norm_scale": scale})
    sae, t, x = load_sae(file, given={"norm_scale": "0.25"}), state(), acts()
    latents = encoded(t, 0.25 * x)
    agrees(sae, x, latents, (latents @ t["W_dec"] + t["b_dec"]) / 0.25)
    off = write(tmp_path / "off.pt", SETTINGS | {"normalize_activations": False})
    assert load_sae(off).config.normalisation == "none"
    refused(write(tmp_path / "w.pt", SETTINGS | {"normalize_activations": "whitened"}), "whitened")


@pytest.mark.parametrize(
    ("settings", "residual"),
    [
        ({"model_from_pretrained_kwargs": {"center_writing_weights": False}}, "raw"),
        ({"model_from_pretrained_kwargs": {"center_writing_weights": True}}, "centred"),
        ({"model_from_pretrained_kwargs": {}}, "centred"),
        ({"hook_point": "blocks.8.hook_mlp_out"}, "centred"),
        ({"hook_point": "blocks.8.mlp.hook_post"}, "raw"),
    ],
)
def test_centring_is_of_the_stream_alone(tmp_path: Path, settings: dict[str, Any], residual: str) -> None:
    assert load_sae(write(tmp_path / NAME, SETTINGS | settings)).config.residual == residual


def test_z_is_warned_of(tmp_path: Path) -> None:
    sae = load_sae(write(tmp_path / NAME, SETTINGS | {"hook_point": "blocks.8.attn.hook_z"}))
    assert any("fold_value_biases" in line for line in sae.config.warnings)


def test_settings_may_be_missing(tmp_path: Path) -> None:
    """The site then comes from the file's name, or is asked for when it is needed."""
    named = load_sae(write(tmp_path / NAME, {})).config
    assert (named.site, named.model_id, named.context_length) == ("blocks.8.hook_resid_pre", None, None)
    assert any("file's name" in line for line in named.assumptions)
    nameless = load_sae(write(tmp_path / "x.pt", {})).config
    assert (nameless.site, nameless.residual) == (None, "centred")
    assert any("taken as centred" in line for line in nameless.assumptions), "--site may name one of the stream"
    layered = SETTINGS | {"hook_point": "blocks.{layer}.hook_resid_pre", "hook_point_layer": 3}
    assert load_sae(write(tmp_path / "y.pt", layered)).config.site == "blocks.3.hook_resid_pre"
    assert load_sae(write(tmp_path / "z.pt", layered | {"hook_point_layer": [3, 4]})).config.site is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hook_point", 5, "5"), ("hook_point", rand(40, 40), "Tensor"), ("hook_point", ["blocks"], "list"),
        ("model_name", 7, "7"),
        ("context_size", "128", "128"), ("context_size", 0, "0"), ("context_size", {}, "dict"), ("prepend_bos", "yes", "yes"),
        ("d_in", "12", "12"), ("d_in", D + 1, "13"), ("d_sae", float("nan"), "nan"), ("d_sae", S * 2, "80"),
        ("d_in", 1 << 1000, "107150860"),
        ("is_transcoder", 3, "3"), ("hook_point_head_index", 4, "single head"), ("activation_fn", "tanh-relu", "tanh-relu"),
        ("activation_fn_str", "topk", "topk"), ("normalize_activations", [1], "list"), ("apply_b_dec_to_input", "no", "no"),
        ("model_from_pretrained_kwargs", {"center_writing_weights": "perhaps"}, "center_writing_weights"),
    ],
)  # fmt: skip
def test_settings_of_wrong_kinds_are_named_in_one_line(tmp_path: Path, key: str, value: Any, said: str) -> None:
    line = refused(write(tmp_path / NAME, SETTINGS | {key: value}), said)
    assert key.removesuffix("_str") in line or key == "model_from_pretrained_kwargs"
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"W_enc": rand(D)}, "W_enc"), ({"W_enc": None}, "W_enc"), ({"b_dec": rand(D + 1)}, "b_dec"),
        ({"b_enc": rand(1, S)}, "b_enc"),
        ({"W_dec": rand(S, D + 1)}, "W_dec"), ({"W_dec": torch.ones(S, D, dtype=torch.int8)}, "int8"), ({"W_dec": "gone"}, "str"),
        ({"b_enc": torch.full((S,), torch.nan)}, "NaN"), ({"W_skip": rand(D, D)}, "W_skip"), ({"r_mag": rand(S)}, "b_mag"),
    ],
)  # fmt: skip
def test_tensors_that_are_missing_or_damaged_are_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    tensors = {key: one for key, one in {**state(), **changed}.items() if one is not None}
    refused(write(tmp_path / NAME, SETTINGS, tensors), said)


def test_other_contents_are_named(tmp_path: Path) -> None:
    refused(write(tmp_path / NAME, SETTINGS, [rand(3)]), "state_dict", "list")  # pyright: ignore[reportArgumentType]
    torch.save({"cfg": 5, "state_dict": dict(state())}, tmp_path / "five.pt")
    refused(tmp_path / "five.pt", "int")
    own = type("SparseAutoencoder", (), {})
    with module("sae_training.sparse_autoencoder", SparseAutoencoder=own):
        torch.save(own(), tmp_path / "whole.pt")
    refused(tmp_path / "whole.pt", "SparseAutoencoder")
    whole = write(tmp_path / "cut.pt")
    whole.write_bytes(whole.read_bytes()[:-3000])
    refused(whole)
    write(tmp_path / "two" / "a.pt")
    write(tmp_path / "two" / "b.pt")
    with pytest.raises(InputError, match="holds 2 SAEs; name one"):
        load_sae(tmp_path / "two", format="mats")


def test_a_group_of_saes_is_refused_with_what_to_do(tmp_path: Path) -> None:
    own = type("SAEGroup", (), {})
    with module("sae_training.sae_group", SAEGroup=own):
        group = own()
        vars(group).update(cfg=1, autoencoders=[torch.nn.Linear(2, 3)])
        torch.save(group, tmp_path / "sae_group_gpt2_blocks.8.hook_resid_pre_24576.pt")
    line = refused(tmp_path / "sae_group_gpt2_blocks.8.hook_resid_pre_24576.pt", "sae_training.sae_group.SAEGroup", "torch.save(")
    assert "nothing was executed" in line


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("name", [NAME.replace(".pt", ".pkl.gz"), NAME.replace(".pt", ".pkl"), "any.pkl"])
def test_plain_pickles_are_not_opened(tmp_path: Path, name: str) -> None:
    data = pickle.dumps({"cfg": Bomb(tmp_path / "executed"), "state_dict": {}})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    refused(tmp_path / "a" / name, "plain pickle", "torch.save(", "nothing was executed")
    if name != "any.pkl":
        with pytest.raises(InputError, match="plain pickle"):
            load_sae(tmp_path / "a")
    assert not (tmp_path / "executed").exists()


def test_a_pickle_beside_safetensors_disturbs_nothing(tmp_path: Path) -> None:
    from tests.sae.test_formats import LEGACY, sae_lens_folder, tensors

    folder = sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    (folder / NAME.replace(".pt", ".pkl.gz")).write_bytes(b"anything")
    torch.save({"optimizer": {}, "scheduler": [1]}, folder / "trainer_state.pt")
    write_sparsity(folder / SPARSITY)
    assert load_sae(folder).config.format == "sae_lens"
