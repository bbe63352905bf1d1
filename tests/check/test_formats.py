"""A format that behaves passes the checks of formats, and one that misbehaves in one way does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saebench.check import check_format, check_sae
from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae import SAEWeights, save_native
from saebench.sae.source import Entry, Source
from tests.check.cases import Archive, acts, changed, good, write_archive
from tests.check.test_checks import own_code


class NoDocstring(Archive):
    pass


class NoLookedFor(Archive):
    """It does not say what it looks for."""

    looked_for = ""


class OddRank(Archive):
    """Its rank is no number."""

    rank = "first"


class Shy(Archive):
    """It never recognises anything."""

    @staticmethod
    def detect(source: Source) -> str | None:
        return None


class Liar(Archive):
    """It names a file that is not there."""

    @staticmethod
    def detect(source: Source) -> str | None:
        return "sea.npz" if Archive.detect(source) else None


class FolderOnly(Archive):
    """It does not know its file without the folder."""

    @staticmethod
    def detect(source: Source) -> str | None:
        return None if source.file else Archive.detect(source)


class FromThePath(Archive):
    """What it says of the SAE depends on how the path was written."""

    @staticmethod
    def read(source: Source) -> Entry:
        return changed(Archive.read(source), model_id=source.words[-1])


class Grabbing(Archive):
    """Every archive is its own."""

    @staticmethod
    def detect(source: Source) -> str | None:
        return source.only(r".*\.npz")


class Raising(Archive):
    """It falls over files of others."""

    @staticmethod
    def detect(source: Source) -> str | None:
        return Archive.detect(source) if source.json("about.json") else None


class Native2(Archive):
    """It claims what another format has, with no rank."""

    rank = None

    @staticmethod
    def detect(source: Source) -> str | None:
        return "sae.safetensors" if source.has("sae.safetensors") else Archive.detect(source)

    @staticmethod
    def read(source: Source) -> Entry:
        return FORMATS.get("native").read(source)


class Made(Archive):
    """It makes its weights up."""

    @staticmethod
    def read(source: Source) -> Entry:
        whole = FORMATS.get("native")
        assert whole
        config = Archive.read(source).config if len(source.keys("sae.npz")) else good().config
        return Entry(config=config, weights=lambda: good().weights)


class OwnError(Exception):
    pass


class Loud(Archive):
    """Damage is an error of its own."""

    @staticmethod
    def read(source: Source) -> Entry:
        if "k" not in source.json("about.json"):
            raise OwnError("no k\nand a second line")
        return Archive.read(source)

    @staticmethod
    def detect(source: Source) -> str | None:
        return "sae.npz" if source.has("about.json", "sae.npz") else None


class Deaf(Archive):
    """Its weights cannot be read."""

    @staticmethod
    def read(source: Source) -> Entry:
        def load() -> SAEWeights:
            raise InputError(f"{source.path}: nothing can be read")

        return Entry(config=Archive.read(source).config, weights=load)


class Narrow(Archive):
    """It loses digits."""

    @staticmethod
    def read(source: Source) -> Entry:
        entry = Archive.read(source)
        return Entry(
            config=entry.config, weights=lambda: SAEWeights(**{n: t.to(torch.bfloat16) for n, t in entry.weights().items()})
        )


class Wide(Archive):
    """What it says from headers is not what is there."""

    @staticmethod
    def read(source: Source) -> Entry:
        return changed(Archive.read(source), d_sae=99)


class Folding(Archive):
    """It folds a scale into tensors that it keeps."""

    kept: SAEWeights | None = None

    @staticmethod
    def read(source: Source) -> Entry:
        entry = Archive.read(source)

        def load() -> SAEWeights:
            Folding.kept = Folding.kept or entry.weights()
            Folding.kept.W_dec.mul_(1.001)
            return SAEWeights(**{name: tensor.clone() for name, tensor in Folding.kept.items()})

        return Entry(config=entry.config, weights=load)


FORMATS_BROKEN: list[tuple[str, str, type[Archive], set[str]]] = [
    ("format", "warn", NoDocstring, set()),
    ("format", "fail", NoLookedFor, set()),
    ("format", "fail", OddRank, set()),
    ("detection", "warn", Shy, set()),
    ("detection", "fail", Liar, {"damaged_files"}),
    ("detection", "fail", FolderOnly, set()),
    ("detection", "fail", FromThePath, set()),
    ("foreign_files", "fail", Grabbing, set()),
    ("foreign_files", "fail", Raising, set()),
    ("damaged_files", "fail", Made, set()),
    ("damaged_files", "fail", Loud, set()),
    ("loads", "fail", Deaf, set()),
    ("headers", "fail", Narrow, set()),
    ("headers", "fail", Wide, {"loads"}),
    ("reload", "fail", Folding, {"damaged_files"}),
    ("alone", "fail", Native2, {"foreign_files", "damaged_files"}),
]


@pytest.mark.parametrize("named", ["", "sae.npz"])
def test_a_format_that_behaves_passes_everything(tmp_path: Path, named: str):
    report = check_format(Archive, write_archive(tmp_path / "mine") / named, acts=acts(), oracle=own_code)
    assert report.ok and not report.of("warn"), report
    assert {row.check for row in report.of("skipped")} == {"thresholds"}
    assert report["oracle"].status == "pass" and report.format == "archive"


@pytest.mark.parametrize(("check", "status", "member", "also"), FORMATS_BROKEN, ids=[row[2].__name__ for row in FORMATS_BROKEN])
def test_a_format_that_misbehaves_in_one_way_fails_there(
    check: str, status: str, member: type[Archive], also: set[str], tmp_path: Path
):
    folder = save_native(good(), tmp_path / "mine") if check == "alone" else write_archive(tmp_path / "mine")
    report = check_format(member, folder)
    assert report[check].status == status, report
    assert {row.check for row in report.of("warn", "fail")} - {check} <= also, report


def test_the_smaller_rank_goes_first(tmp_path: Path):
    folder = save_native(good(), tmp_path / "mine")
    first = type("First", (Native2,), {"rank": -1, "__doc__": "It goes first."})
    assert "before native" in check_format(first, folder)["alone"].found
    last = type("Last", (Native2,), {"rank": 7, "__doc__": "It goes last."})
    assert "goes first (rank 0 against 7)" in check_format(last, folder)["alone"].found


def test_several_in_one_file_are_named(tmp_path: Path):
    class Two(Archive):
        """Two in one."""

        @staticmethod
        def parts(source: Source) -> list[str]:
            return ["a", "b"]

    folder = write_archive(tmp_path / "mine")
    with pytest.raises(InputError, match=r"2 SAEs; name one: .*#a"):
        check_format(Two, folder)
    assert check_format(Two, f"{folder}#b").ok


@pytest.mark.parametrize("name", FORMATS.names())
def test_our_own_formats_leave_the_files_of_others_alone(name: str, tmp_path: Path):
    from saebench.check.base import run_checks
    from saebench.check.case import Case
    from saebench.sae.find import Found

    case = Case(good().config, found=Found(source=Source(tmp_path), format=name), sae=good())
    del case.missing["files"]
    refuses = not hasattr(FORMATS.get(name), "looked_for")
    for row in run_checks(case, ["foreign_files"] if refuses else ["format", "foreign_files"]):
        assert row.status == "pass", row


def test_no_sae_at_all_is_an_input_error(tmp_path: Path):
    with pytest.raises(InputError, match="no SAE of a known format"):
        check_sae(tmp_path)
    (write_archive(tmp_path / "x") / "about.json").write_text("{}")
    with pytest.raises(InputError, match="lacks W_dec or k"):
        check_format(Archive, tmp_path / "x")
