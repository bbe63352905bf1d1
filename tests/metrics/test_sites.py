"""Which activations an SAE is fed, by site and stream: exact copies must score as exact, through ``run`` and sessions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

import saebench
from saebench.errors import InputError
from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.sae import SAE, SAEConfig, SAEWeights, save_native
from saebench.stream import centring
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, make_corpus, measure, random_sae

D = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with ReLU MLPs and norms whose weight and bias do something, and tokens."""
    folder = tmp_path_factory.mktemp("sites")
    build("gpt2", str(folder / "model"))
    torch.manual_seed(1)
    hf = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=96, n_embd=D, n_layer=3, n_head=4, n_positions=64, n_inner=40, bos_token_id=1, eos_token_id=2,
            activation_function="relu",
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in hf.named_parameters():
            parameter.copy_(parameter * 5 if "ln_" not in name else parameter + 0.4 * torch.randn_like(parameter))
    hf.save_pretrained(folder / "model")
    tokens = np.random.default_rng(0).integers(4, 90, (6, 20))
    tokens[:, 0] = 1
    np.save(folder / "tokens.npy", tokens)
    return folder


def options(world: Path) -> dict[str, object]:
    return {"model": str(world / "model"), "corpus": str(world / "tokens.npy"), "device": "cpu"}


def test_an_exact_copy_of_an_mlp_written_as_a_sparsify_transcoder_is_perfect(world: Path, tmp_path: Path) -> None:
    mlp = load_model(str(world / "model"), device="cpu").hf.transformer.h[1].mlp
    folder = tmp_path / "h.1.mlp"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "k": 40, "d_in": D, "transcode": True}))
    weights = {"encoder.weight": mlp.c_fc.weight.T, "encoder.bias": mlp.c_fc.bias, "W_dec": mlp.c_proj.weight}
    weights["b_dec"] = mlp.c_proj.bias
    save_file({name: t.detach().contiguous().clone() for name, t in weights.items()}, folder / "sae.safetensors")
    [record] = saebench.evaluate([folder], out=tmp_path / "out", **options(world))
    assert record.score("explained_variance").value == pytest.approx(1, abs=1e-9)
    assert record.score("kl").value == pytest.approx(0, abs=1e-7)
    assert record.score("delta_ce").value == pytest.approx(0, abs=1e-6)


def centred_sae(site: str) -> SAE:
    """Return an SAE that is exact on vectors whose mean over D is 0, and can write no others."""
    eye = torch.eye(D)
    onto = eye - torch.ones(D, D) / D
    return SAE(
        SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=2 * D, site=site, residual="centred", name="centred"),
        SAEWeights(
            W_enc=torch.cat([eye, -eye], 1), b_enc=torch.zeros(2 * D), W_dec=torch.cat([eye, -eye]) @ onto, b_dec=torch.zeros(D)
        ),
    )


@pytest.mark.parametrize("tail", ["hook_resid_pre", "hook_resid_mid", "hook_mlp_out", "hook_attn_out", "mlp.hook_out"])
def test_what_writes_to_the_stream_is_centred_and_session_and_run_agree(world: Path, tmp_path: Path, tail: str) -> None:
    folder = save_native(centred_sae(f"blocks.1.{tail}"), tmp_path / "sae")
    [record] = saebench.evaluate([folder], out=tmp_path / "out", **options(world))
    assert record.score("explained_variance").value == pytest.approx(1, abs=1e-9)
    assert record.score("delta_ce").value == pytest.approx(0, abs=1e-5)
    assert record.settings["residual_used"] == "centred"

    session = saebench.load_session(folder, **options(world))
    [tokens], [where] = session.batches(6), session.replaced(6)
    clean = session.port.clean(tokens)
    acts = clean.acts.flatten(0, 1)
    assert acts.mean(1).abs().max() > 1e-2, "the acts themselves are not centred"
    latents = session.sae.encode(acts)
    assert record.score("l0").value == pytest.approx(float(latents.l0().view(6, 20)[:, 1:].double().mean()))
    recon = session.sae.reconstruct(acts)
    torch.testing.assert_close(recon, acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(session.sae.decode(latents, acts), recon)
    with pytest.raises(InputError, match="centring"):
        session.sae.decode(latents)
    spliced = session.port.splice(clean, recon.view(clean.acts.shape), where)
    torch.testing.assert_close(spliced, clean.final, rtol=1e-3, atol=1e-4)
    raw = saebench.load_session(folder, residual="raw", **options(world))
    assert not torch.allclose(raw.sae.reconstruct(acts), acts, atol=1e-3)


def test_inside_a_module_and_behind_a_norm_nothing_is_centred(world: Path) -> None:
    model = load_model(str(world / "model"), device="cpu")
    config = centred_sae("blocks.1.hook_resid_pre").config
    for tail in ("attn.hook_z", "mlp.hook_pre", "mlp.hook_in", "ln2.hook_normalized"):
        assert centring(Port(model, f"blocks.1.{tail}"), config) == (False, False)
    assert centring(Port(model, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"), config) == (False, True)


def test_a_session_takes_what_a_run_takes(world: Path, tmp_path: Path) -> None:
    folder = save_native(identity_sae(), tmp_path / "sae")
    session = saebench.load_session(
        folder, format="native", trained_context=7, splice_bos=True, limit=4, site="blocks.1.hook_resid_pre", **options(world)
    )
    assert session.sae.config.context_length == 7
    assert next(session.replaced(8)).all()
    assert len(session.corpus.tokens) == 4
    assert not next(saebench.load_session(folder, **options(world)).replaced(8))[:, 0].any()


def test_a_transcoder_from_the_centred_stream_against_plain_arithmetic(world: Path) -> None:
    """It reads the centred stream and writes a term of it, at scored positions and, spliced too, at position 0."""
    model = load_model(str(world / "model"), device="cpu")
    port = Port(model, "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out")
    tokens = torch.from_numpy(np.load(world / "tokens.npy"))
    sae = random_sae(site="blocks.1.hook_resid_mid", site_out="blocks.1.hook_mlp_out", residual="centred")
    sae.weights.W_enc.add_(0.3)  # so that it notices the mean over D
    [found] = measure(port, [sae], make_corpus(tokens), splice_bos=True)
    clean = port.clean(tokens)
    acts, target = clean.acts.flatten(0, 1), clean.target.flatten(0, 1)
    recon = sae.reconstruct(acts - acts.mean(1, keepdim=True)) + target.mean(1, keepdim=True)
    final = port.splice(clean, recon.view(clean.target.shape), torch.ones_like(tokens, dtype=torch.bool))
    logp = model.head(final).double().log_softmax(-1)[:, 1:-1]
    expected = -logp.gather(2, tokens[:, 2:, None]).mean()
    assert found["ce_spliced"].value == pytest.approx(float(expected), rel=1e-5)
