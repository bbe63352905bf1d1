from __future__ import annotations

import sys
from pathlib import Path

import pytest

from saebench.errors import InputError
from saebench.registry import FORMATS, METRICS, RECIPES, STUDIES, Registry

_GROUPS = {
    "saebench.metrics": METRICS,
    "saebench.studies": STUDIES,
    "saebench.formats": FORMATS,
    "saebench.trainers": RECIPES,
}


def _registry(group: str) -> Registry:
    return Registry("thing", package="saebench.trainers", group=group)


def test_a_taken_name_is_refused_and_the_same_object_twice_is_not():
    registry = _registry("none")
    registry.register("a")(1)
    registry.register("a")(1)
    with pytest.raises(InputError, match="two things are called 'a'"):
        registry.register("a")(2)


def test_a_taken_name_is_refused_in_plain_english():
    registry = Registry("study", package="saebench.trainers", group="none")
    registry.register("a")(1)
    with pytest.raises(InputError, match="two studies are called 'a'"):
        registry.register("a")(2)


def test_an_unknown_name_brings_the_nearest():
    registry = _registry("none")
    registry.register("reconstruction")(1)
    with pytest.raises(InputError, match=r"unknown thing 'reconstructon'. Did you mean 'reconstruction'\?"):
        registry.get("reconstructon")


def test_names_are_sorted():
    registry = _registry("none")
    for name in "bca":
        registry.register(name)(name)
    assert registry.names() == ["a", "b", "c"]
    assert [name for name, _ in registry.items()] == ["a", "b", "c"]


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package, as pip would leave it, that names one member in each group."""
    (tmp_path / "saebench_extra.py").write_text("class Thing:\n    '''A thing.'''\n")
    info = tmp_path / "saebench_extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: saebench-extra\nVersion: 1.0\n")
    groups = "".join(f"[{group}]\nextra = saebench_extra:Thing\n" for group in _GROUPS)
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "saebench_extra", raising=False)
    return info


@pytest.mark.parametrize("group", sorted(_GROUPS))
def test_a_plug_in_is_found_by_its_entry_point(plug_in: Path, group: str):
    assert _registry(group).get("extra").__name__ == "Thing"


@pytest.mark.parametrize("group", sorted(_GROUPS))
def test_our_registries_look_in_the_documented_groups(group: str):
    assert _GROUPS[group]._group == group


def test_a_plug_in_does_not_replace_a_built_in(plug_in: Path):
    registry = _registry("saebench.metrics")
    registry.register("extra")("ours")
    with pytest.raises(InputError, match="two things are called 'extra'"):
        registry.names()


def test_a_broken_plug_in_is_named(plug_in: Path):
    (plug_in / "entry_points.txt").write_text("[saebench.formats]\nextra = saebench_extra:Missing\n")
    with pytest.raises(InputError, match=r"saebench_extra:Missing.*does not load.*uninstall"):
        _registry("saebench.formats").names()
