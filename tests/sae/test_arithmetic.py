"""Sparse latents, activations and the inference class against dense arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, Latents, SAEConfig, SAEWeights, Site, activations
from saebench.sae import sae as sae_module

D, S, OUT = 12, 40, 9


def weights(out: int = D, **extra: Tensor) -> SAEWeights:
    g = torch.Generator().manual_seed(0)
    return SAEWeights(
        W_enc=torch.randn(D, S, generator=g),
        b_enc=0.3 * torch.randn(S, generator=g),
        W_dec=torch.randn(S, out, generator=g),
        b_dec=0.3 * torch.randn(out, generator=g),
        **extra,
    )


def acts(n: int = 33) -> Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(1)) + 0.4


def test_latents_by_hand() -> None:
    latents = Latents.from_dense(torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 3.0]]))
    assert latents.values.tolist() == [2.0, -1.0, 3.0]
    assert latents.indices.tolist() == [1, 0, 2]
    assert latents.l0().tolist() == [1, 0, 2]
    assert latents.l1().tolist() == [2.0, 0.0, 4.0]
    assert latents.rows().tolist() == [0, 2, 2]
    assert latents.to_dense().tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("s", "k"), [(640, 2), (24576, 32), (700, 2), (64, 7), (64, 64), (8, 3)])
def test_top_k_is_exact_in_groups_and_without(s: int, k: int, dtype: torch.dtype) -> None:
    pre = torch.stack([torch.randperm(s, generator=torch.Generator().manual_seed(row)) for row in range(9)]).to(dtype)
    pre[0, :50] += 2 * s  # neighbours win
    pre[1, 3 :: max(1, s // 8)] += 2 * s  # all of one group win
    if dtype == torch.bfloat16:
        pre = pre[:, :256]  # whole numbers that it holds exactly
    values, indices = activations.top_entries(pre, min(k, pre.shape[1]))
    expected = pre.topk(values.shape[1], dim=1)
    assert values.dtype == dtype
    if dtype == torch.bfloat16:  # large ones are rounded, and then alike
        assert torch.equal(values.sort(1, descending=True).values, expected.values)
        assert torch.equal(pre.gather(1, indices), values)
        return
    assert torch.equal(values.sort(1, descending=True).values, expected.values)
    assert torch.equal(indices.sort(1).values, expected.indices.sort(1).values)


def test_top_k_of_what_is_not_finite_takes_it_first() -> None:
    pre = torch.zeros(2, 640)
    pre[0, 77], pre[1, 600] = torch.nan, torch.inf
    values, indices = activations.top_entries(pre, 2)
    assert values[0].isnan().sum() == 1 and 77 in indices[0]
    assert values[1].isinf().sum() == 1 and 600 in indices[1]


def test_threshold_is_strict_and_per_latent() -> None:
    pre = torch.tensor([[1.0, 1.0, -2.0, 0.5]])
    assert activations.jumprelu(pre.clone(), torch.tensor(1.0)).indices.tolist() == []
    assert activations.jumprelu(pre.clone(), torch.tensor([0.9, 1.0, -3.0, 0.0])).indices.tolist() == [0, 3]


def test_top_k_keeps_only_positive_values() -> None:
    assert activations.topk(torch.tensor([[3.0, -1.0, -2.0]]), 2).indices.tolist() == [0]
    assert activations.abstopk(torch.tensor([[1.0, -4.0, 2.0]]), 1).values.tolist() == [-4.0]


def test_group_max_takes_one_a_group() -> None:
    latents = activations.groupmax(torch.tensor([[1.0, 5.0, -1.0, -2.0]]), 2)
    assert latents.indices.tolist() == [1]


def dense(sae: SAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (latents, recon) by the definitions, in float64, without chunks."""
    w, c = {name: t.double() for name, t in sae.weights.items()}, sae.config
    x = x.double()
    scale, shift = torch.ones(len(x), 1, dtype=torch.float64), torch.zeros(len(x), 1, dtype=torch.float64)
    if c.normalisation == "layer_norm":
        shift = x.mean(1, keepdim=True)
        scale = (x - shift).std(1, keepdim=True)
        x = (x - shift) / (scale + 1e-5)
    elif c.normalisation == "unit_norm":
        scale = x.norm(dim=1, keepdim=True) / D**0.5
        x = x / scale
    elif c.normalisation == "constant_scale":
        scale = scale / c.norm_scale
        x = x * c.norm_scale
    inner = x - w["b_in"] if "b_in" in w else x
    if c.activation == "gated":
        pre = inner @ w["W_enc"]
        f = ((pre + w["b_gate"]) > 0) * (pre * w["r_mag"].exp() + w["b_mag"]).relu()
    else:
        pre = inner @ w["W_enc"] + w["b_enc"]
        if c.activation == "relu":
            f = pre.relu()
        elif c.activation == "jumprelu":
            f = pre.relu() * (pre > w["threshold"])
        else:
            kept = torch.zeros_like(pre).scatter_(1, pre.topk(c.k, 1).indices, 1.0)
            f = pre.relu() * kept
    out = f @ w["W_dec"] + w["b_dec"]
    if "W_skip" in w:
        out = out + x @ w["W_skip"]
    return f, out if c.d_out != c.d_in else out * scale + shift


CASES = {
    "relu": ({"activation": "relu"}, {}),
    "relu-shift": ({"activation": "relu"}, {"b_in": torch.linspace(-1, 1, D)}),
    "topk": ({"activation": "topk", "k": 5}, {}),
    "jumprelu": ({"activation": "jumprelu"}, {"threshold": torch.linspace(0, 2, S)}),
    "batchtopk": ({"activation": "jumprelu"}, {"threshold": torch.tensor(1.5)}),
    "gated": (
        {"activation": "gated"},
        {"b_gate": torch.linspace(-1, 1, S), "b_mag": torch.linspace(1, -1, S), "r_mag": torch.linspace(-0.5, 0.5, S)},
    ),
    "layer-norm": ({"activation": "topk", "k": 5, "normalisation": "layer_norm"}, {}),
    "unit-norm": ({"activation": "relu", "normalisation": "unit_norm"}, {"b_in": torch.linspace(-1, 1, D)}),
    "scaled": ({"activation": "relu", "normalisation": "constant_scale", "norm_scale": 0.37}, {}),
    "transcoder": ({"activation": "relu", "d_out": OUT, "site_out": "blocks.1.hook_mlp_out"}, {"W_skip": torch.ones(D, OUT)}),
}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
@pytest.mark.parametrize("dense_share", [0.0, 1.0])
def test_every_kind_equals_dense_arithmetic(
    name: str, chunk_tokens: int, dense_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae_module, "_CHUNK_BYTES", 4 * S * chunk_tokens)
    monkeypatch.setattr(sae_module, "_DENSE_SHARE", dense_share)  # both decoders
    config, extra = CASES[name]
    fields = {"d_in": D, "d_out": D, "d_sae": S, "site": "blocks.1.hook_resid_pre"} | config
    sae = SAE(SAEConfig(**fields), weights(fields["d_out"], **extra))
    latents, recon = dense(sae, acts())
    found = sae.encode(acts())
    torch.testing.assert_close(found.to_dense().double(), latents, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.reconstruct(acts()).double(), recon, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sae.decode(found, acts()).double(), recon, rtol=1e-5, atol=1e-4)
    assert next(len(c.recon) for c in sae.run(acts())) == min(chunk_tokens, 33)


def test_decode_that_needs_the_acts_says_so() -> None:
    sae = SAE(SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=S, normalisation="layer_norm"), weights())
    with pytest.raises(InputError, match="needs the acts"):
        sae.decode(sae.encode(acts()))


def test_no_tokens_give_no_rows() -> None:
    sae = SAE(SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=S), weights())
    assert len(sae.encode(torch.zeros(0, D))) == 0
    assert sae.reconstruct(torch.zeros(0, D)).shape == (0, D)


def test_hash_follows_content_not_place() -> None:
    config = SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=S)
    sae = SAE(config, weights())
    assert sae.sha256 == sae.with_config(path="elsewhere", name="other", site="blocks.0.hook_resid_pre").sha256
    assert sae.sha256 != sae.with_config(residual="centred").sha256
    other = weights()
    other.b_dec[0] += 1e-6
    assert sae.sha256 != SAE(config, other).sha256
    assert sae.to(dtype=torch.float64).sha256 == sae.sha256


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"W_dec": torch.zeros(S, D + 1)}, "W_dec"),
        ({"b_enc": torch.full((S,), float("inf"))}, "b_enc"),
        ({"threshold": torch.zeros(3)}, "threshold"),
    ],
)
def test_weights_that_do_not_fit_are_named(changed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        SAE(SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=S), SAEWeights(**dict(weights().items()) | changed))


@pytest.mark.parametrize(
    "config",
    [
        {"activation": "topk"},
        {"activation": "topk", "k": S + 1},
        {"activation": "groupmax", "k": 7},
        {"activation": "jumprelu"},
        {"activation": "gated"},
        {"activation": "relu", "normalisation": "constant_scale"},
    ],
)
def test_settings_that_are_missing_are_refused(config: dict) -> None:
    with pytest.raises(InputError):
        SAE(SAEConfig(d_in=D, d_out=D, d_sae=S, **config), weights())


def test_sites() -> None:
    assert Site.parse("blocks.11.attn.hook_z") == Site(name="blocks.11.attn.hook_z", kind="z", layer=11)
    with pytest.raises(InputError, match=r"blocks\.3\.hook_resid_pre"):
        Site.parse("blocks.3.hook_resid_prre")
    with pytest.raises(InputError, match="Known in each block"):
        Site.parse("transformer.h.3")


@pytest.mark.parametrize("normalisation", ["constant_scale", "unit_norm", "layer_norm"])
@pytest.mark.parametrize("out", [D, OUT])
def test_a_transcoder_writes_in_a_space_of_its_own(normalisation: str, out: int) -> None:
    """What normalised the input is not undone at the output: scale and mean belong to other acts."""
    config = SAEConfig(
        activation="relu", d_in=D, d_out=out, d_sae=S, normalisation=normalisation, norm_scale=0.37,
        site="blocks.1.mlp.hook_in", site_out="blocks.1.mlp.hook_out",
    )  # fmt: skip
    x, w = acts(), weights(out)
    deviation = (x - x.mean(1, keepdim=True)).std(1, keepdim=True)
    inner = {
        "constant_scale": 0.37 * x,
        "unit_norm": x * D**0.5 / x.norm(dim=1, keepdim=True),
        "layer_norm": (x - x.mean(1, keepdim=True)) / (deviation + 1e-5),
    }[normalisation]
    expected = (inner @ w.W_enc + w.b_enc).relu() @ w.W_dec + w.b_dec
    sae = SAE(config, w)
    torch.testing.assert_close(sae.reconstruct(x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sae.decode(sae.encode(x), x), expected, rtol=1e-4, atol=1e-4)


def test_topk_that_keeps_signs_and_topk_that_ranks_otherwise() -> None:
    pre = torch.tensor([[-1.0, -3.0, -2.0, -4.0], [5.0, 1.0, 2.0, -1.0]])
    assert torch.equal(activations.signed_topk(pre.clone(), 2).to_dense(), torch.tensor([[-1.0, 0, -2.0, 0], [5.0, 0, 2.0, 0]]))
    rank = torch.tensor([1.0, 9.0, 1.0, 1.0])
    assert torch.equal(activations.ranked_topk(pre.clone(), rank, 2).to_dense()[1], torch.tensor([5.0, 1.0, 0, 0]))
