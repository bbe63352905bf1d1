"""House rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for room in ("saebench", "trainers", "tasks") for p in (ROOT / room).rglob("*.py"))
ALL = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", ALL, ids=_name)
def test_a_file_fits_in_one_sitting(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_sources_neither_print_nor_unpickle_nor_import_tests(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id == "print"), f"line {node.lineno}: print"
            for word in node.keywords:
                unsafe = {"weights_only": False, "allow_pickle": True}.get(word.arg or "")
                given = word.value.value if isinstance(word.value, ast.Constant) else None
                assert unsafe is None or given is not unsafe, f"line {node.lineno}: {word.arg}={given}"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(n.split(".")[0] in ("pickle", "tests") for n in names), f"line {getattr(node, 'lineno', 0)}: {names}"


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in (parts if parts[0] == "saebench" else ("saebench", *parts)) if part != "__init__")


def test_no_module_imports_itself_by_way_of_others():
    """Imports for types and those inside functions count too."""
    modules = {_module(path): path for path in SOURCES}
    imports: dict[str, set[str]] = {}
    for module, path in modules.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {name if name in modules else name.rpartition(".")[0] for name in full}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
        imports[module] = named & modules.keys() - {module}
    assert any(imports.values())
    while free := {module for module, named in imports.items() if not named}:  # those that lead to no circle, from the ends on
        imports = {module: named - free for module, named in imports.items() if module not in free}
    assert not imports, f"circles among or before {sorted(imports)}"


LIGHT = (
    "",
    ".cli",
    ".record",
    ".store",
    ".tasklist",
    ".lm.families",
    ".report.flat",
    ".report.nested",
    ".report.markdown",
    ".report.leaderboard",
    ".report.plots",
    ".reference",
)


@pytest.mark.parametrize("module", [f"saebench{name}" for name in LIGHT])
def test_light_modules_import_nothing_heavy(module: str):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
