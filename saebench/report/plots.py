"""Records as pictures (PNG). Needs matplotlib, and neither torch nor transformers."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Sequence
from typing import NamedTuple

from saebench.errors import InputError
from saebench.record import Record, Series

_SOURCE = "Source"
_MAGIC = b"\x89PNG\r\n\x1a\n"


class Curve(NamedTuple):
    """One line of a picture."""

    x: list[float]
    y: list[float]


def binned(series: Series, width: int) -> Curve:
    """Return the curve of a series by position, averaged over bins of ``width`` positions.

    y = Σ n·value / Σ n over the positions of a bin that have a value; x is their mean. Bins without a value are left out.

    Args:
        series: Its x are positions; without ``n`` every position counts once.
        width: Positions of a bin; bins start at multiples of it.
    """
    bins: dict[int, list[tuple[float, float, int]]] = {}
    for i, (x, value) in enumerate(zip(series.x, series.value, strict=True)):
        n = 1 if series.n is None else series.n[i]
        if value is not None and n:
            bins.setdefault(int(x // width), []).append((x, value, n))
    found = [bins[key] for key in sorted(bins)]
    x = [sum(x for x, _, _ in points) / len(points) for points in found]
    y = [sum(v * n for _, v, n in points) / sum(n for _, _, n in points) for points in found]
    return Curve(x, y)


def by_position(records: Sequence[Record], *, series: str = "delta_ce_by_position", width: int = 16) -> bytes:
    """Return a picture of one series of several SAEs by position in the context, as PNG.

    A dotted line marks the context length that an SAE was trained at where the evaluated contexts are longer. The file says
    from which records it was drawn (:func:`drawn_from`).

    Args:
        records: One line each; of one model, site and task.
        series: Name of the series.
        width: Positions averaged into one point.

    Raises:
        InputError: No record has the series, or they are of different models, sites or tasks.
    """
    shown = [(r, s) for r in records for s in r.series if s.name == series]
    if not shown:
        raise InputError(f"no record has the series {series!r}; run a task with the metric `position`")
    places = {(r.model.name, r.sae.site, f"{r.task.name}@{r.task.version}") for r, _ in shown}
    if len(places) > 1:
        raise InputError(f"one picture shows one model, site and task, not {sorted(places)}; choose with --where")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.add_subplot()
    for i, (record, one) in enumerate(shown):
        curve, trained = binned(one, width), record.sae.context_length
        axis.plot(curve.x, curve.y, color=f"C{i}", label=_label(record))
        if trained is not None and trained < record.data.context_length:
            axis.axvline(trained, color=f"C{i}", linestyle=":")
    first, one = shown[0]
    axis.set(
        xlabel=f"{one.x_name} in the context (means over {width})",
        ylabel=f"{series.removesuffix('_by_position')}{f' ({one.unit})' if one.unit else ''}",
        title=f"{first.model.name}, {first.sae.site}, {first.task.name}@{first.task.version}",
    )
    axis.legend()
    axis.grid(alpha=0.3)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None, _SOURCE: drawn_from([r for r, _ in shown])})
    return out.getvalue()


def drawn_from(records: Sequence[Record]) -> str:
    """Return a hash of what a picture of ``records`` shows: SAE, model, task, seed and series of each."""
    digest = hashlib.sha256()
    for r in records:
        about = (r.sae.name, r.sae.sha256, r.model.sha256, r.task.name, r.task.version, r.seed)
        digest.update(repr(about).encode())
        digest.update("".join(s.model_dump_json() for s in r.series).encode())
    return f"records {digest.hexdigest()}"


def source_of(png: bytes) -> str | None:
    """Return what :func:`by_position` wrote into a PNG about the records it was drawn from, ``None`` if nothing."""
    place = len(_MAGIC)
    while png.startswith(_MAGIC) and place + 8 <= len(png):
        size, kind = struct.unpack(">I4s", png[place : place + 8])
        data = png[place + 8 : place + 8 + size]
        key, _, rest = data.partition(b"\0")
        if kind == b"tEXt" and key == _SOURCE.encode():
            return rest.decode("latin-1")
        place += 12 + size
    return None


def _label(record: Record) -> str:
    trained = record.sae.context_length
    return record.sae.name + (f" (trained at context {trained})" if trained else "")
