"""Records of the studies cloze and propagation with tables of made-up numbers beside them, for tests of the pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saebench.record import Record, Score, Table
from saebench.report.figures.draw import drawable
from saebench.report.figures.picture import Picture, looks
from saebench.report.figures.sources import Source, open_sources
from saebench.report.figures.together import label_of
from saebench.report.select import load_records
from saebench.store import write_record
from tests.helpers import make_record, make_score, save

TABLES = ("examples", "latent_scores", "propagation", "correlations", "token_delta_ce")
SAE = "blocks.3.hook_resid_pre.topk-layer3-746f706b"
"""One of them, as part of a file's name."""
N = 40
LAYERS = (1, 3, 10)


def site(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def put(out: Path, record: Record, tables: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write a record and its tables as a run does."""
    (path,) = save(out, record)
    about = {}
    for name, columns in tables.items():
        file = path.with_name(f"seed{record.seed}.{name}.parquet")
        table = pa.table({key: pa.array(values) for key, values in columns.items()})
        pq.write_table(table, file, compression="zstd")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        about[name] = Table(file=file.name, sha256=digest, rows=table.num_rows, columns=table.column_names)
    write_record(path, record.model_copy(update={"tables": about}))
    return path


def examples(number: int, n: int = N, *, mse: bool = True) -> dict[str, Any]:
    """Return a table in which one Δ ln p is not known."""
    g = np.random.default_rng(number)
    lnp = g.normal(-3, 1, n)
    delta = g.normal(-0.2 * number, 1, n)
    spliced: list[float | None] = (lnp + delta).tolist()
    spliced[number % n] = None
    ce = g.uniform(2, 3, n)
    table = {
        "example": np.arange(n),
        "kind": ["thing"] * n,
        "right_clean": g.random(n) < 0.5,
        "right_spliced": g.random(n) < 0.4,
        "lnp_clean": lnp,
        "lnp_spliced": spliced,
        "ce_clean": ce,
        "ce_spliced": ce + g.normal(0.1, 0.1, n),
    }
    return table | ({"mse": np.exp(g.normal(0, 0.5, n))} if mse else {})


def latent_scores(number: int, table: Mapping[str, Any], n: int = 60) -> dict[str, Any]:
    """Return a table of latents active in random prompts; the first is active in two only and not tested."""
    g = np.random.default_rng(100 + number)
    delta = np.array(table["lnp_spliced"], dtype=np.float64) - table["lnp_clean"]
    delta = delta[np.isfinite(delta)]
    n_active = np.array([2, *g.integers(5, 30, n - 1)])
    mean = np.array([g.choice(delta, k, replace=False).mean() for k in n_active])
    good = np.array([(g.choice(delta, k, replace=False) >= 0).sum() for k in n_active])
    tested = np.arange(n) > 0
    ablated = np.arange(n) % 10 == 3
    null = np.full(n, np.nan)

    def nullable(values: np.ndarray, which: np.ndarray) -> np.ma.MaskedArray:
        return np.ma.masked_invalid(np.where(which, values, null))

    return {
        "latent": 3 * np.arange(n),
        "n_active": n_active,
        "delta_lnp_mean": mean,
        "delta_lnp_z": nullable(g.normal(0, 1.5, n), tested),
        "sign_mean": (2 * good - n_active) / n_active,
        "sign_z": nullable(g.normal(0, 1, n), tested),
        "p": nullable(g.random(n), tested),
        "q": nullable(g.random(n), tested),
        "sign_p": nullable(g.random(n), tested),
        "sign_q": nullable(g.random(n), tested),
        "ablated_delta_lnp_mean": nullable(g.normal(0, 0.3, n), ablated),
        "ablated_delta_lnp_stderr": nullable(g.uniform(0.05, 0.2, n), ablated),
        "ablated_n": np.where(ablated, 8, 0),
        "role": np.where(ablated, np.tile(["helpful", "harmful", "control"], n)[:n], "").astype(object),
    }


def cloze_record(name: str, layer: int, number: int, *, task: str = "gaps", seed: int = 0, **more: Any) -> Record:
    def score(of: str, value: float | None) -> Score:
        return make_score(of, value, None if value is None else 0.02, unit_n="examples")

    scores = [
        score("acc_clean", 0.5), score("acc_spliced", 0.45 - 0.01 * number), score("acc_last_sentence", 0.1),
        score("ce_clean", 2.5), score("ce_spliced", None if name == "odd" else 2.6 + 0.01 * number),
    ]  # fmt: skip
    settings = {"study": "cloze@2", "splice_bos": False}
    return make_record(
        name, task=task, seed=seed, site=site(layer), scores=scores, settings=settings, data={"n_contexts": N}, **more
    )


def put_cloze(out: Path, *, latents: bool = True, mse: bool = True, seeds: Sequence[int] = (0,)) -> None:
    """Write records of seven SAEs: two families at three layers and one that is alone."""
    names = [(f"{kind}-layer{layer}", layer) for kind, layer in itertools.product(("relu-l1", "topk"), LAYERS)]
    for seed in seeds:
        for number, (name, layer) in enumerate([*names, ("odd", 3)]):
            table = examples(number + 10 * seed, mse=mse)
            tables = {"examples": table, **({"latent_scores": latent_scores(number, table)} if latents else {})}
            put(out, cloze_record(name, layer, number, seed=seed), tables)


def put_propagation(out: Path, layers: Sequence[int] = LAYERS, n_tokens: int = 50) -> list[str]:
    """Write records of one run, an SAE a layer; return what the tables call the SAEs."""
    records = [make_record(f"topk-layer{layer}", task="along", site=site(layer)) for layer in layers]
    labels = [label_of(record) for record in records]
    g = np.random.default_rng(7)
    settings = {"study": "propagation@1", "splice_bos": False, "saes_together": sorted(labels)}
    tokens = {
        "context": np.arange(n_tokens) // 10, "position": np.arange(n_tokens) % 10, "token": g.integers(0, 99, n_tokens),
        "next_token": g.integers(0, 99, n_tokens), "ce_clean": g.uniform(0, 5, n_tokens).astype(np.float32),
    }  # fmt: skip
    tokens |= {name: (g.standard_t(2, n_tokens) * 0.3).astype(np.float32) for name in labels}
    for i, record in enumerate(records):
        behind = [(labels[j], metric) for j in range(i + 1, len(labels)) for metric in ("mse", "l0", "norm")]
        tables: dict[str, Mapping[str, Any]] = {"token_delta_ce": tokens}
        if behind:
            clean, spliced = g.uniform(1, 2, len(behind)), g.uniform(1, 3, len(behind))
            tables["propagation"] = {
                "sae": [name for name, _ in behind],
                "site": [site(layers[labels.index(name)]) for name, _ in behind],
                "metric": [metric for _, metric in behind],
                "clean": clean,
                "spliced": spliced,
                "fraction": (spliced - clean) / clean,
                "stderr": g.uniform(0, 0.05, len(behind)),
                "n": [n_tokens] * len(behind),
            }
        others = [name for name in labels if name != labels[i]]
        tables["correlations"] = {"sae": others} | {
            f"{name}{part}": g.uniform(0, 1 if not part else 0.1, len(others))
            for name in ("pearson", "spearman", "overlap")
            for part in ("", "_stderr")
        }
        put(out, record.model_copy(update={"settings": settings}), tables)
    return labels


def sources(folder: Path) -> list[Source]:
    found = load_records([folder])
    return open_sources(found.files(found.records), TABLES).sources


def pictures(folder: Path) -> dict[str, Picture]:
    return {picture.name: picture for picture in drawable(sources(folder)).pictures}


def points(line: Line2D, axis: str) -> list[float]:
    """Return where a line's points stand."""
    return np.asarray(getattr(line, f"get_{axis}data")(), dtype=np.float64).tolist()


def matrix(axis: Axes) -> np.ndarray:
    """Return the numbers of a heat map, NaN where it is grey."""
    return np.ma.MaskedArray(axis.images[0].get_array()).filled(np.nan)


def figure(picture: Picture) -> Figure:
    with looks():
        return picture.figure()


def rows(picture: Picture) -> list[dict[str, Any]]:
    """Return what its CSV says, numbers as numbers."""
    found = csv.DictReader(io.StringIO(picture.csv().decode()))
    return [{key: _number(value) for key, value in row.items()} for row in found]


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text
