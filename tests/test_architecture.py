"""The shape of the house: folders without circles, few levels, small folders, one door to the model."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("ablate", "model")
MOST_LEVELS = 11
MOST_MODULES = 16
MOST_AT_THE_TOP = {"ablate": 16, "model": 14}
COMMANDS = ("__main__",)
"""Modules of a folder that are commands: nodes of their own, as the commands at the top are."""


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules among `known` that a module imports, anywhere in it: at the top, in a function, for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            found = target if target in known else target.rpartition(".")[0]
            if found in known and found != name:
                yield found


def folder(name: str, known: dict[str, Path]) -> str:
    """The node of a module: its folder below the package; a module at the top, and a command, is its own."""
    package, *rest = name.split(".")
    path = known[name]
    is_folder = path.name == "__init__.py"
    if not rest:
        return package
    if rest[-1] in COMMANDS:
        return name
    return ".".join([package, *(rest if is_folder else rest[:-1])]) if is_folder or rest[:-1] else name


def graph(package: str, *, by_folder: bool) -> dict[str, set[str]]:
    """Node -> the nodes that it imports."""
    known = modules(package)
    nodes: dict[str, set[str]] = {}
    for name, path in known.items():
        node = folder(name, known) if by_folder else name
        targets = {folder(target, known) if by_folder else target for target in imports(name, path, known)}
        nodes.setdefault(node, set()).update(targets - {node, package})
    return nodes


def levels(nodes: dict[str, set[str]]) -> int:
    """How many nodes the longest chain of imports has."""
    depth: dict[str, int] = {}
    for node in TopologicalSorter(nodes).static_order():
        depth[node] = 1 + max((depth[target] for target in nodes[node]), default=0)
    return max(depth.values())


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("by_folder", [False, True], ids=["modules", "folders"])
def test_no_circle(package: str, by_folder: bool) -> None:
    nodes = graph(package, by_folder=by_folder)
    try:
        TopologicalSorter(nodes).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_few_levels_between_folders_and_commands(package: str) -> None:
    assert levels(graph(package, by_folder=True)) <= MOST_LEVELS


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small_enough_to_be_read(package: str) -> None:
    sizes = {path.parent.relative_to(ROOT): len(list(path.parent.glob("*.py"))) for path in modules(package).values()}
    assert sizes.pop(Path(package)) <= MOST_AT_THE_TOP[package]
    assert {place: size for place, size in sizes.items() if size > MOST_MODULES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is_for(package: str) -> None:
    silent = [name for name, path in modules(package).items() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_trainers_are_the_only_modules_of_ablate_that_import_model() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ablate").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "model"
    }
    assert found == {"ablate/trainers/token_memory.py", "ablate/trainers/token_memory_pages.py"}


def test_a_report_and_a_status_import_neither_model_nor_torch(tmp_path: Path) -> None:
    """On results/memory, which was written before studies described their trainer."""
    program = f"""
import shutil, sys
shutil.copytree({str(ROOT / "results" / "memory")!r}, {str(tmp_path / "memory")!r})
import ablate
from ablate import status
from ablate.report.writer import main
assert main([{str(tmp_path / "memory")!r}]) == 0
sys.argv = ["status", {str(tmp_path / "memory")!r}, "--json"]
assert status.main() == 0
print(sorted({{"model", "torch", "optuna", "ray"}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
