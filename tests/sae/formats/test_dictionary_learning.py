"""dictionary_learning from files alone: every class against its equation, checkpoints, backups, and what has to be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

TRAINER = {
    "activation_dim": D,
    "dict_size": S,
    "layer": 3,
    "lm_name": "EleutherAI/pythia-70m",
    "submodule_name": "resid_post_layer_3",
}
THETA, K = 0.9, 4


def linear(*extra: str) -> dict[str, Tensor]:
    """Return tensors named and turned as ``nn.Linear`` has them."""
    t = {"encoder.weight": rand(S, D, seed=1), "encoder.bias": rand(S, seed=2), "decoder.weight": 0.1 * rand(D, S, seed=3)}
    return t | {name: rand(D, seed=4) for name in extra}


def native() -> dict[str, Tensor]:
    return {"W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, D, seed=3), "b_dec": rand(D, seed=4)}


def scalars(theta: float = THETA) -> dict[str, Tensor]:
    return {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(theta)}


def gated() -> dict[str, Tensor]:
    t = linear("decoder_bias")
    del t["encoder.bias"]
    return t | {name: rand(S, seed=at) for at, name in enumerate(("gate_bias", "mag_bias", "r_mag"), 5)}


STATES: dict[str, dict[str, Tensor]] = {
    "AutoEncoder": linear("bias"),
    "AutoEncoderNew": linear("decoder.bias"),
    "GatedAutoEncoder": gated(),
    "JumpReluAutoEncoder": native() | {"threshold": rand(S, seed=9).abs()},
    "AutoEncoderTopK": linear("b_dec") | scalars(),
    "BatchTopKSAE": linear("b_dec") | scalars(),
    "MatryoshkaBatchTopKSAE": native() | scalars() | {"group_sizes": torch.tensor([10, S - 10])},
}


def equation(name: str, t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (latents, recon) as the class of the library computes them."""
    if name == "JumpReluAutoEncoder":
        p = x @ t["W_enc"] + t["b_enc"]
        f = p.clamp(min=0) * (p > t["threshold"])
        return f, f @ t["W_dec"] + t["b_dec"]
    if name == "MatryoshkaBatchTopKSAE":
        p = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).clamp(min=0)
        f = p * (p > t["threshold"])
        return f, f @ t["W_dec"] + t["b_dec"]
    encoder, decoder = t["encoder.weight"].T, t["decoder.weight"].T
    if name == "GatedAutoEncoder":
        m = (x - t["decoder_bias"]) @ encoder
        f = (m + t["gate_bias"] > 0) * (t["r_mag"].exp() * m + t["mag_bias"]).clamp(min=0)
        return f, f @ decoder + t["decoder_bias"]
    if name == "AutoEncoderNew":
        f = (x @ encoder + t["encoder.bias"]).clamp(min=0)
        return f, f @ decoder + t["decoder.bias"]
    bias = t["bias" if name == "AutoEncoder" else "b_dec"]
    p = ((x - bias) @ encoder + t["encoder.bias"]).clamp(min=0)
    if name == "AutoEncoderTopK":
        order = p.argsort(1, descending=True)[:, :K]
        p = torch.zeros_like(p).scatter(1, order, p.gather(1, order))
    if name == "BatchTopKSAE":
        p = p * (p > t["threshold"])
    return p, p @ decoder + bias


def folder_of(folder: Path, state: Any, trainer: dict[str, Any] | None, file: str = "ae.pt", **buffer: Any) -> Path:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / file)
    if trainer is not None:
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}))
    return folder


@pytest.mark.parametrize("name", STATES)
def test_every_class(tmp_path: Path, name: str) -> None:
    """Decoders are far from length 1: the library's loader rescales an AutoEncoder's by default, ours must not."""
    folder = folder_of(tmp_path / "trainer_0", STATES[name], TRAINER | {"dict_class": name, "k": K}, ctx_len=64)
    sae, x = load_sae(folder), acts()
    agrees(sae, x, *equation(name, STATES[name], x))
    c = sae.config
    assert (c.d_in, c.d_out, c.d_sae, c.k) == (D, D, S, K if name == "AutoEncoderTopK" else None)
    assert (c.site, c.site_out, c.model_id, c.context_length) == ("blocks.3.hook_resid_post", None, "EleutherAI/pythia-70m", 64)
    assert not c.assumptions
    assert load_sae(folder / "ae.pt").sha256 == sae.sha256
    told = inspect_sae(folder, hash=False)
    assert (told["architecture"], told["d_sae"]) == (c.architecture, S)


@pytest.mark.parametrize("name", [name for name in STATES if name not in ("AutoEncoderTopK", "BatchTopKSAE")])
def test_without_settings_the_tensors_tell_the_class(tmp_path: Path, name: str) -> None:
    sae, x = load_sae(folder_of(tmp_path / "a", STATES[name], None)), acts()
    agrees(sae, x, *equation(name, STATES[name], x))
    assert any(name in line for line in sae.config.assumptions)
    assert (sae.config.site, sae.config.model_id) == (None, None)


def test_without_settings_two_classes_have_to_be_told_apart(tmp_path: Path) -> None:
    folder, x = folder_of(tmp_path / "a", STATES["BatchTopKSAE"], None), acts()
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=r"ae\.pt.*AutoEncoderTopK and BatchTopKSAE.*--set class="):
            look(folder)
    for name in ("AutoEncoderTopK", "BatchTopKSAE"):
        sae = load_sae(folder, given={"class": name})
        agrees(sae, x, *equation(name, STATES[name], x))
        assert not sae.config.warnings
    with pytest.raises(InputError, match="Did you mean 'BatchTopKSAE'"):
        load_sae(folder, given={"class": "BatchTopKSEA"})
    clear = folder_of(tmp_path / "b", STATES["AutoEncoder"], None)
    assert any("moves nothing" in line for line in load_sae(clear, given={"class": "AutoEncoder"}).config.warnings)
    with pytest.raises(InputError, match="of no class"):
        load_sae(folder_of(tmp_path / "c", {"router.weight": rand(3, D), "encoder.weight": rand(S, D)}, None))


def test_the_trainer_names_the_class_where_dict_class_does_not(tmp_path: Path) -> None:
    x = acts()
    for trainer, name in (
        ("TrainerTopK", "AutoEncoderTopK"),
        ("BatchTopKTrainer", "BatchTopKSAE"),
        ("Unheard", "AutoEncoderNew"),
    ):
        sae = load_sae(folder_of(tmp_path / trainer, STATES[name], TRAINER | {"trainer_class": trainer}))
        agrees(sae, x, *equation(name, STATES[name], x))
    with pytest.raises(InputError, match=r"config\.json.*SwitchAutoEncoder"):
        load_sae(folder_of(tmp_path / "a", STATES["AutoEncoder"], TRAINER | {"dict_class": "SwitchAutoEncoder"}))


def test_older_topk_files_lack_threshold_and_k(tmp_path: Path) -> None:
    state, x = linear("b_dec"), acts()
    expected = equation("AutoEncoderTopK", state, x)
    agrees(load_sae(folder_of(tmp_path / "a", state, TRAINER | {"trainer_class": "TrainerTopK", "k": K})), x, *expected)
    bare = folder_of(tmp_path / "b", state, None)  # no threshold, so it cannot be a BatchTopKSAE
    with pytest.raises(InputError, match=r"ae\.pt.*--set k="):
        inspect_sae(bare)
    agrees(load_sae(bare, given={"k": str(K)}), x, *expected)
    with pytest.raises(InputError, match=r"'k' is 4, but 5"):
        load_sae(folder_of(tmp_path / "c", state | scalars(), TRAINER | {"dict_class": "AutoEncoderTopK", "k": 5}))


@pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_was_never_estimated_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "a", STATES[name] | scalars(-1.0), TRAINER | {"dict_class": name})
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=r"ae\.pt.*never estimated"):
            look(folder)


def test_topk_keeps_a_threshold_that_it_does_not_use(tmp_path: Path) -> None:
    state, x = STATES["AutoEncoderTopK"] | scalars(-1.0), acts()
    sae = load_sae(folder_of(tmp_path / "a", state, TRAINER | {"dict_class": "AutoEncoderTopK"}))
    agrees(sae, x, *equation("AutoEncoderTopK", state, x))


def test_checkpoints_are_named_as_files(tmp_path: Path) -> None:
    """They were multiplied by the norm factor like the final SAE; the settings are one folder up."""
    name, x = "BatchTopKSAE", acts()
    folder = folder_of(tmp_path / "sweep/trainer_0", STATES[name], TRAINER | {"dict_class": name})
    for step, theta in ((10, 0.5), (20, 1.5)):
        state = STATES[name] | {"threshold": torch.tensor(theta)}
        file = folder_of(folder, state, None, f"checkpoints/ae_{step}.pt") / f"checkpoints/ae_{step}.pt"
        sae = load_sae(file)
        agrees(sae, x, *equation(name, state, x))
        assert (sae.config.site, sae.config.name) == ("blocks.3.hook_resid_post", f"trainer_0-ae_{step}")
    assert [found.path for found in find_all(tmp_path)] == [str(folder)]
    (folder / "ae.pt").unlink()  # training was interrupted: then they are all there is
    assert [Path(found.path).name for found in find_all(tmp_path)] == ["ae_10.pt", "ae_20.pt"]
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"ae_10\.pt.*--set class="):
        load_sae(folder / "checkpoints/ae_10.pt")


FACTOR = 2.5


@pytest.mark.parametrize("name", STATES)
def test_backups_are_in_units_of_normalised_acts(tmp_path: Path, name: str) -> None:
    """Trained on x / n: latents and recon of raw acts are n times those of x / n."""
    state, x = STATES[name], acts()
    content = {"step": 7, "ae": state, "optimizer": {"state": {}}, "config": {"dict_class": name}, "norm_factor": FACTOR}
    latents, recon = equation(name, state, x / FACTOR)
    for trainer in (TRAINER | {"dict_class": name}, None):
        sae = load_sae(folder_of(tmp_path / str(trainer is None), content, trainer))
        agrees(sae, x, FACTOR * latents, FACTOR * recon)
        assert any("norm_factor, 2.5" in line for line in sae.config.assumptions)


def test_backups_without_a_factor(tmp_path: Path) -> None:
    state, x = STATES["AutoEncoder"], acts()
    content = {"ae": state, "optimizer": {}}
    trainer = TRAINER | {"dict_class": "AutoEncoder"}
    folder = folder_of(tmp_path / "a", content, trainer)
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=r"ae\.pt.*normalised units.*--set norm_scale="):
            look(folder)
    latents, recon = equation("AutoEncoder", state, x / FACTOR)
    agrees(load_sae(folder, given={"norm_scale": str(1 / FACTOR)}), x, FACTOR * latents, FACTOR * recon)
    agrees(load_sae(folder_of(tmp_path / "b", content, trainer | {"norm_factor": FACTOR})), x, FACTOR * latents, FACTOR * recon)
    none = load_sae(folder_of(tmp_path / "c", content | {"norm_factor": None}, trainer))
    agrees(none, x, *equation("AutoEncoder", state, x))
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="norm_factor should be a positive number"):
            load_sae(folder_of(tmp_path / "d", content | {"norm_factor": wrong}, trainer))


@pytest.mark.parametrize(
    ("trainer", "io", "site", "site_out"),
    [
        ({"submodule_name": "resid_post_layer_3"}, None, "blocks.3.hook_resid_post", None),
        ({"submodule_name": "resid_post_layer_3"}, "in", "blocks.3.hook_resid_pre", None),
        ({"submodule_name": "resid_pre_layer_3"}, "in", "blocks.3.hook_resid_pre", None),
        ({"submodule_name": "mlp_layer_3"}, "out", "blocks.3.hook_mlp_out", None),
        ({"submodule_name": "mlp_out_layer3"}, "out", "blocks.3.hook_mlp_out", None),
        ({"submodule_name": "mlp_layer_3"}, "in", "blocks.3.mlp.hook_in", None),
        ({"submodule_name": "mlp_layer_3"}, "in_and_out", "blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out"),
        ({"submodule_name": "attn_layer_3"}, "out", "blocks.3.hook_attn_out", None),
        ({"submodule_name": "attn_layer_3"}, "in", None, None),
        ({"submodule_name": "mlp_layer_3", "lm_name": "google/gemma-2-2b"}, "out", "blocks.3.mlp.hook_out", None),
        ({"submodule_name": "attn_layer_3", "lm_name": "google/gemma-3-1b-pt"}, "out", "blocks.3.attn.hook_out", None),
        ({"submodule_name": "mlp_layer_3", "lm_name": "google/gemma-2b"}, "out", "blocks.3.hook_mlp_out", None),
        ({"submodule_name": "model.layers.5"}, "out", "blocks.5.hook_resid_post", None),
        ({"submodule_name": None}, "out", "blocks.3.hook_resid_post", None),
        ({"submodule_name": None, "layer": None}, "out", None, None),
    ],
)
def test_sites(tmp_path: Path, trainer: dict, io: str | None, site: str | None, site_out: str | None) -> None:
    folder = folder_of(tmp_path / "a", STATES["AutoEncoder"], TRAINER | {"dict_class": "AutoEncoder"} | trainer, io=io)
    c = load_sae(folder).config
    assert (c.site, c.site_out, c.architecture == "transcoder") == (site, site_out, io == "in_and_out")
    if trainer["submodule_name"] is None and site is not None:
        assert any("residual stream at block 3" in line for line in c.assumptions)


def test_a_transcoder_that_does_not_say_where_it_writes(tmp_path: Path) -> None:
    trainer = TRAINER | {"dict_class": "AutoEncoder", "submodule_name": "attn_layer_3"}
    folder = folder_of(tmp_path / "a", STATES["AutoEncoder"], trainer, io="in_and_out")
    with pytest.raises(InputError, match=r"nothing says where it writes.*--set site_out"):
        load_sae(folder, site="blocks.3.ln1.hook_normalized")
    c = load_sae(folder, site="blocks.3.ln1.hook_normalized", given={"site_out": "blocks.3.hook_attn_out"}).config
    assert (c.site, c.site_out, c.architecture) == ("blocks.3.ln1.hook_normalized", "blocks.3.hook_attn_out", "transcoder")


def test_sites_without_settings_come_from_the_folder(tmp_path: Path) -> None:
    c = load_sae(folder_of(tmp_path / "resid_out_layer4/10_32768", STATES["AutoEncoder"], None)).config
    assert c.site == "blocks.4.hook_resid_post"
    assert any("resid_out_layer4" in line for line in c.assumptions)
    with pytest.raises(InputError, match=r"config\.json.*sideways"):
        load_sae(folder_of(tmp_path / "a", STATES["AutoEncoder"], TRAINER | {"dict_class": "AutoEncoder"}, io="sideways"))


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("AutoEncoder", {"bias": None}, "bias"),
        ("AutoEncoder", {"decoder.weight": rand(S, D)}, "decoder.weight"),
        ("AutoEncoder", {"encoder.bias": rand(D)}, "encoder.bias"),
        ("AutoEncoder", {"activation_mean": rand(D)}, "activation_mean"),
        ("GatedAutoEncoder", {"r_mag": None}, "r_mag"),
        ("JumpReluAutoEncoder", {"threshold": torch.tensor(0.1)}, "threshold"),
        ("BatchTopKSAE", {"threshold": None}, "threshold"),
        ("MatryoshkaBatchTopKSAE", {"group_sizes": torch.tensor([10, S])}, "group_sizes"),
    ],
)
def test_headers_tell_what_is_wrong(tmp_path: Path, name: str, changed: dict, said: str) -> None:
    state = {key: one for key, one in (STATES[name] | changed).items() if one is not None}
    folder = folder_of(tmp_path / "a", state, TRAINER | {"dict_class": name})
    with pytest.raises(InputError) as caught:
        inspect_sae(folder, hash=False)
    assert said in str(caught.value)
    assert "ae.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["activation_dim", "dict_size"])
def test_settings_that_contradict_the_weights(tmp_path: Path, key: str) -> None:
    with pytest.raises(InputError, match=rf"config\.json.*{key} is 7"):
        inspect_sae(folder_of(tmp_path / "a", STATES["AutoEncoder"], TRAINER | {"dict_class": "AutoEncoder", key: 7}))
