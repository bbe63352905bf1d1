"""Records with arbitrary valid numbers, for tests of what is done with records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saebench.record import DataInfo, ModelInfo, Record, SaeInfo, Score, Series, TaskInfo
from saebench.store import record_path, write_record


def make_score(name: str, value: float | None, stderr: float | None = None, **fields: Any) -> Score:
    if value is None:
        fields = {"status": "undefined", "reason": "not measured"} | fields
    return Score(**{"name": name, "value": value, "stderr": stderr, "n": 100} | fields)


def make_record(
    sae: str = "a",
    *,
    scores: Sequence[Score] = (),
    seed: int = 0,
    task: str = "core",
    version: int = 1,
    model: str = "m",
    site: str = "blocks.0.hook_resid_pre",
    format: str = "native",
    architecture: str = "relu",
    sha256: str | None = None,
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Record:
    return Record(
        sae=SaeInfo(
            name=sae,
            path=f"saes/{sae}",
            sha256=sha256 or (sae.encode().hex() + "0" * 64)[:64],
            format=format,
            architecture=architecture,
            d_in=4,
            d_out=4,
            d_sae=8,
            site=site,
            site_out=site,
            normalisation="none",
            residual="raw",
            dtype="float32",
        ),
        model=ModelInfo(id=f"org/{model}", name=model, family="llama", dtype="float32"),
        task=TaskInfo(name=task, version=version),
        seed=seed,
        scores=list(scores) or [make_score("l0", 4.0, 0.5), make_score("explained_variance", 0.75, 0.01, better="higher")],
        series=[Series(name="l0_by_position", x_name="position", x=[0.0, 1.0], value=[None, 4.0], stderr=[None, 0.5], n=[0, 9])],
        data=DataInfo(
            **{
                "corpus": "some/text",
                "sha256": f"{seed:064d}",
                "n_contexts": 4,
                "context_length": 16,
                "n_tokens_scored": 60,
                "rule": "packed",
            }
            | dict(data or {})
        ),
        settings=dict(settings or {}),
        environment={"versions": {"saebench": "1.2.3"}, "commit": "abcdef0123456789", "dirty": False},
    )


def save(out: Path, *records: Record) -> list[Path]:
    paths = []
    for r in records:
        path = record_path(
            out,
            model=r.model.name,
            site=r.sae.site,
            sae=r.sae.name,
            sha256=r.sae.sha256,
            task=r.task.name,
            version=r.task.version,
            seed=r.seed,
        )
        write_record(path, r)
        paths.append(path)
    return paths
