from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from saebench import store
from saebench.errors import InputError, RecordError
from tests.helpers import make_record, save


def test_what_is_written_is_read(tmp_path: Path):
    (path,) = save(tmp_path, make_record())
    assert store.read_record(path) == make_record()
    assert [p for p, _ in store.iter_records(tmp_path)] == [path]


def test_the_path_says_what_it_holds(tmp_path: Path):
    path = store.record_path(tmp_path, model="org/m", site="a.b", sae="x y", sha256="0123456789", task="t", version=2, seed=3)
    assert path.relative_to(tmp_path).as_posix() == "org-m/a.b/x-y-01234567/t@2/seed3.json"


@pytest.mark.parametrize("hostile", ["../../x", "/etc/x", "..", ".", "", "a\nb", "~"])
def test_no_name_leaves_the_folder(tmp_path: Path, hostile: str):
    path = store.record_path(tmp_path, model=hostile, site=hostile, sae=hostile, sha256="0" * 64, task=hostile, version=1, seed=0)
    assert path.resolve().is_relative_to(tmp_path.resolve())
    assert len(path.relative_to(tmp_path).parts) == 5


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: bytes | None
):
    path = tmp_path / "seed0.json"
    if before is not None:
        path.write_bytes(before)

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, call, full)
    with pytest.raises(InputError, match="No space left on device"):
        store.write_atomic(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_failing_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import builtins

    real = builtins.open

    class Full:
        def __init__(self, *args: object) -> None:
            self._file = real(*args)  # type: ignore[call-overload]

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            self._file.write(data[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(builtins, "open", Full)
    with pytest.raises(InputError, match="No space left"):
        store.write_atomic(tmp_path / "f", b"new")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_found_before_any_work(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another folder"):
        store.check_writable(tmp_path / "file" / "out")
    store.check_writable(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_record_damaged_by_hand_is_reported_and_the_rest_is_read(tmp_path: Path):
    good, bad = save(tmp_path, make_record("a"), make_record("b"))
    bad.write_bytes(bad.read_bytes()[:-40] + b"\xff")
    found = dict(store.iter_records(tmp_path))
    assert found[good] == make_record("a")
    assert isinstance(found[bad], RecordError)
    assert str(bad) in str(found[bad])


def test_files_in_the_making_are_not_records(tmp_path: Path):
    (path,) = save(tmp_path, make_record())
    path.with_name(".seed1.json.99.tmp").write_text("{")
    path.with_name("seed0.latents.parquet").write_text("")
    assert store.find_records(tmp_path) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(InputError, match="no such folder"):
        store.find_records(tmp_path / "nowhere")


def test_a_link_stays_a_link_and_the_file_behind_it_is_replaced(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    real, link = tmp_path / "inner/real.md", tmp_path / "link.md"
    link.symlink_to(real)  # at first it leads nowhere
    for content in (b"one", b"two"):
        store.write_atomic(link, content)
        assert link.is_symlink()
        assert real.read_bytes() == content
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inner", "link.md", "real.md"]
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(InputError, match=r"cannot write .*link\.md"):
        store.write_atomic(link, b"x")


def no_replacing(*_args: object) -> None:
    """Stand in for ``os.replace`` where it must not be called: run by root, a failing test would replace the device itself."""
    raise OSError(errno.EPERM, "would have replaced it")


def test_what_is_no_file_is_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import threading

    monkeypatch.setattr(os, "replace", no_replacing)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.append(pipe.read_bytes()), daemon=True)
    reader.start()
    store.write_atomic(pipe, b"through")
    reader.join(10)
    assert seen == [b"through"]
    assert pipe.is_fifo()
    store.write_atomic(Path("/dev/null"), b"x")
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "replace", no_replacing)
    with pytest.raises(InputError, match="No space left"):
        store.write_atomic(Path("/dev/full"), b"x")


@pytest.mark.parametrize("to", ["file", "pipe"])
def test_standard_output_may_be_named(tmp_path: Path, to: str):
    import subprocess
    import sys

    code = (
        "import tests.test_store as t, os; os.replace = t.no_replacing\n"
        "from pathlib import Path; from saebench.store import write_atomic; write_atomic(Path('/dev/stdout'), b'new')"
    )
    if to == "pipe":
        assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"new"
        return
    file = tmp_path / "out"
    file.write_bytes(b"old")
    with open(file, "ab") as handle:
        subprocess.run([sys.executable, "-c", code], stdout=handle, check=True)
    assert file.read_bytes() == b"oldnew"
