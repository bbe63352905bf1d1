"""Which latents are shown, and what of the records counts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saebench.dashboard.choose import Choice, by_density, by_scores, check_latents, parse_choice, parse_latents
from saebench.dashboard.records import known_of
from saebench.dashboard.sections import Commands, Lack, Table, sections_of
from saebench.errors import InputError, RecordError
from saebench.record import Record
from saebench.record import Table as TableFile
from saebench.sae import load_sae
from saebench.store import write_record
from tests.dashboard.cases import SITE, some_sae
from tests.helpers import make_record, save

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Commands(ablation="make ablation", probes="make probes", cloze="make cloze")


def with_table(folder: Path, record: Record, table: str, columns: Mapping[str, Any]) -> Path:
    """Save a record with a table beside it, and return the table's file."""
    [path] = save(folder, record)
    file = path.with_name(f"seed{record.seed}.{table}.parquet")
    found = pa.table(dict(columns))
    pq.write_table(found, file)
    about = TableFile(
        file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), rows=found.num_rows, columns=found.column_names
    )
    write_record(path, record.model_copy(update={"tables": {table: about}}))
    return file


def scored(folder: Path, seed: int, **columns: list[Any]) -> Path:
    """Save scores by latent of :func:`some_sae`."""
    n = len(columns["latent"])
    rest = {
        "n_active": [20] * n, "delta_lnp_mean": [0.1] * n, "sign_mean": [0.2] * n, "q": [0.5] * n, "role": [""] * n,
        "ablated_delta_lnp_mean": [None] * n, "ablated_delta_lnp_stderr": [None] * n, "ablated_n": [0] * n,
    }  # fmt: skip
    record = make_record(
        "some", sha256=some_sae().sha256, site=SITE, seed=seed, task="storyworld_lambada", settings={"study": "cloze@1"}
    )
    return with_table(folder, record, "latent_scores", rest | columns)


def test_density_orders_the_latents_that_fire():
    density = np.array([3, 0, 9, 3, 1, 0])
    assert by_density(Choice("densest", 3), density, 0) == [2, 0, 3]
    assert by_density(Choice("rarest", 2), density, 0) == [4, 0]
    assert by_density(Choice("densest", 9), density, 0) == [2, 0, 3, 4]
    drawn = {tuple(by_density(Choice("random", 2), density, seed)) for seed in range(40)}
    assert len(drawn) == 12 and by_density(Choice("random", 2), density, 5) == by_density(Choice("random", 2), density, 5)


def test_scores_order_by_p_on_their_side_and_the_smallest_p_of_a_latent_counts(tmp_path: Path):
    scored(tmp_path, 0, latent=[1, 2, 3, 4, 5], p=[0.5, 0.1, 0.01, 0.1, None], delta_lnp_z=[0.6, 1.6, -2.6, 1.7, None])
    scored(tmp_path, 1, latent=[1, 3], p=[0.05, 0.9], delta_lnp_z=[2.0, 0.1])
    rows = known_of(some_sae(), [tmp_path]).rows("cloze")
    assert by_scores(Choice("most_helpful", 9), rows) == [1, 4, 2, 3]
    assert by_scores(Choice("most_harmful", 9), rows) == [3]
    assert by_scores(Choice("most_helpful", 1), rows) == [1]


@pytest.mark.parametrize("text", ["dense", "densest:0", "densest:x", "densest:", "densest:-1", "most_helpfull"])
def test_bad_choices(text: str):
    with pytest.raises(InputError, match=r"--choose"):
        parse_choice(text)


def test_good_words_and_bad_ones():
    assert parse_choice("rarest") == Choice("rarest", 10) and parse_choice("random:3") == Choice("random", 3)
    assert parse_latents("3, 17") == (3, 17)
    for text in ("", "3,", "-1", "a", "1:5", "²"):
        with pytest.raises(InputError, match="--latents"):
            parse_latents(text)
    with pytest.raises(InputError, match="some has no latent 8: it has 8, numbered from 0 to 7"):
        check_latents([0, 8], some_sae().config)


def test_records_of_other_saes_sites_and_damaged_tables_do_not_count(tmp_path: Path):
    one = {"latent": [1], "p": [0.1], "delta_lnp_z": [1.0]}
    file = scored(tmp_path, 0, **one)
    other = make_record("some", sha256="f" * 64, site=SITE, seed=3, settings={"study": "cloze@1"})
    with_table(tmp_path, other, "latent_scores", one)
    elsewhere = make_record("some", sha256=some_sae().sha256, site="blocks.0.hook_resid_pre", settings={"study": "cloze@1"})
    with_table(tmp_path, elsewhere, "latent_scores", one)
    known = known_of(some_sae(), [tmp_path])
    assert len(known.sources) == len(known.of_study("cloze")) == 1 and not known.damaged
    assert known.rows("cloze", [2]) == [] and len(known.rows("cloze", [1])) == 1
    file.write_bytes(file.read_bytes()[:-1])
    known = known_of(some_sae(), [tmp_path])
    assert known.of_study("cloze") == [] and isinstance(known.damaged[0], RecordError)
    assert known_of(some_sae(), []).sources == []
    with pytest.raises(InputError, match="no such folder"):
        known_of(some_sae(), [tmp_path / "nowhere"])


def test_a_latent_wins_the_probe_tasks_that_the_committed_records_say():
    known = known_of(load_sae("reference:topk-layer3"), [ROOT / "results"])
    rows = [row.values for row in known.rows("probes") if row.values["source"] == "sae"]
    latent = rows[0]["latent"]
    mine = {row["task"] for row in rows if row["latent"] == latent}
    loser = next(i for i in range(1024) if all(row["latent"] != i for row in rows))
    found = sections_of([latent, loser], known, {}, {latent: "no patterns", loser: "no patterns"}, COMMANDS)
    probes = found[latent].probes
    assert isinstance(probes, Table) and {row[0] for row in probes.rows} == mine
    assert found[latent].badges[-1].startswith(f"{len(mine)} probe task")
    assert found[loser].probes == Lack(f"It is the best latent of none of the {len(rows)} probe tasks in the records.")
    assert found[loser].patterns == Lack("no patterns") and not any("probe task" in badge for badge in found[loser].badges)
