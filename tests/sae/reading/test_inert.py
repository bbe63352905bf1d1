"""Hostile files in the layout of mats_sae_training: whatever they hold, nothing of theirs runs, and the line names what it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.reading.inert import Inert, imports_of, stand_ins
from tests.sae.formats.mats_files import NAME, SETTINGS, module, state, write

PACKAGES = ("sae_training", "sae_lens")


class Run:
    """Pickled, it is a call of ``function`` with ``arguments``; unpickled by Python, it runs it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


@pytest.fixture
def executed(tmp_path: Path) -> Iterator[Path]:
    """What a hostile file would leave behind; it must not be there at the end."""
    file = tmp_path / "executed"
    yield file
    assert not file.exists(), "the file ran something"


def refused(file: Path, said: str) -> None:
    for path in (file, file.parent):
        for look in (
            load_sae,
            lambda path: load_sae(path, format="mats"),
            lambda path: [load_sae(f.path) for f in find_all(path)],
        ):
            with pytest.raises(InputError) as caught:
                look(path)
            line = str(caught.value)
            assert said in line
            assert "nothing was executed" in line
            assert line.isprintable()


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    """What the other tests rest on: the same file does run, where pickles are trusted."""
    file = write(tmp_path / NAME, SETTINGS | {"lr": Run(os.system, f"touch {tmp_path / 'gone_off'}")}, package="trusted")
    with module("trusted", LanguageModelSAERunnerConfig=type("LanguageModelSAERunnerConfig", (), {})):
        torch.load(file, weights_only=False)
    assert (tmp_path / "gone_off").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["cfg", "deep in cfg", "a key in cfg", "state_dict", "deep in state_dict", "beside"])
def test_a_call_of_the_system_is_refused_wherever_it_stands(tmp_path: Path, executed: Path, where: str, zipped: bool) -> None:
    bomb = Run(os.system, f"touch {executed}")
    settings: dict[str, Any] = dict(SETTINGS)
    tensors: dict[str, Any] = dict(state())
    extra: Any = None
    if where == "cfg":
        settings["lr"] = bomb
    elif where == "deep in cfg":
        settings["lr"] = [{"a": ({"b": bomb},)}]
    elif where == "a key in cfg":
        settings["lr"] = {bomb: 1}
    elif where == "state_dict":
        tensors["W_enc"] = bomb
    elif where == "deep in state_dict":
        tensors["W_enc"] = [bomb]
    else:
        extra = bomb
    file = write(tmp_path / "a" / NAME, settings, tensors, zipped=zipped, extra=extra)
    refused(file, f"{os.system.__module__}.system")


def test_a_call_in_the_place_of_cfg_and_of_the_whole_file(tmp_path: Path, executed: Path) -> None:
    bomb = Run(os.system, f"touch {executed}")
    for at, content in enumerate(({"cfg": bomb, "state_dict": dict(state())}, bomb, [bomb], {"cfg": {}, "state_dict": bomb})):
        (tmp_path / str(at)).mkdir()
        torch.save(content, tmp_path / str(at) / NAME)
        refused(tmp_path / str(at) / NAME, f"{os.system.__module__}.system")


def evaluate(text: str) -> None:
    eval(text)


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, evaluate])
def test_other_functions_are_refused_by_name(tmp_path: Path, executed: Path, function: Callable[..., Any]) -> None:
    file = write(tmp_path / "a" / NAME, SETTINGS | {"lr": Run(function, f"open({str(executed)!r}, 'w')")})
    refused(file, f".{function.__name__}; refused")


@pytest.mark.parametrize(
    "package",
    ["evil", "sae_trainingx.config", "sae_training_.config", "xsae_training.config", "transformer_lens_.config", "os.sae_lens"],
)
def test_classes_of_other_packages_are_refused_by_name(tmp_path: Path, executed: Path, package: str) -> None:
    refused(write(tmp_path / "a" / NAME, package=package), f"{package}.LanguageModelSAERunnerConfig")


def test_a_class_of_another_package_inside_an_allowed_one(tmp_path: Path, executed: Path) -> None:
    with module("evil", Thing=type("Thing", (), {})) as evil:
        file = write(tmp_path / "a" / NAME, SETTINGS | {"lr": {"deep": [evil.Thing()]}})
    refused(file, "evil.Thing")


def test_calls_of_allowed_names_do_nothing(tmp_path: Path, executed: Path) -> None:
    """``sae_training.config.launch`` in a file is a name: its stand-in takes any argument and is an empty object."""

    def launch(command: str, *_more: Any) -> None:
        os.system(command)

    with module("sae_training.launcher", launch=launch):
        call = Run(launch, f"touch {executed}", [1, {"a": 2}])
        file = write(tmp_path / NAME, SETTINGS | {"lr": call, "l1_coefficient": [call]})
        torch.save({"cfg": call, "state_dict": state()}, tmp_path / "x.pt")
    assert load_sae(file).config.site == "blocks.8.hook_resid_pre"
    assert load_sae(tmp_path / "x.pt").config.site is None
    with module("sae_training.launcher", launch=launch):
        torch.save({"cfg": {}, "state_dict": dict(state()) | {"W_enc": call}}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="'W_enc' is a launch, expected a tensor"):
        load_sae(tmp_path / "y.pt")


def test_classes_that_are_really_there_are_not_used(tmp_path: Path, executed: Path) -> None:
    """Neither a module that is loaded nor one that could be: the file's names stay names."""

    def touch(*_arguments: Any) -> None:
        executed.write_text("ran")

    trap = type("LanguageModelSAERunnerConfig", (), {"__setstate__": touch, "__init__": touch})
    file = write(tmp_path / NAME)
    with module("sae_training.config", LanguageModelSAERunnerConfig=trap):
        assert load_sae(file).config.site == "blocks.8.hook_resid_pre"
    package = tmp_path / "path" / "sae_training"
    package.mkdir(parents=True)
    for name in ("__init__.py", "config.py"):
        (package / name).write_text(f"open({str(executed)!r}, 'w')\n")
    sys.path.insert(0, str(package.parent))
    try:
        assert load_sae(file).config.site == "blocks.8.hook_resid_pre"
    finally:
        sys.path.remove(str(package.parent))
    assert "sae_training" not in sys.modules


def test_states_cannot_hide_methods_in_a_stand_in(tmp_path: Path, executed: Path) -> None:
    """A second state would go to what a first one had put in the place of ``__setstate__``, were there a place to put it."""

    class Twice:
        def __init__(self, state: Any) -> None:
            self.state = state

        def __reduce__(self) -> Any:
            return Cfg, (), self.state

    class Cfg:
        pass

    hidden = {
        "__setstate__": torch.device,
        "__class__": 5,
        "__dict__": {"a": 1},
        "attributes": 7,
        "hook_point": "blocks.1.hook_resid_pre",
    }
    with module("sae_training.config", Cfg=Cfg):
        torch.save({"cfg": Twice(hidden), "state_dict": state()}, tmp_path / "a.pt")
        torch.save({"cfg": Twice((None, hidden)), "state_dict": state()}, tmp_path / "b.pt")
        torch.save({"cfg": Twice([hidden]), "state_dict": state()}, tmp_path / "c.pt")
    assert load_sae(tmp_path / "a.pt").config.site == "blocks.1.hook_resid_pre"
    assert load_sae(tmp_path / "b.pt").config.site == "blocks.1.hook_resid_pre"
    assert load_sae(tmp_path / "c.pt").config.site is None


def test_a_stand_in_takes_attributes_and_nothing_else(tmp_path: Path) -> None:
    (kind,) = stand_ins(write(tmp_path / NAME), PACKAGES)
    assert issubclass(kind, Inert)
    assert (kind.__module__, kind.__qualname__) == ("sae_training.config", "LanguageModelSAERunnerConfig")
    made = kind(1, 2, three=3)
    assert made.attributes == {}
    made.__setstate__({"a": 1, 2: 3})
    made.__setstate__(({"b": 2}, {"c": 3}))
    made.__setstate__("no state")
    assert made.attributes == {"a": 1, "b": 2, "c": 3}
    assert not hasattr(made, "__dict__")
    assert not callable(made)
    with pytest.raises(AttributeError):
        made.a = 1  # pyright: ignore[reportAttributeAccessIssue]
    own = {name for name in vars(Inert) if callable(getattr(Inert, name, None))}
    assert own == {"__new__", "__init__", "__setstate__", "__repr__"}


def test_names_are_listed_once_and_bounded(tmp_path: Path) -> None:
    names = imports_of(write(tmp_path / NAME, SETTINGS | {"lr": [Run(os.system, "true")] * 3}))
    assert names == ["sae_training.config.LanguageModelSAERunnerConfig", f"{os.system.__module__}.system"]
    plain = tmp_path / "plain.pt"
    torch.save({"cfg": {}, "state_dict": state()}, plain)
    assert imports_of(plain) == []
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04cut")
    assert imports_of(tmp_path / "cut.pt") == []


def test_names_that_would_draw_on_a_terminal_are_shown_harmlessly(tmp_path: Path) -> None:
    name = "a\x1b[31m\nb"
    pickle = b"\x80\x04" + b"\x8c" + bytes([len(name)]) + name.encode() + b"\x8c\x01c\x93)R."
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / NAME).write_bytes(pickle)
    refused(tmp_path / "a" / NAME, r"a\x1b[31m\nb.c")
