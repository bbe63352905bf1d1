"""OpenAI's sparse_autoencoder: the equations of its ``model.py`` restated, its kinds of files, sites of paths, refusals."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees, rand

K = 5


def state(activation: str | None = "TopK", *, tied: bool = False, **more: Any) -> OrderedDict[str, Any]:
    """Return a state dict in the order and with the extra entries of ``Autoencoder.state_dict``."""
    encoder = rand(S, D, seed=1)
    found: OrderedDict[str, Any] = OrderedDict(
        {
            "pre_bias": rand(D, seed=2), "latent_bias": rand(S, seed=3), "stats_last_nonzero": torch.arange(S),
            "latents_activation_frequency": torch.ones(S), "latents_mean_square": torch.zeros(S), "encoder.weight": encoder,
            "decoder.linear.weight" if tied else "decoder.weight": encoder if tied else rand(D, S, seed=4),
        }
    )  # fmt: skip
    if activation is not None:
        found["activation"] = activation
        found["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {}
    return found | more  # pyright: ignore[reportReturnType]


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, file)
    return file


def expected(t: dict[str, Any], x: Tensor, *, k: int | None = None, relu: bool = True) -> tuple[Tensor, Tensor]:
    """Return (latents, recon): with ``k`` over normalised input, without it a plain ReLU over the input as it is."""
    mu, std = (x.mean(1, keepdim=True), x.std(1, keepdim=True)) if k else (torch.zeros(len(x), 1), torch.ones(len(x), 1))
    y = (x - mu) / (std + 1e-5) if k else x
    pre = (y - t["pre_bias"]) @ t["encoder.weight"].T + t["latent_bias"]
    if k:
        top = pre.topk(k, 1)
        pre = torch.zeros_like(pre).scatter_(1, top.indices, top.values)
    latents = pre.clamp_min(0) if relu else pre
    decoder = t["decoder.weight"].T if "decoder.weight" in t else t["decoder.linear.weight"]
    return latents, (latents @ decoder + t["pre_bias"]) * std + mu


def refused(path: Path, *said: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        load_sae(path, **options)
    line = str(caught.value)
    assert "\n" not in line
    for text in (str(path), *said):
        assert text in line, line


def test_relu_of_versions_1_and_4(tmp_path: Path) -> None:
    sae, t, x = load_sae(write(tmp_path / "gpt2-small/mlp_post_act_v4/autoencoders/3.pt", state("ReLU"))), state("ReLU"), acts()
    agrees(sae, x, *expected(t, x))
    c = sae.config
    assert (c.format, c.architecture, c.normalisation, c.k) == ("openai", "standard", "none", None)
    assert (c.site, c.model_id, c.residual) == ("blocks.3.mlp.hook_post", "gpt2", "raw")
    assert not any("taken as raw" in line for line in c.assumptions), "it does not matter there"
    stream = load_sae(write(tmp_path / "gpt2-small/resid_post_mlp/autoencoders/3.pt", state("ReLU"))).config
    assert stream.residual == "raw" and any("taken as raw" in line for line in stream.assumptions)
    assert c.name == "autoencoders-3"


def test_topk_of_version_5(tmp_path: Path) -> None:
    file = write(tmp_path / "gpt2-small/resid_post_mlp_v5_32k/autoencoders/11.pt", state())
    sae, x = load_sae(file), acts()
    agrees(sae, x, *expected(state(), x, k=K))
    c = sae.config
    assert (c.architecture, c.activation, c.normalisation, c.k) == ("topk", "topk", "layer_norm", K)
    assert (c.site, c.residual) == ("blocks.11.hook_resid_post", "raw")
    assert not any("taken as raw" in line for line in c.assumptions), "LayerNorm takes the mean off"
    for said in ("LayerNorm", "resid_post_mlp and layer 11", "gpt2"):
        assert any(said in line for line in c.assumptions), c.assumptions
    assert (sae.encode(x).l0() <= K).all()
    assert inspect_sae(file)["sha256"] == sae.sha256


def test_identity_behind_topk_keeps_signs(tmp_path: Path) -> None:
    k = S - 3
    content = state() | {"activation_state_dict": {"k": k, "postact_fn": "Identity"}}
    sae, x = load_sae(write(tmp_path / "5.pt", content)), acts()
    latents, recon = expected(content, x, k=k, relu=False)
    assert bool((latents < 0).any())
    agrees(sae, x, latents, recon)
    assert sae.config.activation == "signed_topk"


@pytest.mark.parametrize("activation", ["ReLU", "TopK"])
def test_tied_decoders(tmp_path: Path, activation: str) -> None:
    content = state(activation, tied=True)
    sae, x = load_sae(write(tmp_path / "5.pt", content)), acts()
    agrees(sae, x, *expected(content, x, k=K if activation == "TopK" else None))
    torch.testing.assert_close(sae.W_dec, sae.W_enc.T, rtol=0, atol=0)


def test_files_saved_again_by_a_newer_torch(tmp_path: Path) -> None:
    """They repeat the activation's settings as ``activation.*``; those count where the library's own are not there."""
    again = state() | {"activation.k": K, "activation.postact_fn": "ReLU"}
    first = load_sae(write(tmp_path / "5.pt", state())).sha256
    assert load_sae(write(tmp_path / "6.pt", again)).sha256 == first
    assert load_sae(write(tmp_path / "7.pt", again | {"activation.k": K + 1})).sha256 == first
    only = {key: one for key, one in again.items() if key != "activation_state_dict"}
    assert load_sae(write(tmp_path / "8.pt", only)).sha256 == first
    tensor = state() | {"activation_state_dict": {"k": torch.tensor(K), "postact_fn": "ReLU"}}
    assert load_sae(write(tmp_path / "9.pt", tensor)).sha256 == first


def test_what_is_not_said_is_taken_with_a_reason_or_asked_for(tmp_path: Path) -> None:
    silent = load_sae(write(tmp_path / "a.pt", state(None))).config
    assert silent.activation == "relu"
    assert any("ReLU" in line and "loader" in line for line in silent.assumptions)
    assert (silent.site, silent.model_id) == (None, None)
    no_function = load_sae(write(tmp_path / "b.pt", state() | {"activation_state_dict": {"k": K}})).config
    assert any("postact_fn" in line for line in no_function.assumptions)
    no_k = write(tmp_path / "c.pt", state() | {"activation_state_dict": {"postact_fn": "ReLU"}})
    refused(no_k, "--set k=")
    assert load_sae(no_k, given={"k": "7"}).config.k == 7


@pytest.mark.parametrize(
    ("path", "site", "model"),
    [
        ("gpt2-small/mlp_post_act/autoencoders/0.pt", "blocks.0.mlp.hook_post", "gpt2"),
        ("gpt2-small/resid_delta_attn_v5_128k/autoencoders/10.pt", "blocks.10.hook_attn_out", "gpt2"),
        ("gpt2-small/resid_post_attn_v5_32k/autoencoders/7.pt", "blocks.7.hook_resid_mid", "gpt2"),
        ("gpt2-small/resid_delta_mlp_v5_32k/autoencoders/6.pt", "blocks.6.hook_mlp_out", "gpt2"),
        ("saes/gpt2-xl/resid_post_mlp/autoencoders/6.pt", "blocks.6.hook_resid_post", None),
        ("resid_post_mlp/layer_4/w.pt", "blocks.4.hook_resid_post", None),
        ("a/gpt2_resid_post_mlp_layer4_32k.pt", "blocks.4.hook_resid_post", "gpt2"),
        ("2024/resid_post_mlp/w.pt", None, None),
        ("autoencoders/6.pt", None, None),
    ],
)
def test_sites_and_models_of_paths(tmp_path: Path, path: str, site: str | None, model: str | None) -> None:
    c = load_sae(write(tmp_path / path, state())).config
    assert (c.site, c.model_id) == (site, model)
    folder = load_sae((tmp_path / path).parent).config
    assert (folder.site, folder.model_id) == (site, model)


def test_a_width_names_the_model(tmp_path: Path) -> None:
    wide = state("ReLU") | {"pre_bias": rand(768), "encoder.weight": rand(S, 768), "decoder.weight": rand(768, S)}
    c = load_sae(write(tmp_path / "x.pt", wide)).config
    assert c.model_id == "gpt2"
    assert any("768" in line for line in c.assumptions)


def test_a_folder_of_them_is_listed(tmp_path: Path) -> None:
    for n in (0, 1):
        write(tmp_path / f"gpt2-small/resid_post_mlp_v5_32k/autoencoders/{n}.pt", state())
    found = find_all(tmp_path)
    assert [(one.format, one.source.file) for one in found] == [("openai", "0.pt"), ("openai", "1.pt")]


def test_a_damaged_file_among_them_is_listed_with_what_is_wrong(tmp_path: Path) -> None:
    """Left out of the list, a run over all of them would be one short and say nothing."""
    for layer in range(3):
        write(tmp_path / f"{layer}.pt", state())
    whole = (tmp_path / "1.pt").read_bytes()
    (tmp_path / "1.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"optimizer": {"state": {}}, "step": 3}, tmp_path / "trainer_state.pt")
    (tmp_path / "objects.pt").write_bytes(b"\x80\x02cargparse\nNamespace\n)\x81.")
    rows = list_saes(tmp_path)
    assert [(Path(str(row["path"])).name, row["refused"] is None) for row in rows] == [
        ("0.pt", True),
        ("1.pt", False),
        ("2.pt", True),
    ]
    assert "1.pt" in str(rows[1]["refused"]) and "fetch it again" in str(rows[1]["refused"])


def test_look_alikes_are_not_taken_for_it(tmp_path: Path) -> None:
    for missing in ("pre_bias", "latent_bias", "encoder.weight", "decoder.weight"):
        write(tmp_path / missing / "x.pt", {key: one for key, one in state().items() if key != missing})
        try:
            found = [one.format for one in find_all(tmp_path / missing)]
        except InputError:
            found = []
        assert "openai" not in found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"activation": "Identity"}, "Identity"), ({"activation": "GELU"}, "GELU"), ({"activation": 3}, "3"),
        ({"activation_state_dict": [1]}, "list"), ({"activation_state_dict": {"k": K, "postact_fn": "Tanh"}}, "Tanh"),
        ({"activation_state_dict": {"k": "5", "postact_fn": "ReLU"}}, "'k'"),
        ({"activation_state_dict": {"k": S + 1}}, f"d_sae={S}"),
        ({"activation_state_dict": {"k": torch.ones(2)}}, "'k'"), ({"decoder.weight": rand(S, D)}, "decoder"),
        ({"encoder.weight": rand(S)}, "encoder.weight"), ({"pre_bias": rand(S)}, "b_dec"), ({"latent_bias": rand(D)}, "b_enc"),
        ({"encoder.weight": torch.ones(S, D, dtype=torch.int64)}, "int64"), ({"pre_bias": torch.full((D,), torch.inf)}, "NaN"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    refused(write(tmp_path / "5.pt", state() | changed), said)


def test_a_folder_of_many_named_with_the_format_asks_for_the_file(tmp_path: Path) -> None:
    for n in (0, 1):
        write(tmp_path / f"{n}.pt", state())
    with pytest.raises(InputError, match="holds 2 SAEs; name one"):
        load_sae(tmp_path, format="openai")
