"""``saebench run`` on what is bundled: defaults, records, resuming, and no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import saebench.run
from saebench import reference
from saebench.cli import main
from saebench.errors import InputError
from saebench.report.leaderboard import make_leaderboard
from saebench.run import RunReport
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae, save_native
from saebench.store import find_records, read_record
from saebench.tasklist import all_suites
from tests import offline
from tests.reference.conftest import NAMES

REPOSITORY = Path(__file__).resolve().parents[2]


def test_without_an_sae_all_bundled_ones_are_scored_by_their_suite(bundle: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []
    monkeypatch.setattr(saebench.run, "run", lambda config, progress: seen.append(config) or RunReport())
    for words in ([], ["--model", "reference"], ["--suite", "quick"], ["--task", "core"], ["--sae", "a"]):
        assert main(["run", *words]) == 0
    all_of_them = tuple(f"reference:{name}" for name in NAMES)
    assert [c.saes for c in seen] == [all_of_them] * 4 + [("a",)]
    assert [c.suite for c in seen] == ["storyworld", "storyworld", "quick", None, None]
    assert seen[0].model is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model gpt2", "no SAE given for --model gpt2; use --sae PATH"),
        ("--site blocks.1.hook_resid_pre", "no SAE given, but --site; use --sae PATH"),
        ("--trained-context 64", "no SAE given, but --trained-context; use --sae PATH"),
    ],
)
def test_an_sae_that_was_forgotten_is_not_replaced(bundle: Path, words: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_suite_is_an_error_with_a_suggestion(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--suite", "quik"]) == 2
    assert "unknown suite 'quik'. Did you mean 'quick'" in capsys.readouterr().err


def test_records_say_what_was_scored_and_nothing_of_the_machine(bundle: Path, task: str, tmp_path: Path, monkeypatch):
    """Two runs from two folders agree in everything but the clock; no record names a folder, a user or a host."""
    outs, saes = [], ("topk-layer3", "topk-layer3-context64")
    words = [w for name in saes for w in ("--sae", f"reference:{name}")]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        outs.append(tmp_path / name / "out")
        assert main(["run", *words, "--task", task, "--out", str(outs[-1])]) == 0
    first, second = ([p.relative_to(out).as_posix() for p in find_records(out)] for out in outs)
    assert first == second and len(first) == len(saes)
    assert all(re.fullmatch(r"reference/blocks\.\d\.hook_resid_pre/[a-z0-9-]+-[0-9a-f]{8}/small@1/seed0\.json", p) for p in first)
    import socket

    for place in first:
        one, other = (json.loads((out / place).read_text()) for out in outs)
        timing = [record.pop("timing") for record in (one, other)]
        assert one == other and set(timing[0]) == {"seconds_pass", "saes_in_pass", "peak_memory_bytes"}
        assert one["sae"]["path"] == f"reference:{one['sae']['name']}" and one["sae"]["warnings"] == []
        assert (one["model"]["id"], one["model"]["name"], one["data"]["corpus"]) == ("reference", "reference", "storyworld")
        text = (outs[0] / place).read_text()
        for part in (str(tmp_path), str(bundle), str(REPOSITORY), str(Path.home()), socket.gethostname()):
            assert part not in text


def test_a_finished_run_is_recognised_and_another_model_is_noticed(own: Path, task: str, tmp_path: Path, capsys):
    words = ["run", "--sae", "reference:topk-layer1", "--task", task, "--out", str(tmp_path / "out")]
    assert main(words) == 0
    (path,) = find_records(tmp_path / "out")
    written = path.stat().st_mtime_ns
    assert main(words) == 0 and path.stat().st_mtime_ns == written
    config = own / "model/config.json"
    config.write_text(config.read_text().replace('"initializer_range": 0.02', '"initializer_range": 0.03'))
    capsys.readouterr()
    assert main(words) == 2
    assert "was made with model content" in capsys.readouterr().err


def test_the_training_context_reaches_the_scores(bundle: Path, task: str, tmp_path: Path):
    words = [w for name in ("topk-layer3", "topk-layer3-context64") for w in ("--sae", f"reference:{name}")]
    assert main(["run", *words, "--model", "reference", "--task", task, "--out", str(tmp_path / "out")]) == 0
    found = {r.sae.name: r.score("context_degradation") for r in map(read_record, find_records(tmp_path / "out"))}
    assert found["topk-layer3"].value is None and found["topk-layer3-context64"].value is not None


@pytest.mark.parametrize(("which", "sort"), [("tiny", "kl"), ("what ships", None)])
def test_identity_stands_first_and_random_directions_last(
    which: str, sort: str | None, task: str, tmp_path: Path, request: pytest.FixtureRequest
):
    """The tiny model reads too little for its CE to suffer, so there KL ranks."""
    if which == "tiny":
        request.getfixturevalue("bundle")
    elif not reference.sae_names():
        pytest.skip("no SAE is bundled yet; see docs/reference.md")
    sae, site = load_sae("reference:topk-layer3"), "blocks.3.hook_resid_pre"
    d, eye = sae.config.d_in, torch.eye(sae.config.d_in)
    rows = torch.randn(sae.config.d_sae, d, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=1)
    dictionaries: dict[str, tuple[dict[str, Any], torch.Tensor]] = {
        "identity": ({"activation": "relu"}, torch.cat([eye, -eye])),
        "random": ({"activation": "topk", "k": 32}, rows),
    }
    for name, (config, directions) in dictionaries.items():
        s = len(directions)
        weights = SAEWeights(W_enc=directions.T.contiguous(), b_enc=torch.zeros(s), W_dec=directions, b_dec=torch.zeros(d))
        about = SAEConfig(d_in=d, d_out=d, d_sae=s, name=name, site=site, model_id="reference", **config)
        save_native(SAE(about, weights), tmp_path / name)
    words = [w for sae in (tmp_path / "random", "reference:topk-layer3", tmp_path / "identity") for w in ("--sae", str(sae))]
    assert main(["run", *words, "--task", task, "--out", str(tmp_path / "out")]) == 0
    records = [read_record(path) for path in find_records(tmp_path / "out")]
    first, between, last = (row.first for row in make_leaderboard(records, sort=sort).rows)
    assert [r.sae.name for r in (first, between, last)] == ["identity", "topk-layer3", "random"]
    assert first.score("delta_ce").value == pytest.approx(0, abs=1e-6)
    assert first.score("explained_variance").value == pytest.approx(1, abs=1e-9)


def test_python_takes_the_names_too(bundle: Path, task: str, tmp_path: Path):
    import saebench

    (record,) = saebench.evaluate(["reference:topk-layer5"], tasks=[task], out=tmp_path, device="cpu")
    assert (record.sae.path, record.model.id) == ("reference:topk-layer5", "reference")
    session = saebench.load_session("reference:topk-layer5", corpus="storyworld", limit=2, device="cpu")
    assert session.model.id == "reference" and len(session.corpus.tokens) == 2


# without the network


def command(root: Path, *words: str) -> list[str]:
    """Return a process that runs saebench with the bundle at ``root``."""
    code = (
        "import sys; from pathlib import Path; from saebench import reference; reference.ROOT = Path(sys.argv[1]);"
        "from saebench.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    return [sys.executable, "-c", code, str(root), *words]


def test_a_run_needs_no_network(tiny: Path, task: str, tmp_path: Path):
    out = tmp_path / "out"
    done, attempts, how = offline.run(
        command(tiny, "run", "--task", task, "--out", str(out)), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, attempts) == (0, []), f"forbidden by {how}: {done.stderr}"
    assert len(find_records(out)) == len(NAMES)
    assert "topk-layer3-undertrained" in done.stdout and "order: delta_ce, lowest first" in done.stdout


def test_what_ships_needs_no_network(tmp_path: Path):
    """What ``make demo`` runs, in parts that are small: all SAEs on one task, one SAE on all tasks."""
    if not reference.sae_names():
        pytest.skip("no SAE is bundled yet; see docs/reference.md")
    if reference.SUITE not in all_suites():
        pytest.skip(f"there is no suite {reference.SUITE} yet")
    for part in ("--task storyworld_core --limit 2 --out a", "--sae reference:topk-layer3 --suite storyworld --limit 16 --out b"):
        words = [sys.executable, "-m", "saebench", "run", *part.split()]
        done, attempts, how = offline.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, attempts) == (0, []), f"forbidden by {how}: {done.stderr}"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import urllib.request as u\ntry: u.urlopen('http://192.0.2.1', timeout=1)\nexcept OSError: pass",
    ],
)
def test_an_attempt_to_reach_the_network_is_seen_even_if_swallowed(code: str):
    _, attempts, _ = offline.run([sys.executable, "-c", code], capture_output=True)
    assert len(attempts) == 1 and attempts[0].startswith("socket.")
    done = subprocess.run(
        [sys.executable, "-m", "tests.offline", sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True
    )
    assert done.returncode == 1 and b"refused socket." in done.stderr


def test_what_stays_on_this_machine_is_not_refused():
    code = "import socket; a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'; socket.getaddrinfo('localhost', 1)"
    done, attempts, how = offline.run([sys.executable, "-c", code])
    assert (done.returncode, attempts) == (0, []) and "guard" in how


def test_the_demo_installs_for_a_cpu_runs_and_ends_with_the_report():
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", "demo"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},  # the suite itself may run under make
    )  # fmt: skip
    lines = done.stdout.splitlines()
    places = [
        next(i for i, line in enumerate(lines) if part in line)
        for part in (
            "venv .venv",
            "whl/cpu",
            "-c constraints.txt -e '.[dev]'",
            "saebench run --limit",
            "saebench report build/demo",
        )
    ]
    assert places == sorted(places)
    assert "less build/demo/report.md" in lines[-1]
    assert (
        "whl/cpu"
        not in subprocess.run(
            ["make", "--dry-run", "--always-make", "venv"], cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout
    )  # whoever has a GPU gets the torch that can use it


def test_a_model_of_the_user_is_not_the_bundled_one(bundle: Path):
    with pytest.raises(InputError, match="no SAE given for --model"):
        reference.with_defaults({"model": "./reference"})


def test_bundled_saes_that_are_named_get_the_suite_of_their_text():
    suite = [
        reference.with_defaults({"saes": saes, **more}).get("suite")
        for saes, more in [
            (("reference:a", "reference:b"), {}),
            (("reference:a",), {"model": "reference"}),
            (("reference:a",), {"suite": "quick"}),
            (("reference:a",), {"tasks": ("core",)}),
            (("reference:a",), {"model": "gpt2"}),
            (("reference:a", "mine"), {}),
        ]
    ]
    assert suite == ["storyworld", "storyworld", "quick", None, None, None]
