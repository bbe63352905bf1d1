"""The study positional: hand-made SAEs that know tokens or positions, an oracle without our model code, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from saebench.cli import main
from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.sae import SAE, SAEConfig, SAEWeights, save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.positional import Positional, PositionalSettings
from saebench.studies.positional.parts import SITE, position_parts, spread
from saebench.tasklist import TaskCorpus
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, make_corpus, measure, random_sae

D, HALF, CONTEXT, KNOWN, V = 24, 12, 96, 64, 96
PARTS = ("", "_token_part", "_position_part")


def language_model(planted: bool) -> LanguageModel:
    """Return a random GPT-2; planted: tokens live in the first half of the dimensions, positions (unit vectors) in the rest."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=V, n_positions=128, n_embd=D, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        if planted:
            model.transformer.wte.weight[:, HALF:] = 0
            model.transformer.wpe.weight[:, :HALF] = 0
            model.transformer.wpe.weight /= model.transformer.wpe.weight.norm(dim=1, keepdim=True)
    return LanguageModel(model, None, id="planted" if planted else "random")


@pytest.fixture(scope="module")
def planted() -> LanguageModel:
    return language_model(True)


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return language_model(False)


def text(n: int = 5, length: int = CONTEXT) -> Corpus:
    tokens = torch.randint(4, V, (n, length), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = 1
    return make_corpus(tokens)


def wpe(model: LanguageModel) -> Tensor:
    return model.hf.transformer.wpe.weight.detach()


def run(
    model: LanguageModel, corpus: Corpus, *saes: SAE, positions: int = 16, site: str = SITE, **more: Any
) -> list[StudyResult]:
    settings = PositionalSettings(corpus=TaskCorpus(source="unused", n_contexts=1), positions=positions)
    setting = StudySetting(**{"port": Port(model, site), "seed": 0, "corpus": corpus} | more)
    return Positional(setting, settings).run(saes)


def values(result: StudyResult) -> dict[str, Any]:
    return {score.name: score.value for score in result.scores}


def curve(result: StudyResult, name: str) -> list[Any]:
    return next(s.value for s in result.series if s.name == name)


def knowing(model: LanguageModel, tokens: bool, n_positions: int) -> SAE:
    """Return an SAE of the planted model: x̂ = t (if it knows tokens) + p (at the first positions).

    Two latents for each dimension of tokens, and for each position it knows one that fires there only (JumpReLU).
    """
    eye = torch.eye(D)[:HALF]
    places = wpe(model)[:n_positions]
    others = wpe(model) @ wpe(model).T - torch.eye(len(wpe(model)))
    assert float(others.max()) < 0.97, "a latent of one position must not fire at another"
    encoder = torch.cat([eye, -eye, places])
    decoder = torch.cat([eye * tokens, -eye * tokens, places])
    threshold = torch.cat([torch.zeros(2 * HALF), torch.full((n_positions,), 0.98)])
    s = len(encoder)
    config = SAEConfig(activation="jumprelu", d_in=D, d_out=D, d_sae=s, site=SITE, context_length=KNOWN, name="knowing")
    return SAE(
        config,
        SAEWeights(W_enc=encoder.T.contiguous(), b_enc=torch.zeros(s), W_dec=decoder, b_dec=torch.zeros(D), threshold=threshold),
    )


def test_an_sae_that_knows_all_tokens_and_the_first_64_positions(planted: LanguageModel) -> None:
    (result,) = run(planted, text(), knowing(planted, True, KNOWN))
    found = values(result)
    for window in ("", "_inside", "_beyond"):
        for name in ("delta_ce", "kl", "mse"):
            assert found[f"{name}_token_part{window}"] == pytest.approx(0, abs=1e-5), "tokens are said perfectly"
            assert found[f"{name}_position_part{window}"] == pytest.approx(found[f"{name}{window}"], abs=1e-5)
    assert found["mse_inside"] == pytest.approx(0, abs=1e-5) and found["delta_ce_inside"] == pytest.approx(0, abs=1e-5)
    assert found["mse_beyond"] == pytest.approx(1, rel=1e-4), "positions have length 1, and none of it is said"
    assert found["kl_beyond"] > 0.01 and abs(found["delta_ce_beyond"]) > 1e-3
    by_position = curve(result, "mse_position_part_by_position")
    assert by_position[0] is None and len(by_position) == CONTEXT
    assert_allclose(by_position[1:KNOWN], 0, atol=1e-5)
    assert_allclose(by_position[KNOWN:], 1, rtol=1e-4)
    assert_allclose(curve(result, "kl_token_part_by_position")[1:-1], 0, atol=1e-5)
    assert result.raw == {"known_positions": 16, "last_known_position": KNOWN - 1}


def test_an_sae_that_knows_all_positions_and_no_token(planted: LanguageModel) -> None:
    (result,) = run(planted, text(), knowing(planted, False, CONTEXT))
    found = values(result)
    for window in ("", "_inside", "_beyond"):
        for name in ("delta_ce", "kl", "mse"):
            assert found[f"{name}_position_part{window}"] == pytest.approx(0, abs=1e-5)
            assert found[f"{name}_token_part{window}"] == pytest.approx(found[f"{name}{window}"], abs=1e-5)
    assert found["mse"] > 0.1 and found["kl"] > 0.01


def test_it_is_what_inputs_embeds_gives(plain: LanguageModel) -> None:
    """Every replacement by hand, from the embeddings themselves, run by the library's own forward."""
    corpus, sae = text(3, 20), random_sae(site=SITE, context_length=9)
    (result,) = run(plain, corpus, sae, positions=99)
    with torch.no_grad():
        t, p = plain.hf.transformer.wte.weight[corpus.tokens], wpe(plain)[:20].expand(3, 20, D)
        x = t + p
        shape = x.shape

        def recon(acts: Tensor) -> Tensor:
            return sae.reconstruct(acts.reshape(-1, D)).reshape(shape)

        token = torch.stack([recon(t + wpe(plain)[q]) - wpe(plain)[q] for q in range(1, 9)]).mean(0)
        whole = recon(x)
        clean = torch.log_softmax(plain.hf(inputs_embeds=t).logits, 2)  # GPT-2 adds the positions itself
        mask = corpus.predicted
        target = corpus.tokens.roll(-1, 1)[..., None]
        for part, new in zip(PARTS, (whole, token + p, t + whole - token), strict=True):
            assert_allclose(values(result)[f"mse{part}"], float((new - x).square().sum(2)[corpus.scored].mean()), rtol=1e-4)
            new = torch.cat([x[:, :1], new[:, 1:]], 1)
            logp = torch.log_softmax(plain.hf(inputs_embeds=new - p).logits, 2)
            delta = (clean - logp).gather(2, target)[..., 0]
            assert values(result)[f"delta_ce{part}"] == pytest.approx(float(delta[mask].mean()), abs=2e-5)
            kl = (clean.exp() * (clean - logp)).sum(2)
            assert values(result)[f"kl{part}"] == pytest.approx(float(kl[mask].mean()), rel=1e-3)
            inside = mask & (torch.arange(20) < 9)
            assert values(result)[f"delta_ce{part}_inside"] == pytest.approx(float(delta[inside].mean()), abs=2e-5)
            assert values(result)[f"delta_ce{part}_beyond"] == pytest.approx(float(delta[mask & ~inside].mean()), abs=2e-5)


def test_the_whole_recon_is_what_core_says(plain: LanguageModel) -> None:
    corpus = text(4, 20)
    saes = [random_sae(site=SITE, context_length=9), random_sae(seed=1, site=SITE, context_length=9, residual="centred")]
    for result, scores in zip(run(plain, corpus, *saes), measure(Port(plain, SITE), saes, corpus), strict=True):
        for name in ("delta_ce", "kl", "mse", "delta_ce_inside", "delta_ce_beyond", "mse_beyond"):
            mine = next(s for s in result.scores if s.name == name)
            assert mine.value == pytest.approx(scores[name].value, rel=1e-4)
            assert mine.stderr == pytest.approx(scores[name].stderr, rel=1e-3)
        assert [s.name for s in result.scores] and {s.name for s in result.scores} == {s.name for s in Positional.specs}


@pytest.mark.parametrize("residual", ["raw", "centred"])
def test_an_sae_without_error_has_none_in_either_part(plain: LanguageModel, residual: str) -> None:
    sae = identity_sae().with_config(site=SITE, residual=residual)
    for bos in (False, True):
        (result,) = run(plain, text(2, 12), sae, splice_bos=bos)
        assert max(abs(v) for v in values(result).values()) < 1e-5


def test_neither_batch_size_nor_padding_nor_other_saes_matter(plain: LanguageModel) -> None:
    corpus = text(5, 15)
    saes = random_sae(site=SITE), random_sae(seed=2, k=9, site=SITE)
    both = run(plain, corpus, *saes)
    tokens = torch.cat([corpus.tokens, torch.zeros(5, 3, dtype=torch.long)], 1)
    padded = make_corpus(tokens, torch.cat([corpus.valid, torch.zeros(5, 3, dtype=torch.bool)], 1))
    for others in (
        run(plain, corpus, *saes, batch_size=2), run(plain, padded, *saes), run(plain, corpus, *saes[::-1])[::-1],
    ):  # fmt: skip
        for one, other in zip(both, others, strict=True):
            assert_allclose(list(values(one).values()), list(values(other).values()), rtol=1e-4, atol=1e-5)


def test_where_the_training_context_is_not_known_or_not_exceeded(plain: LanguageModel) -> None:
    unknown, long = run(plain, text(2, 12), random_sae(site=SITE, context_length=None), random_sae(site=SITE, context_length=50))
    by_name = {s.name: s for s in unknown.scores}
    assert by_name["delta_ce_inside"].value is None and "--trained-context" in (by_name["delta_ce_inside"].reason or "")
    assert unknown.raw["last_known_position"] == 11
    by_name = {s.name: s for s in long.scores}
    assert by_name["delta_ce_inside"].value == by_name["delta_ce"].value
    assert by_name["delta_ce_beyond"].value is None and "trained at context 50" in (by_name["delta_ce_beyond"].reason or "")


def test_the_positions_of_token_parts() -> None:
    assert spread(1, 63, 4) == [1, 22, 42, 63] and spread(1, 3, 16) == [1, 2, 3] and spread(0, 0, 2) == [0]


def test_position_parts_are_the_embeddings_up_to_a_constant(plain: LanguageModel) -> None:
    found = position_parts(plain, 30)
    torch.testing.assert_close(found, wpe(plain)[:30] - wpe(plain)[0], rtol=0, atol=1e-5)


def test_other_models_and_sites_are_refused(plain: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SAEs of blocks\.0\.hook_resid_pre.*this one is of blocks\.1\.hook_resid_pre"):
        run(plain, text(2, 12), random_sae(), site="blocks.1.hook_resid_pre")
    build("llama", str(tmp_path))
    with pytest.raises(InputError, match=r"llama\) adds no position to what enters its first block"):
        run(load_model(str(tmp_path), device="cpu"), text(2, 12), random_sae(site=SITE))


def test_an_embedding_that_is_no_sum_is_refused() -> None:
    model = language_model(False)
    drop = model.hf.transformer.drop
    handle = drop.register_forward_hook(lambda _m, _a, out: torch.nn.functional.layer_norm(out, (D,)))
    try:
        with pytest.raises(InputError, match="is not a token part plus a position part"):
            position_parts(model, 12)
    finally:
        handle.remove()


def test_on_the_bundled_model(tmp_path: Path) -> None:
    model = load_model("reference", device="cpu")
    width = model.d_model
    g = torch.Generator().manual_seed(0)
    w = torch.nn.functional.normalize(torch.randn(64, width, generator=g), dim=1)
    config = SAEConfig(activation="topk", k=8, d_in=width, d_out=width, d_sae=64, site=SITE, context_length=16)
    sae = SAE(config, SAEWeights(W_enc=w.T.contiguous(), b_enc=torch.zeros(64), W_dec=w, b_dec=torch.zeros(width)))
    tokens = torch.randint(4, model.d_vocab, (2, 40), generator=g)
    random, identity = run(model, make_corpus(tokens), sae, identity_sae(width).with_config(site=SITE, context_length=16))
    assert max(abs(v) for v in values(identity).values()) < 1e-3
    assert all(np.isfinite(v) for v in values(random).values()) and values(random)["kl_token_part"] > 0


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(site=SITE), tmp_path / "sae")
    save_native(random_sae(), tmp_path / "later")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(4, 90, (6, 12)))
    (tmp_path / "task.yaml").write_text(
        "name: mine\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: positional\n"
        f"settings: {{corpus: {{source: {tmp_path / 'tokens.npy'}, n_contexts: 4}}, positions: 3}}\n"
    )
    words = ["run", "--sae", str(tmp_path / "sae"), "--sae", str(tmp_path / "later"), "--model", str(tmp_path / "model")]
    words += ["--device", "cpu", "--task", str(tmp_path / "task.yaml"), "--out", str(tmp_path / "out")]
    assert main(words) == 3, "one of the two is of another site"
    assert "and this one is of blocks.1.hook_resid_pre" in capsys.readouterr().err
    only = [*words[:1], *words[3:-1], str(tmp_path / "none")]
    assert main(only) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("saebench: mine: the study positional takes SAEs of blocks.0.")
    (path,) = find_records(tmp_path / "out")
    record = read_record(path)
    assert {s.name for s in record.scores} == {spec.name for spec in Positional.specs} and record.raw["known_positions"] == 3
    for name in ("positional", "storyworld_positional"):
        assert main(["show", "task", name]) == 0
        assert "study: positional" in capsys.readouterr().out
