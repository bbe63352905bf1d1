"""mlsae: standardised per token, topk, one SAE for all layers; what names and settings say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

K = S - 8
SETTINGS = {"n_inputs": D, "n_latents": S, "k": K, "standardize": True, "auxk": 256, "dead_steps_threshold": 10}


def tensors(**more: Tensor) -> dict[str, Tensor]:
    own = {"encoder.weight": rand(S, D), "decoder.weight": rand(D, S), "pre_encoder_bias": rand(D)}
    return {key: one for key, one in (own | more).items() if one.numel()}


def folder(path: Path, cfg: dict | None = SETTINGS, start: str = "", **more: Tensor) -> Path:
    path.mkdir(parents=True)
    save_file({start + key: one for key, one in tensors(**more).items()}, path / "model.safetensors")
    if cfg is not None:
        (path / "config.json").write_text(json.dumps(cfg))
    return path


def forward(x: Tensor, k: int, standardise: bool = True) -> tuple[Tensor, Tensor]:
    t, mean, std = tensors(), torch.zeros(len(x), 1), torch.ones(len(x), 1)
    if standardise:
        mean = x.mean(1, keepdim=True)
        x = x - mean
        std = x.std(1, keepdim=True)
        x = x / (std + 1e-5)
    p = (x - t["pre_encoder_bias"]) @ t["encoder.weight"].T
    top = p.topk(k, 1)
    f = torch.zeros_like(p).scatter(1, top.indices, top.values.relu())
    return f, (f @ t["decoder.weight"].T + t["pre_encoder_bias"]) * std + mean


def test_standardise_topk_and_relu_behind_it(tmp_path: Path) -> None:
    x = acts()
    sae = load_sae(folder(tmp_path / "a", last_nonzero=torch.zeros(S, dtype=torch.long)))
    f, recon = forward(x, K)
    assert bool((f != 0).sum(1).lt(K).any()), "of so many kept some are negative, and the ReLU takes them"
    agrees(sae, x, f, recon)
    raw = load_sae(folder(tmp_path / "b", SETTINGS | {"standardize": False}))
    agrees(raw, x, *forward(x, K, standardise=False))
    assert (sae.config.normalisation, raw.config.normalisation) == ("layer_norm", "none")
    assert inspect_sae(tmp_path / "a")["sha256"] == sae.sha256


def test_the_site_is_left_to_the_user_and_that_is_said(tmp_path: Path) -> None:
    c = load_sae(folder(tmp_path / "a")).config
    assert (c.format, c.architecture, c.k, c.site, c.model_id) == ("mlsae", "topk", K, None, None)
    assert len(c.assumptions) == 1 and "every block" in c.assumptions[0] and "--site" in c.assumptions[0]
    told = load_sae(tmp_path / "a", site="blocks.3.hook_resid_post").config
    assert (told.site, told.warnings) == ("blocks.3.hook_resid_post", ())


def test_names_of_its_repositories_say_the_rest(tmp_path: Path) -> None:
    cached = tmp_path / "models--tim-lawson--sae-pythia-410m-deduped-x64-k16-layers-23/snapshots/abc"
    c = load_sae(folder(cached, None)).config
    assert (c.model_id, c.site, c.k) == ("EleutherAI/pythia-410m-deduped", "blocks.23.hook_resid_post", 16)
    assert len(c.assumptions) == 4, "k, standardised, site and model"
    c = load_sae(folder(tmp_path / "mlsae-gpt2-x64-k8")).config
    assert (c.model_id, c.site, c.k) == ("openai-community/gpt2", None, K)


def test_stored_together_with_the_language_model(tmp_path: Path) -> None:
    cfg = {"model_name": "EleutherAI/pythia-70m", "layers": [4], "k": 5, "max_length": 2048, "standardize": True}
    path = folder(tmp_path / "x-tfm", cfg, start="autoencoder.")
    c = load_sae(path).config
    assert (c.model_id, c.site, c.k, c.context_length) == ("EleutherAI/pythia-70m", "blocks.4.hook_resid_post", 5, 2048)
    assert c.assumptions == ()
    assert load_sae(path).weights.b_in is not None
    c = load_sae(folder(tmp_path / "y-tfm", cfg | {"layers": [1, 2]}, start="autoencoder.")).config
    assert c.site is None and "blocks 1, 2" in c.assumptions[0]


def test_k_is_asked_for_where_nothing_says_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", None)
    with pytest.raises(InputError, match="--set k=N"):
        load_sae(path)
    assert load_sae(path, given={"k": "4"}).config.k == 4


@pytest.mark.parametrize(
    ("name", "cfg", "more", "said"),
    [
        ("mlsae-pythia-70m-x64-k32-lens", SETTINGS, {}, "behind a lens"),
        ("a", SETTINGS | {"tuned_lens": True}, {}, "behind a lens"),
        ("a", SETTINGS, {"encoder_lens.0.weight": rand(D, D)}, "behind a lens"),
        ("a", SETTINGS | {"n_latents": 7}, {}, "n_latents is 7, but the weights have 40"),
        ("a", SETTINGS | {"standardize": "yes"}, {}, "'standardize' should be true or false"),
        ("a", SETTINGS | {"k": S + 1}, {}, "needs k between 1 and d_sae=40"),
        ("a", SETTINGS, {"decoder.weight": rand(S, D)}, "decoder.weight is"),
        ("a", SETTINGS, {"decoder.weight": torch.zeros(0)}, "lacks the tensor 'decoder.weight'"),
        ("a", SETTINGS, {"pre_encoder_bias": rand(D + 1)}, "has shape"),
    ],
)
def test_what_is_refused_is_one_line_with_the_file(tmp_path: Path, name: str, cfg: dict, more: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        load_sae(folder(tmp_path / name, cfg, **more))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
