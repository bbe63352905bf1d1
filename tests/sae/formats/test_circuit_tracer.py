"""circuit-tracer's transcoders: both orientations, skip, thresholds, topk with signs, and what the set's settings say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import OUT, D, S, acts, agrees, rand

SETTINGS = {
    "model_name": "Qwen/Qwen3-4B",
    "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in",
    "feature_output_hook": "mlp.hook_out",
}


def tensors(**more: Tensor) -> dict[str, Tensor]:
    own = {"W_enc": rand(S, D), "b_enc": rand(S), "W_dec": rand(S, OUT), "b_dec": rand(OUT)}
    return {key: one for key, one in (own | more).items() if one.numel()}


def layer(folder: Path, number: int = 3, cfg: dict | None = SETTINGS, **more: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**more), folder / f"layer_{number}.safetensors")
    if cfg is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    return folder / f"layer_{number}.safetensors"


def pre(x: Tensor) -> Tensor:
    t = tensors()
    return x @ t["W_enc"].T + t["b_enc"]


def test_relu_transcoder_and_its_sites(tmp_path: Path) -> None:
    sae, t, x = load_sae(layer(tmp_path)), tensors(), acts()
    f = pre(x).relu()
    agrees(sae, x, f, f @ t["W_dec"] + t["b_dec"])
    c = sae.config
    assert (c.format, c.architecture, c.d_in, c.d_out, c.d_sae) == ("circuit_tracer", "transcoder", D, OUT, S)
    assert (c.site, c.site_out, c.model_id) == ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out", "Qwen/Qwen3-4B")
    assert (c.residual, c.name) == ("raw", f"{tmp_path.name}-layer_3")
    assert len(c.assumptions) == 1 and "taken as ReLU" in c.assumptions[0]
    assert load_sae(layer(tmp_path / "said", cfg=SETTINGS | {"activation": "relu"})).config.assumptions == ()
    assert sae.is_transcoder
    about = inspect_sae(tmp_path)
    assert (about["site"], about["sha256"]) == (c.site, sae.sha256)


def test_decoder_of_the_first_revisions_is_turned(tmp_path: Path) -> None:
    now, before = load_sae(layer(tmp_path / "a")), load_sae(layer(tmp_path / "b", W_dec=tensors()["W_dec"].T.contiguous()))
    assert torch.equal(now.W_dec, before.W_dec)
    assert now.sha256 == before.sha256


def test_a_square_decoder_is_taken_as_it_is_stored_now_and_that_is_said(tmp_path: Path) -> None:
    square = rand(S, S)
    sae = load_sae(layer(tmp_path, W_dec=square, b_dec=rand(S)))
    assert torch.equal(sae.W_dec, square)
    assert any("square" in line for line in sae.config.assumptions)


def test_skip_connection_is_stored_from_input_to_output(tmp_path: Path) -> None:
    skip, x, t = rand(OUT, D), acts(), tensors()
    sae = load_sae(layer(tmp_path, W_skip=skip))
    f = pre(x).relu()
    agrees(sae, x, f, f @ t["W_dec"] + t["b_dec"] + x @ skip.T)
    assert sae.config.architecture == "skip_transcoder"


@pytest.mark.parametrize("key", ["activation_function.threshold", "threshold"])
def test_thresholds_make_it_a_jumprelu(tmp_path: Path, key: str) -> None:
    threshold, x, t = rand(S).abs(), acts(), tensors()
    sae = load_sae(layer(tmp_path, **{key: threshold}))
    f = pre(x) * (pre(x) > threshold)
    agrees(sae, x, f, f @ t["W_dec"] + t["b_dec"])
    assert sae.config.architecture == "jumprelu_transcoder"


def test_topk_keeps_signs(tmp_path: Path) -> None:
    k = S - 6
    x, t = acts(), tensors()
    sae = load_sae(layer(tmp_path, cfg=SETTINGS | {"activation": "topk", "k": k}))
    top = pre(x).topk(k, 1)
    f = torch.zeros(len(x), S).scatter(1, top.indices, top.values)
    assert bool((f < 0).any())
    agrees(sae, x, f, f @ t["W_dec"] + t["b_dec"])
    assert (sae.config.activation, sae.config.k, sae.config.architecture) == ("signed_topk", k, "topk_transcoder")


def test_where_k_comes_from(tmp_path: Path) -> None:
    topk = SETTINGS | {"activation": "topk"}
    assert load_sae(layer(tmp_path / "a", k=torch.tensor(5))).config.k == 5
    file = layer(tmp_path / "b", cfg=topk)
    with pytest.raises(InputError, match="--set k=N"):
        load_sae(file)
    assert load_sae(file, given={"k": "7"}).config.k == 7
    told = load_sae(layer(tmp_path / "crv-8b-instruct-transcoders", cfg=topk | {"k": 3}, **wide(200))).config
    assert (told.k, told.assumptions[0][:14]) == (128, "k taken as 128")


def wide(n: int) -> dict[str, Tensor]:
    return {"W_enc": rand(n, D), "b_enc": rand(n), "W_dec": rand(n, OUT)}


def test_a_set_is_a_folder_of_saes(tmp_path: Path) -> None:
    layer(tmp_path / "set", 0)
    layer(tmp_path / "set", 11)
    rows = list_saes(tmp_path / "set")
    assert [(Path(str(row["path"])).name, row["site"]) for row in rows] == [
        ("layer_0.safetensors", "blocks.0.mlp.hook_in"),
        ("layer_11.safetensors", "blocks.11.mlp.hook_in"),
    ]
    with pytest.raises(InputError, match="2 SAEs"):
        load_sae(tmp_path / "set")


def test_hooks_may_name_their_block(tmp_path: Path) -> None:
    hooks = {"feature_input_hook": "blocks.{layer}.hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    c = load_sae(layer(tmp_path, 7, SETTINGS | hooks)).config
    assert (c.site, c.site_out) == ("blocks.7.hook_resid_mid", "blocks.7.hook_mlp_out")


def test_without_settings_sites_come_from_the_name_or_are_asked_for(tmp_path: Path) -> None:
    c = load_sae(layer(tmp_path / "models--mwhanna--qwen3-14b-transcoders/snapshots/abc", cfg=None)).config
    assert (c.site, c.site_out, c.model_id) == ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out", "Qwen/Qwen3-14B")
    assert [("mwhanna/qwen3-14b-transcoders" in line, "ReLU" in line) for line in c.assumptions] == [
        (False, True),
        (True, False),
        (True, False),
    ]
    file = layer(tmp_path / "mine", cfg=None)
    with pytest.raises(InputError, match=r"config\.yaml.*--set site_out=HOOK"):
        load_sae(file)
    given = load_sae(file, site="blocks.3.hook_resid_mid", given={"site_out": "blocks.3.hook_mlp_out"}).config
    assert (given.site, given.site_out, given.warnings) == ("blocks.3.hook_resid_mid", "blocks.3.hook_mlp_out", ())


@pytest.mark.parametrize(
    ("cfg", "more", "said"),
    [
        (SETTINGS, {"b_dec": torch.zeros(0)}, "lacks the tensor 'b_dec'"),
        (SETTINGS, {"b_enc": rand(S + 1)}, "b_enc has 41 entries, but W_enc is"),
        (SETTINGS, {"W_dec": rand(S, OUT + 1)}, "W_dec is .*b_enc has 40 entries and b_dec 9"),
        (SETTINGS, {"log_thresholds": rand(S)}, "log_thresholds"),
        (SETTINGS | {"activation": "softmax"}, {}, "unknown activation 'softmax'; known: relu"),
        (SETTINGS | {"activation": "relu"}, {"threshold": rand(S)}, "activation is 'relu'.* has thresholds"),
        (SETTINGS | {"activation": "jumprelu"}, {}, "activation is 'jumprelu'.* has no thresholds"),
        (SETTINGS | {"activation": "topk", "k": 2.5}, {}, "'k' should be a whole number"),
        (SETTINGS | {"model_kind": "cross_layer_transcoder"}, {}, "model_kind is 'cross_layer_transcoder'"),
        (SETTINGS, {"threshold": -rand(S).abs()}, "a threshold is below 0"),
        (SETTINGS, {"W_skip": rand(OUT, D + 1)}, "W_skip has shape"),
    ],
)
def test_damage_and_contradictions_are_one_line_with_the_file(tmp_path: Path, cfg: dict, more: dict, said: str) -> None:
    file = layer(tmp_path, cfg=cfg, **more)
    with pytest.raises(InputError, match=said) as error:
        load_sae(file)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
