"""Checks of the format: what it claims, what it leaves alone, what it says of damaged files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saebench.check.base import Outcome, check, failed, passed, skipped, warned
from saebench.check.case import Case
from saebench.errors import InputError, first_line
from saebench.reference import sae_folder, sae_names
from saebench.registry import FORMATS
from saebench.sae.find import Found
from saebench.sae.load import damage
from saebench.sae.sae import SAE
from saebench.sae.source import WEIGHTS, Source

_MOST_COPIED = 64 << 20
_SETTINGS = (".json", ".yaml", ".yml")


def files_of(case: Case) -> tuple[Any, Source]:
    """Return the format that reads it, and its files."""
    assert case.found is not None
    return case.found.member, case.found.source


def again(source: Source, path: Path | None = None) -> Source:
    """Return a source of the same files, or of another path to them, that has opened nothing yet."""
    if path is None or path.is_relative_to(source.path):
        return source.below(path or source.path, source.part)
    return Source(path, given=source.given, part=source.part, root=source._root, origin=source.origin)


def _detected(member: Any, source: Source) -> str | None:
    file = member.detect(source)
    if file is not None and not isinstance(file, str):
        raise TypeError(f"detect returned a {type(file).__name__}, not the name of a file or None")
    return file


@check("format", "files")
def format_class(case: Case) -> Outcome:
    """The class of its format has what a format must have: looked_for, detect, a rank that is a number or none, a docstring."""
    member, source = files_of(case)
    if not callable(getattr(member, "detect", None)):
        return failed("it has no detect, so its files are never recognised")
    if not isinstance(getattr(member, "looked_for", None), str) or not member.looked_for.strip():
        return failed("looked_for should be a line of text, for the message that nothing was recognised")
    rank = getattr(member, "rank", None)
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int | float)):
        return failed(f"rank should be a number or left out, found {rank!r}")
    if hasattr(member, "parts"):
        parts = member.parts(again(source))
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            return failed("parts should return a list of names")
    if not (member.__doc__ or "").strip():
        return warned("no docstring, so `saebench list formats` has nothing to say of it")
    told = "no rank: where another format knows the files too, --format must choose" if rank is None else f"rank {rank}"
    return passed(told)


@check("detection", "files")
def detection(case: Case) -> Outcome:
    """Its format is found from the files, and a folder and the file of weights in it give the same answer."""
    member, source = files_of(case)
    file = _detected(member, again(source))
    if file is None:
        return warned("not recognised: --format has to name its format")
    if not source.at(file).is_file():
        return failed(f"detect names {file!r}, which is not there")
    if "/" in file:
        return passed(f"{file}, by the folder that holds it")
    folder = source.folder if source.file else source.path
    other = again(source, folder if source.file else folder / file)
    what = "folder" if source.file else f"file {file}"
    theirs = _detected(member, other)
    if source.file and (theirs is None or theirs != source.file):
        return passed(f"{file}; its folder holds more than this SAE")
    if theirs is None:
        several = sum(name.endswith(WEIGHTS) for name in source.names) > 1
        return (warned if several else failed)(f"the folder is recognised, the {what} in it alone is not")
    ours, others = (_facts(member, one) for one in (again(source), other))
    for key, value in ours.items():
        if others[key] != value:
            return failed(f"{key} is {value!r} by the path given, but {others[key]!r} by the {what}")
    return passed(f"{file}, by the folder and by the file")


def _facts(member: Any, source: Source) -> dict[str, Any]:
    hidden = ("name", "path", "assumptions", "warnings")  # these may quote the path
    return {key: value for key, value in asdict(member.read(source).config).items() if key not in hidden}


@check("alone", "files")
def alone(case: Case) -> Outcome:
    """No other format claims the same files, or a rank says which of them goes first."""
    member, source = files_of(case)
    file = _detected(member, again(source))
    if file is None:
        return skipped("not recognised")
    ours, away = getattr(member, "rank", None), []
    for name, other in FORMATS.items():
        if other is member:
            continue
        theirs = other.detect(again(source))
        if theirs is None:
            continue
        rank = getattr(other, "rank", None)
        if theirs != file or rank is None or ours is None:
            return failed(f"{name} claims {theirs} too, and nothing says which goes first: only ranks for one file do")
        if (rank, name) < (ours, _name(member)):
            return failed(f"{name} claims it too and goes first (rank {rank} against {ours})")
        away.append(name)
    return passed(f"before {', '.join(away)}" if away else "no other format claims it")


def _name(member: Any) -> str:
    """Return the name that a format is registered under; the last of all for one that is not."""
    return next((name for name, one in FORMATS.items() if one is member), "\uffff")


@check("foreign_files", "files")
def foreign_files(case: Case) -> Outcome:
    """Files of other kinds (none, text, a language model, arrays, other formats' SAEs) are neither claimed nor tripped over."""
    member, _ = files_of(case)
    with _foreign(member) as folders:
        for what, folder in folders:
            try:
                file = _detected(member, Source(folder, root=folder))
            except Exception as error:  # whatever it is, it ends everybody's search for a format
                return failed(f"detect raises {type(error).__name__} on {what}: {first_line(error)}")
            if file is not None:
                return failed(f"detect claims {what} ({file})")
    return passed(f"{len(folders)} folders left alone")


@contextmanager
def _foreign(member: Any) -> Iterator[list[tuple[str, Path]]]:
    """Yield folders that are of no format but saebench's own, each with what it holds."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        kinds = ("nothing", "text", "a language model", "arrays", "a checkpoint", "damaged files")
        folders = {what: root / what.replace(" ", "-") for what in kinds}
        for folder in folders.values():
            folder.mkdir()
        (folders["text"] / "README.md").write_text("nothing\n")
        (folders["text"] / "config.json").write_text("{}\n")
        (folders["text"] / "cfg.json").write_text("{}\n")
        (folders["a language model"] / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
        save_file({"wte.weight": torch.zeros(5, 3)}, folders["a language model"] / "model.safetensors")
        np.savez(folders["arrays"] / "arrays.npz", x=np.zeros((2, 3)), y=np.zeros(4))
        torch.save({"optimizer": {"step": 3}, "model": {"fc.weight": torch.zeros(3, 2)}}, folders["a checkpoint"] / "last.pt")
        for kind in WEIGHTS:
            (folders["damaged files"] / f"some{kind}").write_bytes(b"\x00\xff neither this nor that" * 9)
        yield [*folders.items(), *_bundled(member)]


def _bundled(member: Any) -> list[tuple[str, Path]]:
    """Return an SAE that ships, unless the format is its own or none ships."""
    try:
        own = FORMATS.get("native") is member
        folder = None if own else sae_folder(f"reference:{sae_names()[0]}")
    except (InputError, IndexError):
        return []
    return [] if folder is None else [("an SAE of the native format", folder)]


@check("damaged_files", "files", "sae")
def damaged_files(case: Case) -> Outcome:
    """Copies of its files that were cut off, or whose settings are empty, are refused with one line."""
    member, source = files_of(case)
    assert case.found is not None
    file = _detected(member, again(source))
    if file is None:
        return skipped("not recognised")
    names = [file, *(name for name in source.names if name.endswith(_SETTINGS))]
    for name in names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / source.folder.resolve().name
            _copy(source, folder, name, file)
            path = folder / source.file if source.file else folder
            copy = Source(
                path, given=source.given, part=source.part, words=source.words, root=Path(folder.anchor), origin=source.origin
            )  # what the path says is said of the copy too
            error = _error(Found(source=copy, format=case.found.format), member, weights=name == file)
        if error is None and name == file:
            return failed(f"{name} cut in half is read as if nothing were wrong")
        if error is not None and not isinstance(error, InputError):
            how = "cut in half" if name == file else "with empty settings"
            return failed(f"{name} {how} raises {type(error).__name__} ({first_line(error)}), not an InputError of one line")
    return passed(f"{', '.join(names)}: one line each")


def _copy(source: Source, folder: Path, cut: str, weights: str) -> None:
    """Make a folder of links to the files of another, with half of the weights or settings ``{}`` in the place of one."""
    for name in {*source.names, weights}:
        file, copy = source.at(name).resolve(), folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name != cut:
            copy.symlink_to(file)
        elif name == weights:
            with open(file, "rb") as whole:
                copy.write_bytes(whole.read(min(file.stat().st_size // 2, _MOST_COPIED)))
        else:
            copy.write_text("{}\n")


def _error(found: Found, member: Any, *, weights: bool) -> Exception | None:
    """Return what reading these files raises, their weights too if ``weights``."""
    try:
        if _detected(member, found.source) is None:
            return InputError("not recognised")
        with damage(found):
            entry = member.read(found.source)
            if weights:
                SAE(entry.config, entry.weights())
    except Exception as error:  # which kind is what is to be found out
        return error
    return None
