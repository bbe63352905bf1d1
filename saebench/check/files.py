"""Checks of what its files say of one SAE."""

from __future__ import annotations

from typing import Any

from saebench.check.base import Outcome, check, failed, passed, warned
from saebench.check.case import Case
from saebench.check.formats import again, files_of
from saebench.errors import InputError
from saebench.sae.load import damage
from saebench.sae.sae import SAE
from saebench.sae.source import WEIGHTS, Source

_WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@check("site")
def site(case: Case) -> Outcome:
    """It says where it belongs: the model and the site whose acts it reads."""
    c = case.config
    told = (("site", "--site", c.site), ("model", "--model", c.model_id))
    absent = [f"no {what} (give {flag})" for what, flag, value in told if value is None]
    if absent:
        return warned(", ".join(absent))
    written = f", writes {c.site_out}" if c.site_out not in (None, c.site) else ""
    return passed(f"{c.model_id}, {c.site}{written}, {c.residual} residual stream")


@check("notes")
def notes(case: Case) -> Outcome:
    """Reading it gives no warnings."""
    lines, taken = case.config.warnings, len(case.config.assumptions)
    if lines:
        return warned(f"{lines[0]}{f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''}")
    return passed(f"{taken} taken from convention, see saebench inspect" if taken else "nothing was taken from convention")


@check("loads", "files")
def loads(case: Case) -> Outcome:
    """Its weights are read without an error."""
    if case.error is not None:
        return failed(case.error)
    assert case.weights is not None
    return passed(f"{sum(t.nbytes for _, t in case.weights.items()):,} bytes")


@check("headers", "files", "weights")
def headers(case: Case) -> Outcome:
    """What is said from settings and headers alone (d_in, d_sae, d_out, dtype) is what the weights are once they are read."""
    member, source = files_of(case)
    assert case.weights is not None
    w, c = case.weights, case.config
    if w.W_enc.ndim != 2 or w.W_dec.ndim != 2:
        return failed(f"W_enc and W_dec should be matrices, found shapes {list(w.W_enc.shape)} and {list(w.W_dec.shape)}")
    real = {"d_in": w.W_enc.shape[0], "d_sae": w.W_enc.shape[1], "d_out": w.W_dec.shape[1]}
    for key, value in real.items():
        if getattr(c, key) != value:
            return failed(f"read says {key}={getattr(c, key)}, the weights say {value}")
    names = {name for name in (*source.names, member.detect(source)) if name is not None and name.endswith(WEIGHTS)}
    stored = {one.dtype for name in names for one in _headers(source, name) if one.ndim > 1}
    kinds = stored & set(_WIDTHS)
    dtype = str(w.W_enc.dtype).removeprefix("torch.")
    if kinds and _WIDTHS.get(dtype, 0) < min(_WIDTHS[kind] for kind in kinds):
        return failed(f"stored as {', '.join(sorted(kinds))}, but read as {dtype}: digits are lost")
    return passed(f"d_in {real['d_in']}, d_sae {real['d_sae']}, d_out {real['d_out']}, {dtype}")


def _headers(source: Source, name: str) -> list[Any]:
    try:
        return list(source.headers(name).values())
    except InputError:
        return []


@check("reload", "files", "sae")
def reload(case: Case) -> Outcome:
    """Loaded a second time it has the same content hash: nothing that was folded in place reached the files."""
    member, source = files_of(case)
    assert case.found is not None and case.entry is not None and case.weights is not None
    with damage(case.found):
        entry = member.read(again(source))
        other = SAE(entry.config, entry.weights())
    told = case.config.residual != case.entry.config.residual  # by the user; it is part of the hash
    first = SAE(case.entry.config, case.weights).sha256 if told else case.whole.sha256
    if other.sha256 != first:
        return failed("its content hash differs from that of the first time")
    return passed(f"SHA-256 {other.sha256[:8]}…")
