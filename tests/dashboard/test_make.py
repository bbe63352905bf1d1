"""The command: what the page says, against plain computations; what is missing; what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.cli import main
from saebench.dashboard import make
from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.sae import load_sae
from saebench.store import read_record
from saebench.studies.n2g import N2G
from saebench.tasklist import StudyTask, load_task
from tests.dashboard.cases import ALLOWED, HOSTILE, LENGTH, SITE, Page, write_all
from tests.dashboard.test_choose import scored

STUDY = "name: my_{name}\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: {name}\nsettings: "
STUDY += "{{corpus: {{source: nothing, n_contexts: 40}}, {more}}}\n"


class Made:
    """A page that the command wrote, and where from."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.folder, self.words = folder, words

    def run(self, *more: str, out: str = "out") -> int:
        return main(["dashboard", *self.words, "--out", str(self.folder / out), *more])

    def html(self, out: str = "out") -> str:
        [file] = (self.folder / out / "model" / SITE).glob("sae-*.html")
        return file.read_text(encoding="utf-8")

    def section(self, latent: int, out: str = "out") -> str:
        return self.html(out).split(f'<section id="latent-{latent}">')[1].split("</section>")[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dashboard")
    found = Made(folder, write_all(folder))
    assert found.run("--latents", "3,7", "--choose", "densest:1", "--examples", "20") == 0
    return found


def test_the_page_holds_nothing_but_itself_whatever_the_tokens_are(made: Made):
    html = made.html()
    page = Page(html)
    assert page.is_harmless() and ALLOWED - page.tags <= {"wbr", "svg", "rect", "br", "i"}
    assert not re.search(r"url\(|@import|<script|javascript:", html.split("</head>")[0])
    assert "default-src 'none'" in html and html.startswith("<!DOCTYPE html>")
    shown = page.text + "".join(title or "" for title in page.attributes("title"))
    for word in (
        "<script>alert(1)</script>",
        "</style></title><h1>",
        "&lt;b&gt;&amp;",
        "{{ 7 * 7 }}{% raw %}",
        "a\\u202eb\\u2066c",
        "\\x00\\x1b[31m",
    ):
        assert word in shown
    assert not any(char in html for char in "\x00\x1b\u202e\u2066\u2028\u200d")
    assert len([tag for tag, _ in page.elements if tag == "h1"]) == 1


def test_its_numbers_are_those_of_a_plain_loop(made: Made):
    sae, model = load_sae(made.folder / "sae"), load_model(str(made.folder / "model"), device="cpu")
    tokens = torch.from_numpy(np.load(made.folder / "tokens.npy"))
    acts = Port(model, SITE).clean(tokens, final=False).acts[:, 1:].flatten(0, 1)
    latents = sae.encode(acts).to_dense()
    html = made.html()
    assert re.findall(r'href="#latent-(\d+)"', html) == ["3", "7", "0"], "those named, then those chosen"
    for latent in (3, 0):
        own = latents[:, latent]
        n, text = int((own != 0).sum()), made.section(latent)
        assert 0 < n and f"({n:,} of {len(own):,} tokens)" in text
        assert f"<dd>{own[own != 0].double().mean():.3g}</dd>" in text and f"<dd>{own.max():.3g}</dd>" in text
        assert f"<dd>{sae.W_dec[latent].norm():.3g}</dd>" in text
        bars = [int(found.replace(",", "")) for found in re.findall(r"<title>[^<]*: ([\d,]+)</title>", text)]
        assert sum(bars) == n
        per_context = own.reshape(len(tokens), LENGTH - 1).max(1).values
        top = re.findall(r'class="about">([^ ]+) · context (\d+)', text)[:20]
        expected = sorted(range(len(tokens)), key=lambda c, best=per_context: (-float(best[c]), c))[:20]
        assert [(f"{per_context[c]:.3g}", str(c)) for c in expected] == top
    for number, position, shade in re.findall(r'--a:([\d.]+)" title="([\d.]+) [^"]*position (\d+)"', made.section(0))[:3]:
        assert 0 <= float(number) <= 1 and float(position) > 0 and 0 < int(shade) < LENGTH


def test_a_dead_latent_says_so_and_still_has_its_direction(made: Made):
    text = made.section(7)
    assert "Dead: it fires at none of the 600 tokens" in text and "fires nowhere on this text" in text
    assert "<svg" not in text and 'class="context"' not in text and ">promoted<" in text


def test_what_is_missing_is_said_with_the_command_that_makes_it(made: Made):
    text = Page(made.section(3)).text
    for task in ("ablation", "probes61", "lambada_openai"):
        assert f"saebench run --sae {made.folder}/sae --model {made.folder}/model --task {task} --out results" in text
    assert text.count("Not measured.") == 3 and "F1, no match missed" in text


@pytest.mark.parametrize("tasks", [make._TASKS, make._BUNDLED])
def test_the_tasks_of_these_commands_exist(tasks: dict[str, str]):
    for study, name in tasks.items():
        task = load_task(name)
        assert isinstance(task, StudyTask) and task.study == study


def test_batches_do_not_matter(made: Made):
    for out, size in (("one", "1"), ("seven", "7")):
        assert made.run("--choose", "random:3", "--choose", "rarest:1", "--batch-size", size, out=out) == 0
    assert made.html("one") == made.html("seven")


def test_records_fill_the_page_and_patterns_are_not_made_again(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    records = made.folder / "records"
    for name, more in (("n2g", "latents: [0, 3]"), ("ablation", "tokens: 30, positions: 4")):
        task = made.folder / f"{name}.yaml"
        task.write_text(STUDY.format(name=name, more=more))
        assert main(["run", *made.words, "--task", str(task), "--out", str(records)]) == 0
    scored(records, 0, latent=[0, 3], p=[0.001, 0.2], delta_lnp_z=[-3.0, 1.2], role=["harmful", ""])
    found = [read_record(path) for path in records.rglob("seed0.json")]
    assert len(found) == 3
    [theirs] = [path for path in records.rglob("seed0.json") if "storyworld_lambada" in str(path)]
    record = read_record(theirs)  # made by hand, so of another model
    theirs.write_text(record.model_copy(update={"model": next(r.model for r in found if r.task.name == "my_n2g")}).to_json())
    monkeypatch.setattr(N2G, "run", lambda *_: pytest.fail("the records have the patterns"))
    more = ["--records", str(records), "--latents", "3", "--choose", "most_harmful:4"]
    capsys.readouterr()
    assert made.run(*more, out="filled") == 0
    assert "only 1 latents were tested and go that way" in capsys.readouterr().err
    html, text = made.html("filled"), Page(made.section(0, "filled")).text
    assert re.findall(r'href="#latent-(\d+)"', html) == ["3", "0"] and Page(html).is_harmless()
    assert "from the records: my_n2g@1, seed 0" in text and "from the records: my_ablation@1, seed 0" in text
    assert "promoted, next token" in text and "harmful, q = 0.5" in text and "0.001" in text
    assert "Not measured. The probe tasks" in text and text.count("Not measured.") == 1
    [file] = records.rglob("seed0.latent_scores.parquet")
    file.write_bytes(b"damaged")
    capsys.readouterr()
    assert made.run("--records", str(records), "--latents", "3", out="damaged") == 4
    assert "is not what seed0.json was written with" in capsys.readouterr().err and "Not measured." in made.section(3, "damaged")


def test_patterns_that_cannot_be_made_are_said_on_the_page(made: Made):
    assert made.run("--latents", "3,0", "--limit", "1", out="short") == 0
    assert "Not made: " in made.section(0, "short") and "has one context" in made.section(0, "short")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--latents", "3,8"], "sae has no latent 8: it has 8, numbered from 0 to 7"),
        (["--latents", "x"], "--latents x: write indices"),
        (["--choose", "most_helpful"], "--task lambada_openai --out results, then give its --out as --records"),
        (["--choose", "densist"], "Did you mean 'densest'?"),
        (["--records", "nowhere"], "no such folder: nowhere"),
        (["--task", "lambada_openai"], "brings its own texts"),
        (["--limit", "0"], "--limit: must be 1 or more"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(made: Made, words: list[str], said: str, monkeypatch, capsys):
    monkeypatch.setattr(make, "session_of", make.session_of if "--task" in words else lambda *_, **__: pytest.fail("too late"))
    capsys.readouterr()
    assert made.run(*words, out="refused") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err
    assert not list((made.folder / "refused").rglob("*.html"))


def test_hostile_words_are_all_in_the_text_that_is_read(made: Made):
    tokens = np.load(made.folder / "tokens.npy")
    assert set(range(257, 257 + len(HOSTILE))) <= set(tokens.flatten().tolist())
