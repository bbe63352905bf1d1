"""The lm-eval study: the numbers of lm-eval's own model with a plain hook, computed together, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from saebench.cli import main
from saebench.errors import InputError
from saebench.lm.lm_eval import SplicedLM
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.metrics.base import ScoreSpec
from saebench.sae import save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult
from saebench.studies.lm_eval import LmEval
from saebench.studies.lm_eval.passes import Passes
from saebench.studies.lm_eval.tasks import seeded
from saebench.tasklist import load_task
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, random_sae
from tests.studies.cloze_cases import values
from tests.studies.lm_eval_cases import SITE, TASKS, Hooked, ours, theirs, write_tasks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("lm_eval") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def column(result: StudyResult, name: str) -> np.ndarray:
    return np.array(result.tables["documents"][name], dtype=float)


@pytest.mark.parametrize(("task", "splice_bos"), [*((task, False) for task in TASKS), ("toy_mc", True)])
def test_the_numbers_are_those_of_their_model_with_a_hook(model: LanguageModel, tasks: Path, task: str, splice_bos: bool):
    sae = random_sae(seed=2)
    (result,) = ours(Port(model, SITE), [sae], tasks, task, splice_bos=splice_bos)
    found, changed = values(result), False
    for part, used in (("clean", None), ("spliced", sae)):
        want = theirs(Hooked(model.id, used, splice_bos=splice_bos), tasks, task)
        for key, value in want["results"][task].items():
            metric, _, chosen = key.partition(",")
            if chosen and not metric.endswith("_stderr"):
                assert found[f"{metric}_{part}"] == pytest.approx(value, rel=2e-5, abs=1e-7), key
        samples = want["samples"][task]
        if task == "toy_gen":
            continue
        flat = [s["filtered_resps"] for s in samples]
        if task == "toy_mc":
            lnp = [r[s["target"]][0] for r, s in zip(flat, samples, strict=True)]
        else:
            lnp = [r[0][0] if task == "toy_ll" else r[0] for r in flat]
        np.testing.assert_allclose(column(result, f"lnp_{part}"), lnp, atol=1e-5, rtol=1e-6)
    if task != "toy_gen":
        changed = np.abs(column(result, "lnp_clean") - column(result, "lnp_spliced")).min() > 1e-3
        assert changed, "the SAE must change something"


def test_what_is_written_is_what_their_model_writes(model: LanguageModel, tasks: Path):
    sae, different = random_sae(seed=2), 0
    passes = Passes(Port(model, SITE), [sae], batch_size=2)
    lm = SplicedLM(passes, model.tokenizer, max_length=model.n_ctx)
    for which, used in enumerate((None, sae)):
        lm.which = which
        want, found = (theirs(one, tasks, "toy_gen", limit=5)["samples"]["toy_gen"] for one in (Hooked(model.id, used), lm))
        assert [s["resps"] for s in found] == [s["resps"] for s in want]
        different += len({str(s["resps"]) for s in found})
    assert different > 2


def test_the_models_context_is_respected_as_theirs(model: LanguageModel, tmp_path: Path):
    folder, sae = write_tasks(tmp_path, 32), random_sae(seed=1)  # the last texts have more tokens than the model takes
    for task in ("toy_ll", "toy_mc"):
        (result,) = ours(Port(model, SITE), [sae], folder, task)
        want = theirs(Hooked(model.id, sae), folder, task)["samples"][task]
        lnp = [s["filtered_resps"][s["target"] if task == "toy_mc" else 0][0] for s in want]
        np.testing.assert_allclose(column(result, "lnp_spliced"), lnp, atol=1e-5, rtol=1e-6)
        assert (result.raw["requests_cut"] or 0) > 0 and "cut at the left" in result.notes[0]
        assert result.data.context_length == model.n_ctx


def test_an_identity_changes_nothing(model: LanguageModel, tasks: Path):
    (result,) = ours(Port(model, SITE), [identity_sae()], tasks, "toys")
    found = values(result)
    assert found["acc_delta"] == 0 and found["mcnemar_p"] == 1 and found["delta_lnp_mean"] == pytest.approx(0, abs=1e-5)
    assert result.data.n_contexts == 18 and set(result.tables["documents"]["task"]) == {"toy_ll", "toy_mc"}


def test_neither_company_nor_batch_size_moves_a_score(model: LanguageModel, tasks: Path):
    port, saes = Port(model, SITE), [random_sae(seed=s) for s in range(3)]
    together = ours(port, saes, tasks, "toys")
    (alone,) = ours(port, saes[1:2], tasks, "toys", batch_size=1)
    by_itself = values(alone)
    for name, value in values(together[1]).items():
        assert by_itself[name] == (value if value is None else pytest.approx(value, rel=1e-5, abs=1e-5)), name
    assert together[1].data == alone.data
    assert values(together[0])["delta_lnp_mean"] != values(together[1])["delta_lnp_mean"]


def test_prefix_and_clean_pass_run_once_for_all_saes_and_candidates(model: LanguageModel, tasks: Path, monkeypatch):
    rows: list[int] = []
    clean = Port.clean
    monkeypatch.setattr(Port, "clean", lambda self, tokens, **k: rows.append(len(tokens)) or clean(self, tokens, **k))
    counts = []
    for n in (1, 3):
        rows.clear()
        ours(Port(model, SITE), [random_sae(seed=s) for s in range(n)], tasks, "toy_mc")
        counts.append(sum(rows))
    assert counts[0] == counts[1] <= 9 + 2, "a row a document, and two to try whether rows with branches work"


def test_texts_are_tokenised_once_for_all_passes(model: LanguageModel, tasks: Path, monkeypatch):
    texts: list[str] = []
    encode = SplicedLM.tok_encode
    monkeypatch.setattr(SplicedLM, "tok_encode", lambda self, text, *a, **k: texts.append(text) or encode(self, text, *a, **k))
    counts = []
    for n in (1, 3):
        texts.clear()
        ours(Port(model, SITE), [random_sae(seed=s) for s in range(n)], tasks, "toy_ll")
        counts.append(len(texts))
    assert counts == [18, 18], "a document's context, and its context with the word"


def test_a_limit_takes_the_first_documents(model: LanguageModel, tasks: Path):
    port, sae = Port(model, SITE), random_sae(seed=2)
    (all_of_them,) = ours(port, [sae], tasks, "toy_ll")
    (few,) = ours(port, [sae], tasks, "toy_ll", limit=4)
    assert few.data.n_contexts == 4
    np.testing.assert_allclose(column(few, "lnp_spliced"), column(all_of_them, "lnp_spliced")[:4], atol=1e-5)
    told: list[int] = []
    ours(port, [sae], tasks, "toy_ll", advance=told.append)
    assert sum(told) == 9


@pytest.mark.parametrize(("task", "lengths"), [("toy_ll", [4, 6]), ("toy_gen", [4, 6]), ("toy_roll", [21, 38])])
def test_contexts_are_measured_and_scores_split_by_them(model: LanguageModel, tasks: Path, task: str, lengths: list[int]):
    (result,) = ours(Port(model, SITE), [random_sae(seed=2, context_length=lengths[0])], tasks, task, limit=2)
    assert result.tables["documents"]["n_tokens"] == lengths, "BOS and the words"
    counts = {score.name: score.n for score in result.scores}
    name = {"toy_ll": "acc_clean", "toy_gen": "exact_match_clean", "toy_roll": "delta_lnp_mean"}[task]
    assert [counts[name], counts[f"{name}_within_context"], counts[f"{name}_beyond_context"]] == [2, 1, 1]


def test_without_bos_as_lm_eval_does(model: LanguageModel, tasks: Path):
    (with_bos,), (without,) = (
        ours(Port(model, SITE), [identity_sae()], tasks, "toy_ll", settings={"prepend_bos": b}) for b in (None, False)
    )
    assert np.abs(column(with_bos, "lnp_clean") - column(without, "lnp_clean")).max() > 1e-3
    lm = SplicedLM(Passes(Port(model, SITE), []), model.tokenizer, max_length=64, prepend_bos=False)
    assert lm.tok_encode("w5 w6") == [5, 6] and lm.tok_encode("w5", add_special_tokens=True) == [1, 5]
    assert SplicedLM(Passes(Port(model, SITE), []), model.tokenizer, max_length=64).tok_encode("w5 w6") == [1, 5, 6]


def changed(tasks: Path, tmp_path: Path, task: str, old: str, new: str) -> str:
    text = (tasks / f"{task}.yaml").read_text().replace(old, new)
    assert new in text
    file = tmp_path / f"{task}_changed.yaml"
    file.write_text(text)
    return str(file)


def test_tasks_that_shuffle_are_the_same_each_time(model: LanguageModel, tasks: Path, tmp_path: Path):
    file = Path(changed(tasks, tmp_path, "toy_ll", "task: toy_ll", "process_docs: !function own.mixed\ntask: toy_mixed"))
    file.with_name("own.py").write_text(
        "import random\nimport numpy as np\n\n\ndef mixed(rows):\n"
        "    order = random.sample(range(len(rows)), len(rows))\n    return rows.select(np.random.permutation(order))\n"
    )
    first, second = (ours(Port(model, SITE), [identity_sae()], tasks, str(file), limit=4)[0] for _ in range(2))
    assert first.data == second.data
    plain, mixed = column(ours(Port(model, SITE), [identity_sae()], tasks, "toy_ll")[0], "lnp_clean"), column(first, "lnp_clean")
    assert all(np.abs(plain - one).min() < 1e-5 for one in mixed) and np.abs(plain[:4] - mixed).max() > 1e-3


def test_seeds_are_put_back():
    before = random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()
    drawn = []
    for _ in range(2):
        with seeded():
            drawn.append((random.random(), np.random.rand()))
    assert drawn[0] == drawn[1] == (random.Random(0).random(), np.random.RandomState(1234).rand())
    assert (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()) == before


def test_where_contexts_are_chosen_from_the_right_one_counts(model: LanguageModel, tasks: Path, tmp_path: Path):
    """As winogrande: one continuation, and the context to choose."""
    old = 'doc_to_text: "{{text}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: "{{label}}"\nfewshot_split: test\nnum_fewshot: 1'
    file = changed(tasks, tmp_path, "toy_mc", old, 'doc_to_text: label\ndoc_to_choice: "{{options}}"\ndoc_to_target: text')
    Path(file).write_text(Path(file).read_text().replace("task: toy_mc", "task: toy_contexts"))
    sae = random_sae(seed=2)
    (result,) = ours(Port(model, SITE), [sae], tasks, file)
    for part, used in (("clean", None), ("spliced", sae)):
        samples = theirs(Hooked(model.id, used), tmp_path, "toy_contexts")["samples"]["toy_contexts"]
        lnp = [s["filtered_resps"][s["doc"]["label"]][0] for s in samples]
        np.testing.assert_allclose(column(result, f"lnp_{part}"), lnp, atol=1e-5, rtol=1e-6)
    assert values(result)["delta_lnp_mean"] is not None


def test_code_that_the_model_writes_is_not_run_unless_allowed(model: LanguageModel, tasks: Path, tmp_path: Path):
    file = changed(tasks, tmp_path, "toy_ll", "task: toy_ll", "unsafe_code: true\ntask: toy_ll_unsafe")
    with pytest.raises(InputError, match=r"runs code that the model has written; .*`allow_code: true`"):
        ours(Port(model, SITE), [identity_sae()], tasks, file)
    with pytest.raises(InputError, match="toy_ll_unsafe runs code"):
        ours(Port(model, SITE), [identity_sae()], tmp_path, "toy_ll_unsafe")
    (result,) = ours(Port(model, SITE), [identity_sae()], tasks, file, settings={"allow_code": True})
    assert result.data.n_contexts == 9


@pytest.mark.parametrize(
    ("task", "old", "new", "message"),
    [
        ("toy_gen", "do_sample: false", "do_sample: true, temperature: 0.7", "samples what it writes"),
        ("toy_gen", "max_gen_toks: 6", "max_gen_toks: 64", "writes 64 tokens, and the model takes 64 in all"),
        ("toy_ll", "rows.jsonl", "gone.jsonl", "lm-eval cannot load the task .*toy_ll_changed.yaml"),
        ("toy_ll", '" {{word}}"', '""', "likelihood of an empty text"),
    ],
)
def test_what_cannot_be_asked_is_one_line(model: LanguageModel, tasks: Path, tmp_path: Path, task, old, new, message):
    with pytest.raises(InputError, match=message) as error:
        ours(Port(model, SITE), [identity_sae()], tasks, changed(tasks, tmp_path, task, old, new))
    assert "\n" not in str(error.value)


def test_unknown_names_and_missing_files(model: LanguageModel, tasks: Path, monkeypatch):
    from saebench.studies.lm_eval import tasks as loading

    index = loading._index
    monkeypatch.setattr(loading, "_index", lambda path, stock: index(path, False))  # the stock tasks take seconds to list
    with pytest.raises(InputError, match=r"unknown lm-eval task 'toy_lll'\. Did you mean 'toy_ll'"):
        ours(Port(model, SITE), [identity_sae()], tasks, "toy_lll")
    with pytest.raises(InputError, match=r"no such lm-eval task file: nowhere\.yaml"):
        ours(Port(model, SITE), [identity_sae()], tasks, "nowhere.yaml")
    with pytest.raises(InputError, match="name a task of lm-eval"):
        load_task("lm-eval:")
    with pytest.raises(InputError, match=r"no such lm-eval task file: nowhere\.yaml"):
        load_task("lm-eval:nowhere.yaml")


def test_a_file_is_run_resumed_and_refused_when_it_changed(model: LanguageModel, tasks: Path, tmp_path: Path, capsys):
    save_native(random_sae(seed=0), tmp_path / "sae")
    file = changed(tasks, tmp_path, "toy_mc", "task: toy_mc", "task: toy_own")
    command = ["run", "--sae", str(tmp_path / "sae"), "--model", model.id, "--device", "cpu", "--out", str(tmp_path / "out")]
    command += ["--task", f"lm-eval:{file}"]
    assert main(command) == 0
    (path,) = find_records(tmp_path / "out")
    record = read_record(path)
    assert (record.task.name, record.data.n_contexts) == ("lm-eval:toy_mc_changed", 9)
    assert record.settings["settings"]["task"] == file and record.tables["documents"].rows == 9
    names = {spec.name for spec in LmEval.specs}
    assert {"acc_clean", "acc_spliced", "acc_delta", "acc_norm_delta", "delta_lnp_mean", "n_both", "mcnemar_p"} <= names
    assert {s.name for s in record.scores} <= names and {s.unit_n for s in record.scores} == {"documents"}
    before = path.stat().st_mtime_ns
    assert main(command) == 0 and path.stat().st_mtime_ns == before
    Path(file).write_text(Path(file).read_text().replace("num_fewshot: 1", "num_fewshot: 0"))
    capsys.readouterr()
    assert main(command) == 2 and "made with settings task_sha256=" in capsys.readouterr().err


def test_a_task_that_cannot_be_had_costs_itself_only(model: LanguageModel, tasks: Path, tmp_path: Path, capsys):
    save_native(random_sae(seed=0), tmp_path / "sae")
    gone = changed(tasks, tmp_path, "toy_ll", "rows.jsonl", "gone.jsonl")
    command = ["run", "--sae", str(tmp_path / "sae"), "--model", model.id, "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main([*command, "--task", f"lm-eval:{gone}", "--task", f"lm-eval:{tasks / 'toy_mc.yaml'}"]) == 3
    assert [read_record(p).task.name for p in find_records(tmp_path / "out")] == ["lm-eval:toy_mc"]
    assert "lm-eval cannot load the task" in capsys.readouterr().err


def test_definitions_are_unique():
    specs: tuple[Any, ...] = LmEval.specs
    assert len({spec.name for spec in specs}) == len(specs) and all(isinstance(spec, ScoreSpec) for spec in specs)
