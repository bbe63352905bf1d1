"""The study explanation: where patterns know all, nothing is lost; tables and scales by hand; what may not matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose

from saebench.cli import main
from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import SAE, Latents, SAEConfig, SAEWeights, save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.explanation import Explanation, ExplanationSettings
from saebench.studies.explanation.lookup import Lookup, model_ce
from saebench.studies.explanation.simulation import Entries, Simulation, Sums
from saebench.studies.n2g.patterns import Pattern
from saebench.tasklist import StudyTask, TaskCorpus, load_task
from tests.lm.families import build
from tests.metrics.conftest import constant_sae, corpus, make_corpus, measure, model, port, random_sae  # noqa: F401  (fixtures too)

SITE = "blocks.0.hook_resid_pre"
WORDS = (10, 11, 12, 13, 14, 15)
PAD = 7


def run(port: Port, corpus: Corpus, *saes: SAE, batch_size: int | None = None, **changes: Any) -> list[StudyResult]:  # noqa: F811
    settings = ExplanationSettings(
        **{"corpus": TaskCorpus(source="unused", n_contexts=1), "bootstrap": 20, "pad_token": PAD} | changes
    )
    return Explanation(StudySetting(port=port, seed=0, corpus=corpus, batch_size=batch_size), settings).run(saes)


def values(result: StudyResult) -> dict[str, float]:
    return {s.name.removeprefix("explanation_"): s.value for s in result.scores if s.value is not None}


def words(n: int = 24, length: int = 12, seed: int = 0) -> Corpus:
    """Return contexts of the words behind BOS."""
    tokens = torch.tensor(WORDS)[torch.randint(len(WORDS), (n, length), generator=torch.Generator().manual_seed(seed))]
    tokens[:, 0] = 1
    return replace(make_corpus(tokens), has_bos=True)


@pytest.fixture(scope="module")
def embedded(model: LanguageModel) -> tuple[Port, SAE]:  # noqa: F811
    """Where acts are embeddings: an SAE with one latent a word, 1.5, 2, 2.5 … at the word, that writes the embedding."""
    at = Port(model, SITE)
    known = at.clean(torch.tensor([[*WORDS, PAD]])).acts[0]
    sizes = 1.5 + 0.5 * torch.arange(len(WORDS))
    encoder = torch.linalg.pinv(known)[:, :-1] * (sizes + 1)
    n, d = len(WORDS), known.shape[1]
    config = SAEConfig(activation="relu", d_in=d, d_out=d, d_sae=n, name="words", site=SITE, context_length=12)
    weights = SAEWeights(W_enc=encoder, b_enc=-torch.ones(n), W_dec=known[:-1] / sizes[:, None], b_dec=torch.zeros(d))
    return at, SAE(config, weights)


def test_where_patterns_know_everything_nothing_is_lost(embedded: tuple[Port, SAE]) -> None:
    at, sae = embedded
    text = words()
    [found] = run(at, text, sae, latents="all")
    score = values(found)
    for row in ("", "_backtracking", "_sae"):
        assert abs(score[f"delta_ce{row}"]) < 1e-5 and abs(score[f"kl{row}"]) < 1e-5
    for row in ("", "_backtracking"):
        assert score[f"recovered{row}"] == pytest.approx(1, abs=1e-4) and score[f"correlation{row}"] == pytest.approx(1, abs=1e-5)
    assert score["kl_mean"] > 1e-3 and score["delta_ce_mean"] > 0 and score["recovered_unigram"] > 0.9
    assert score["less_bigram"] == pytest.approx(score["delta_ce"] - score["delta_ce_bigram"])
    table = found.tables["explanation"]
    assert list(table["n_patterns"]) == [1] * 6 and table["scale"] == pytest.approx([1.0] * 6, rel=1e-4)
    first, second = text.tokens[:12], text.tokens[12:]
    assert list(table["n_first"]) == [int((first[:, 1:] == word).sum()) for word in WORDS]
    sizes = 1.5 + 0.5 * np.arange(6)
    share = [float((second[:, 1:] == word).double().mean()) for word in WORDS]
    assert table["mean_act"] == pytest.approx(sizes * share, rel=1e-4)


def second_half(text: Corpus) -> Corpus:
    half = len(text.tokens) - len(text.tokens) // 2
    return replace(text, tokens=text.tokens[half:], valid=text.valid[half:], scored=text.scored[half:])


def test_the_mean_is_a_constant_and_the_sae_is_what_core_says(embedded: tuple[Port, SAE]) -> None:
    at, sae = embedded
    text = words()
    score = values(run(at, text, sae, latents="all")[0])
    mean = at.clean(text.tokens[:12]).acts[:, 1:].flatten(0, 1).mean(0)
    noisy = random_sae(s=30)
    constant, own = measure(at, [constant_sae(mean), noisy], second_half(text))
    assert score["delta_ce_mean"] == pytest.approx(constant["delta_ce"].value, abs=1e-6)
    assert score["kl_mean"] == pytest.approx(constant["kl"].value, rel=1e-4)
    [found] = run(at, text, noisy, latents="all")
    [line] = [s for s in found.scores if s.name == "explanation_delta_ce_sae"]
    assert line.value == pytest.approx(own["delta_ce"].value, abs=1e-6) and line.stderr == pytest.approx(own["delta_ce"].stderr)


def test_a_latent_without_patterns_is_taken_for_zero_and_one_that_is_not_chosen_stays(embedded: tuple[Port, SAE]) -> None:
    at, sae = embedded
    text = words()
    text.tokens[:12][text.tokens[:12] == WORDS[2]] = WORDS[3]  # not in the first half
    without = SAE(sae.config, replace(sae.weights, W_dec=sae.W_dec.clone().index_fill_(0, torch.tensor([2]), 0.0)))
    [scores] = measure(at, [without], second_half(text))
    assert scores["kl"].value > 1e-4
    for chosen in ("all", (2,)):
        [found] = run(at, text, sae, latents=chosen)
        score = values(found)
        assert score["kl"] == pytest.approx(scores["kl"].value, rel=1e-4) and abs(score["kl_sae"]) < 1e-5
        assert found.raw["explanation_latents_without_patterns"] == 1
        assert f"words: 1 of {6 if chosen == 'all' else 1} latents never fire in the first half" in found.notes[0]
    [found] = run(at, text, sae, latents=(0, 4))
    assert abs(values(found)["kl"]) < 1e-5 and found.tables["explanation"]["latent"] == [0, 4] and not found.notes


def test_what_the_simulation_writes_takes_the_place_of_what_the_latents_write(port: Port) -> None:  # noqa: F811
    """Against recons made plainly, of an SAE that normalises its input: the token's scale stays."""
    tokens = torch.randint(8, 20, (20, 10), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = 1
    text = replace(make_corpus(tokens), has_bos=True)
    sae = random_sae(s=30, normalisation="layer_norm")
    [found] = run(port, text, sae, latents=(1, 2, 3, 5, 8, 13, 21))
    chosen = torch.tensor([1, 2, 3, 5, 8, 13, 21])
    clean = port.clean(tokens)
    dense = sae.encode(clean.acts.flatten(0, 1)).to_dense()
    written = (dense[:, chosen] @ sae.W_dec[chosen]).view(20, 10, -1)
    overall = written[:10, 1:].flatten(0, 1).mean(0)
    unigram = torch.zeros_like(written)
    for c in range(10, 20):
        for p in range(1, 10):
            same = tokens[:10, 1:] == tokens[c, p]
            unigram[c, p] = (written[:10, 1:][same].sum(0) + overall) / (int(same.sum()) + 1)
    recon = sae.reconstruct(clean.acts.flatten(0, 1)).view(20, 10, -1)
    deviation = clean.acts.std(2, keepdim=True)
    held = second_half(text)
    where = held.scored
    out = recon[10:] + deviation[10:] * (unigram - written)[10:]
    half = port.clean(held.tokens)
    final = port.splice(half, out, where)
    p, q = (port.model.head(x)[held.predicted].log_softmax(-1).double() for x in (half.final, final))
    assert values(found)["kl_unigram"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-3)
    assert values(found)["kl_unigram"] > 1e-5


def test_scale_and_correlation_are_those_of_dense_vectors() -> None:
    rng = np.random.default_rng(0)
    a, s = rng.random((2, 50, 4)) * (rng.random((2, 50, 4)) < 0.4)
    s[:, 3] = 0.0
    a[:, 2] = 0.0
    sums = Sums(4)
    for part in (slice(0, 20), slice(20, 50)):
        some = [Entries(*x[part].nonzero(), x[part][x[part] != 0], 4) for x in (a, s, a)]
        sums.add(part.stop - part.start, some[0], some[1:])
    assert_allclose(sums.scale()[0, :3], (a * s).mean(0)[:3] / (s * s).mean(0)[:3])
    assert sums.scale()[0, 3] == 0 and sums.scale()[1, 0] == pytest.approx(1)
    assert_allclose(sums.correlation()[0, :2], [np.corrcoef(a[:, i], s[:, i])[0, 1] for i in range(2)])
    assert np.isnan(sums.correlation()[0, 2]) and sums.correlation()[0, 3] == 0 and sums.correlation()[1, 1] == pytest.approx(1)


def test_what_patterns_say_and_what_is_written_by_hand() -> None:
    sae = random_sae(d=5, s=9)
    sim = Simulation(sae, np.array([2, 7]), [{Pattern((4,), False): 3.0}, {Pattern((4, 3), False): 2.0}], 6, 0)
    tokens, where = np.array([[3, 4, 4], [4, 3, 4]]), np.array([[True, True, True], [False, True, True]])
    published, _ = sim.said(tokens, where)
    assert (published.row.tolist(), published.latent.tolist()) == ([1, 1, 2, 4, 4], [0, 1, 0, 0, 1])
    assert published.value.tolist() == [3.0, 2.0, 3.0, 3.0, 2.0]
    w = sae.W_dec
    want = torch.stack([0 * w[0], 6 * w[2] + w[7], 6 * w[2], 0 * w[0], 6 * w[2] + w[7]])
    torch.testing.assert_close(sim.written(published, 5, np.array([2.0, 0.5])), want)
    latents = Latents.from_dense(torch.tensor([[0.0, 0, 5, 0, 0, 0, 0, 1, 0], [1.0] * 9, [0.0, 0, 0, 0, 0, 0, 0, 4, 0]]))
    true = sim.true(latents, np.array([True, False, True]))
    assert (true.row.tolist(), true.latent.tolist(), true.value.tolist()) == ([0, 0, 1], [0, 1, 1], [5.0, 1.0, 4.0])


def test_lookup_tables_by_hand() -> None:
    before, tokens = np.array([1, 1, 2, 2]), np.array([5, 5, 5, 6])
    lookup = Lookup(before, tokens, 1, 10, torch.device("cpu"))
    lookup.add(before[:3], tokens[:3], torch.tensor([[1.0], [3.0], [8.0]]))
    lookup.add(before[3:], tokens[3:], torch.tensor([[4.0]]))
    says = {name: x[:, 0].tolist() for name, x in lookup.says(np.array([1, 2, 3, 0]), np.array([5, 6, 5, 9])).items()}
    five, six = (12 + 4) / 4, (4 + 4) / 2
    assert says["mean"] == [4.0] * 4 and says["unigram"] == [five, six, five, 4.0]
    assert says["bigram"] == pytest.approx([(4 + five) / 3, (4 + six) / 2, five, 4.0])


def test_language_models_of_counts() -> None:
    tokens = torch.randint(0, 5, (9, 8), generator=torch.Generator().manual_seed(4))
    fitted, judged = torch.zeros(9, 8, dtype=torch.bool), torch.zeros(9, 8, dtype=torch.bool)
    fitted[:4, 1:-1], judged[4:, 1:-1] = True, True
    found = model_ce(tokens, fitted, judged, 7)
    rows = tokens.tolist()
    pairs = [(rows[c][i], rows[c][i + 1]) for c in range(4) for i in range(1, 7)]
    ones, twos, starts = Counter(b for _, b in pairs), Counter(pairs), Counter(a for a, _ in pairs)

    def unigram(b: int) -> float:
        return (ones[b] + 1) / (len(pairs) + 7)

    def bigram(a: int, b: int) -> float:
        kinds = len({y for x, y in pairs if x == a})
        return (twos[a, b] + kinds * unigram(b)) / (starts[a] + kinds)

    assert sum(unigram(b) for b in range(7)) == pytest.approx(1) and sum(bigram(2, b) for b in range(7)) == pytest.approx(1)
    for c in range(4, 9):
        judged_pairs = [(rows[c][i], rows[c][i + 1]) for i in range(1, 7)]
        assert found["unigram"][c] == pytest.approx(-sum(np.log(unigram(b)) for _, b in judged_pairs))
        assert found["bigram"][c] == pytest.approx(-sum(np.log(bigram(a, b)) for a, b in judged_pairs))
    assert (found["unigram"][:4] == 0).all()
    never = model_ce(tokens + torch.arange(9)[:, None] // 4 * 5, fitted, judged, 20)
    assert_allclose(never["bigram"], never["unigram"]), "nothing is known of what follows tokens that were not seen"


def test_neither_batch_size_nor_padding_nor_other_saes_matter(port: Port) -> None:  # noqa: F811
    tokens = torch.randint(8, 16, (14, 9), generator=torch.Generator().manual_seed(5))
    tokens[:, 0] = 1
    text = replace(make_corpus(tokens), has_bos=True)
    sae = random_sae(s=30)
    [one] = run(port, text, sae, latents=8, n_build=3)
    padded = torch.cat([tokens, torch.zeros(14, 2, dtype=torch.long)], 1)
    valid = torch.ones_like(padded, dtype=torch.bool)
    valid[:, -2:] = False
    others = [
        run(port, text, sae, latents=8, n_build=3, batch_size=3)[0],
        run(port, text, random_sae(seed=1, activation="relu", k=None), sae, latents=8, n_build=3)[1],
    ]
    for other in others:
        assert values(other) == pytest.approx(values(one), rel=1e-4, abs=1e-6)
    wider = values(run(port, replace(make_corpus(padded, valid), has_bos=True), sae, latents="all", n_build=30)[0])
    assert wider == pytest.approx(values(run(port, text, sae, latents="all", n_build=30)[0]), rel=1e-3, abs=1e-5)


def test_an_sae_that_never_fires_and_one_that_overflows(port: Port) -> None:  # noqa: F811
    text = words(8)
    [silent] = run(port, text, constant_sae(torch.zeros(24)), latents=5)
    score = values(silent)
    assert score["delta_ce"] == score["delta_ce_sae"] == score["delta_ce_bigram"] and "no latent fires" in silent.notes[0]
    assert {s.status for s in silent.scores if s.name.startswith(("explanation_rec", "explanation_cor"))} == {"undefined"}
    sae = random_sae(activation="relu", k=None, normalisation="constant_scale", norm_scale=1e5)
    broken = SAE(sae.config, replace(sae.weights, W_enc=sae.weights.W_enc * 1e38))
    with np.errstate(all="ignore"):
        [failed] = run(port, text, broken, latents=5)
    assert {s.status for s in failed.scores if "model" not in s.name} == {"failed"}


def test_progress_and_refusals(port: Port) -> None:  # noqa: F811
    told: list[int] = []
    text = words(7)
    setting = StudySetting(port=port, seed=0, corpus=text, advance=told.append, batch_size=2)
    study = Explanation(setting, ExplanationSettings(corpus=TaskCorpus(source="unused", n_contexts=1), latents=2, n_build=2))
    study.run([random_sae()])
    assert sum(told) == study.total()
    with pytest.raises(InputError, match="has no latent 40"):
        run(port, text, random_sae(), latents=(40,))
    with pytest.raises(InputError, match="has one context"):
        run(port, words(1), random_sae())


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(), tmp_path / "sae")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(4, 90, (8, 12)))
    (tmp_path / "task.yaml").write_text(
        "name: mine\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: explanation\n"
        f"settings: {{corpus: {{source: {tmp_path / 'tokens.npy'}, n_contexts: 8}}, latents: 5, n_build: 2}}\n"
    )
    command = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    assert main([*command, "--task", str(tmp_path / "task.yaml"), "--out", str(tmp_path / "out")]) == 0
    [path] = find_records(tmp_path / "out")
    record = read_record(path)
    assert {score.name for score in record.scores} == {spec.name for spec in Explanation.specs}
    assert pq.read_table(path.with_name(record.tables["explanation"].file)).num_rows == 5
    capsys.readouterr()
    for name in ("explanation", "storyworld_explanation"):
        task = load_task(name)
        assert isinstance(task, StudyTask) and ExplanationSettings.model_validate(task.settings).corpus.context_length == 64
