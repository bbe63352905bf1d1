"""Cloze examples from hub data sets: what a row becomes, the published first-token rule, and what is said without data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saebench.cli import main
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.sae import save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudySetting
from saebench.studies.cloze import Cloze, ClozeSettings
from saebench.studies.cloze.encoding import encode_first
from saebench.studies.cloze.examples import Example
from saebench.studies.cloze.hub import HubData, hub_examples
from saebench.studies.settings import study_of
from saebench.tasklist import StudyTask, load_task
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, random_sae
from tests.studies.cloze_cases import SITE, plain, values, words

QUESTION = {"sentences": ["w5 w6", "w7"], "question": "w8 XXXXX w9 w10", "answer": "w12", "options": ["w11", "w12", "w11", ""]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("hub") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


def mirror(folder: Path, id: str, rows: Sequence[dict[str, Any]], config: str = "default", split: str = "test") -> Path:
    path = folder / id / config / f"{split}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def passages(n: int, longest: int = 30) -> list[dict[str, str]]:
    g = np.random.default_rng(0)
    return [{"text": words(*g.integers(4, 96, 4 + i % longest))} for i in range(n)]


def test_a_passage_becomes_prompt_and_last_word(tmp_path: Path):
    rows = [{"text": "One two\nthree."}, {"text": "alone"}, {"text": "  "}, {"text": "Four five "}]
    data = HubData(id="a/b", form="lambada", order="file")
    texts = hub_examples(data, "last_word", seed=0, n=9, data_dir=mirror(tmp_path, "a/b", rows))
    assert [(e.prompt, e.candidates) for e in texts.examples] == [("One", ("two\nthree.",)), ("Four", ("five",))]
    assert texts.left_out == 2 and texts.name == "mirror:a/b/default/test.jsonl.gz"


def test_a_question_becomes_a_gap_with_its_candidates(tmp_path: Path):
    bad = [QUESTION | {"answer": "w99"}, QUESTION | {"question": "no gap"}, QUESTION | {"options": ["w12"]}]
    folder = mirror(tmp_path, "cbt", [*bad, QUESTION], "CN")
    data = HubData(id="cam-cst/cbt", also=("cbt",), config="CN", form="cbt", order="file")
    texts = hub_examples(data, "candidates", seed=0, n=9, data_dir=folder)
    (one,) = texts.examples
    assert (one.prompt, one.rest, one.candidates, one.answer) == ("w5 w6 w7 w8", " w9 w10", ("w11", "w12"), 1)
    assert texts.left_out == 3
    first = hub_examples(data, "first_token", seed=0, n=9, data_dir=folder)
    assert [(e.prompt, e.candidates) for e in first.examples][-1] == ("w5 w6 w7 w8", ("w12",))


@pytest.mark.parametrize(
    ("question", "prompt"),
    [("XXXXX had it .", "One . Two . "), ("`` XXXXX has it", "One . Two . ``"), ("(XXXXX) it", "One . Two . ")],
)
def test_the_published_prompt_drops_one_character_before_the_blank(tmp_path: Path, question: str, prompt: str):
    row = {"sentences": ["One .", "Two ."], "question": question, "answer": "x", "options": ["x", "y"]}
    data = HubData(id="a/b", form="cbt", order="file")
    (one,) = hub_examples(data, "first_token", seed=0, n=1, data_dir=mirror(tmp_path, "a/b", [row])).examples
    assert one.prompt == prompt


def test_the_seed_or_the_file_chooses(tmp_path: Path):
    folder = mirror(tmp_path, "a/b", passages(40))

    def chosen(order: Any, seed: int, n: int = 10) -> list[str]:
        data = HubData(id="a/b", form="lambada", order=order)
        return [e.prompt for e in hub_examples(data, "last_word", seed=seed, n=n, data_dir=folder).examples]

    assert chosen("seed", 0) == chosen("seed", 0) != chosen("seed", 1)
    assert chosen("file", 0) == chosen("file", 1) == [p["text"].rpartition(" ")[0] for p in passages(10)]
    assert sorted(chosen("seed", 0, 99)) == sorted(chosen("seed", 1, 99)) == sorted(chosen("file", 0, 99))


def first_token_oracle(model: LanguageModel, example: Example, sae: Any = None) -> tuple[float, bool, float]:
    """Return (ln p of the word's first token, whether it is the likeliest, CE of tokens 2 … j − 1), BOS replaced as well."""
    lnp, best, prompt = plain(model, example, example.candidates[0], sae, splice_bos=True)
    j = prompt - 1  # the last prompt token; lnp[p] is of token p + 1
    return lnp[j], bool(best[j]), float(-lnp[1 : j - 1].mean())


def test_the_published_rule_is_that_of_plain_forwards(model: LanguageModel, tmp_path: Path):
    folder, sae = mirror(tmp_path, "a/b", passages(12)), random_sae(seed=2)
    data = HubData(id="a/b", form="lambada", order="file")
    settings = ClozeSettings(data=data, answer="first_token", n=12, ngram_words=0, splice_bos=True)
    (result,) = Cloze(StudySetting(port=Port(model, SITE), seed=0, data_dir=folder), settings).run([sae])
    rows = result.tables["examples"]
    examples = hub_examples(data, "first_token", seed=0, n=12, data_dir=folder).examples
    clean = [first_token_oracle(model, example) for example in examples]
    spliced = [first_token_oracle(model, example, sae) for example in examples]
    for name, found in (("clean", clean), ("spliced", spliced)):
        np.testing.assert_allclose(rows[f"lnp_{name}"], [f[0] for f in found], atol=1e-4)
        assert list(rows[f"right_{name}"]) == [f[1] for f in found]
        by_prompt = [f[2] for f in found]
        np.testing.assert_allclose(np.array(rows[f"ce_{name}"], float), by_prompt, atol=1e-4)
        assert values(result)[f"ce_prompt_{name}"] == pytest.approx(np.nanmean(by_prompt), abs=1e-4)
    assert values(result)["delta_lnp_mean"] == pytest.approx(
        np.mean([s[0] - c[0] for c, s in zip(clean, spliced, strict=True)]), abs=1e-4
    )


def test_a_long_prompt_is_cut_at_the_right_and_the_first_token_counts(model: LanguageModel):
    long = Example(prompt=words(*[4 + i % 90 for i in range(80)]), candidates=("w5 w6",), answer=0)
    (one,) = encode_first([long], model.tokenizer, max_context=model.n_ctx)
    assert one.trunk == [1, *[4 + i % 90 for i in range(model.n_ctx - 1)]] and one.cut == 80 - model.n_ctx + 1
    assert one.branches == [[5]] and one.n_prompt == model.n_ctx - 1


def test_every_score_is_split_at_the_training_context(model: LanguageModel, tmp_path: Path):
    folder = mirror(tmp_path, "a/b", passages(20))
    settings = ClozeSettings(data=HubData(id="a/b", form="lambada"), answer="last_word", n=20, ngram_words=0, latents=None)
    saes = [random_sae(seed=1, context_length=c) for c in (16, 64, None)]
    port = Port(model, SITE)
    split, all_within, unknown = Cloze(StudySetting(port=port, seed=0, data_dir=folder), settings).run(saes)
    names = {spec.name for spec in Cloze.specs}
    assert {s.name for s in split.scores} <= names and len(split.scores) % 3 == 0
    found, rows = values(split), split.tables["examples"]
    within = np.array(rows["n_tokens"]) <= 16
    assert 0 < within.sum() < 20
    change = np.array(rows["lnp_spliced"], float) - np.array(rows["lnp_clean"], float)
    for part, which in (("within", within), ("beyond", ~within)):
        assert found[f"delta_lnp_mean_{part}_context"] == pytest.approx(change[which].mean())
        assert found[f"acc_clean_{part}_context"] == pytest.approx(np.array(rows["right_clean"])[which].mean())
        assert next(s.n for s in split.scores if s.name == f"acc_delta_{part}_context") == which.sum()
    assert found["n_both"] == found["n_both_within_context"] + found["n_both_beyond_context"]  # pyright: ignore[reportOptionalOperand]
    by_name = {s.name: s for s in all_within.scores}
    assert by_name["acc_clean_beyond_context"].value is None
    assert by_name["acc_clean_beyond_context"].reason == "every prompt is no longer than its 64 tokens"
    assert by_name["acc_clean_within_context"].value == by_name["acc_clean"].value
    assert {s.status for s in unknown.scores if s.name.endswith("_context")} == {"undefined"}
    assert "--trained-context" in (next(s for s in unknown.scores if s.name == "ce_clean_within_context").reason or "")


def test_other_columns_are_named(tmp_path: Path):
    folder = mirror(tmp_path, "a/b", [{"txt": "x y"}])
    with pytest.raises(InputError, match="a/b has no column 'text', which form 'lambada' needs; it has: txt"):
        hub_examples(HubData(id="a/b", form="lambada"), "last_word", seed=0, n=2, data_dir=folder)


@pytest.mark.parametrize("both", [True, False])
def test_one_source_is_asked_for(both: bool):
    data = HubData(id="a/b", form="lambada") if both else None
    with pytest.raises(ValueError, match="give either `examples`, the name of a source, or `data`"):
        ClozeSettings(examples="storyworld_lambada" if both else None, data=data, answer="last_word")


def test_the_published_tasks_are_whole():
    for name in ("lambada_openai", "lambada_standard", "cbt_cn", "cbt_ne", "anders_lambada", "anders_cbt_cn"):
        task = load_task(name)
        assert isinstance(task, StudyTask)
        settings = study_of(task)[1]
        assert isinstance(settings, ClozeSettings) and settings.data is not None
        published = name.startswith("anders")
        assert (settings.answer == "first_token") == settings.splice_bos == (settings.data.order == "file") == published


def test_missing_data_costs_its_own_task_only(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _offline)
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(seed=0), tmp_path / "sae")
    folder = mirror(tmp_path / "data", "EleutherAI/lambada_openai", passages(6))
    command = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    command += ["--task", "cbt_cn", "--task", "lambada_openai", "--limit", "4"]
    assert main([*command, "--data-dir", str(folder), "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "cbt_cn" in said and "cam-cst/cbt/CN/validation.jsonl.gz" in said and "sentences, question, answer, options" in said
    (record,) = map(read_record, find_records(tmp_path / "out"))
    assert record.task.name == "lambada_openai" and record.data.n_contexts == 4
    assert record.settings["bos"] == "left clean by splice and ablations"


def _offline(*_: Any, **__: Any) -> Any:
    raise OSError("no network here")


def test_the_record_says_that_bos_is_replaced_where_the_task_wants_it(tmp_path: Path):
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(seed=0), tmp_path / "sae")
    folder = mirror(tmp_path / "data", "cimec/lambada", passages(6))
    command = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu", "--limit", "4"]
    assert main([*command, "--task", "anders_lambada", "--data-dir", str(folder), "--out", str(tmp_path / "out")]) == 0
    (record,) = map(read_record, find_records(tmp_path / "out"))
    assert record.settings["bos"] == "replaced by splice and ablations"
    assert record.settings["settings"]["splice_bos"] is True


def test_real_passages_and_rebuilt_questions(shared_dir: Path):
    """On a real small model: the identity changes nothing, and every row of the mirror can be asked."""
    model = load_model(str(shared_dir / "models/stories260K"), device="cpu")
    data = shared_dir / "data"
    lambada = hub_examples(HubData(id="EleutherAI/lambada_openai", form="lambada"), "last_word", seed=0, n=9999, data_dir=data)
    assert (len(lambada.examples), lambada.left_out) == (5153, 0)
    cbt = HubData(id="local/cbt_cn_rebuilt", form="cbt")
    assert len(hub_examples(cbt, "candidates", seed=0, n=9999, data_dir=data).examples) == 749
    settings = ClozeSettings(data=cbt, answer="candidates", n=3, ngram_words=0)
    study = Cloze(StudySetting(port=Port(model, "blocks.2.hook_resid_pre"), seed=0, data_dir=data), settings)
    (result,) = study.run([identity_sae(model.d_model)])
    assert values(result)["acc_delta"] == 0 and values(result)["acc_chance"] == pytest.approx(0.1)
    assert torch.isfinite(torch.tensor(result.tables["examples"]["lnp_clean"])).all()
