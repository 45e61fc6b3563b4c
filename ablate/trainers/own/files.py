"""The user's files: hashes of code and data, and whether the function or the command is there."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from ablate.errors import BadInput, ParameterError
from ablate.trainers.own.settings import PLACEHOLDER, Settings

_MOST_FILES = 10_000


def found(patterns: Sequence[str], *, at: Path) -> list[Path]:
    """The files that match, each once, in order. Folders of an environment or a cache are left out."""
    files = {path for pattern in patterns for path in _matches(pattern, at) if path.is_file()}
    return sorted(path for path in files if not _is_foreign(path.relative_to(at)))


def code_hash(settings: Settings) -> str:
    """A hash of the user's code as it is now, of the command, and of what is read of its reports."""
    digest, at = hashlib.sha256(), Path(settings.at)
    how = settings.model_dump_json(include={"function", "command", "reports", "metrics"}, exclude_defaults=True)
    digest.update(how.encode())
    for path in found(settings.code, at=at):
        digest.update(f"\0{path.relative_to(at)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def data_hash(settings: Settings) -> str:
    """A hash of the content of the data files. Raises ParameterError where a pattern matches no file."""
    digest, at = hashlib.sha256(), Path(settings.at)
    for number, pattern in enumerate(settings.data):
        if not found([pattern], at=at):
            raise ParameterError(f"trainer.data.{number}", pattern, "matches no file", _RELATIVE)
    for path in found(settings.data, at=at):
        status = path.stat()
        digest.update(f"\0{path.relative_to(at)}\0".encode())
        digest.update(_content(path, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()[:16]


def missing(settings: Settings) -> list[tuple[str, str]]:
    """(key, pattern) of the data that is not there."""
    at = Path(settings.at)
    return [
        (f"trainer.data.{number}", str(at / pattern))
        for number, pattern in enumerate(settings.data)
        if not found([pattern], at=at)
    ]


def check(settings: Settings) -> None:
    """Raise ParameterError where there is no such function or program or no code, BadInput where the code is not
    Python. Runs nothing of the user's."""
    at = Path(settings.at)
    if not found(settings.code, at=at):
        raise ParameterError("code", ", ".join(settings.code), "matches no file", _RELATIVE)
    if settings.function is not None:
        _check_function(settings.function, at=at)
    elif settings.command and not PLACEHOLDER.search(settings.command[0]):
        program = settings.command[0]
        if not (at / program).exists() and shutil.which(program, path=search_path()) is None:
            raise ParameterError("command", program, "no such program", "check its name, or give its path")


def search_path() -> str:
    """Where commands are found: first beside the interpreter that runs the study, as in an activated environment."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


_RELATIVE = "give a path or a pattern relative to the study file"


def _check_function(function: str, *, at: Path) -> None:
    module, _, attribute = function.partition(":")
    inside = at.joinpath(*module.split("."))
    file = next((path for path in (inside.with_suffix(".py"), inside / "__init__.py") if path.is_file()), None)
    if file is None:
        hint = f"put {module.replace('.', '/')}.py beside the study file"
        raise ParameterError("function", function, f"no module {module} in {at}", hint)
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else 1
        raise BadInput(f"{file}:{line}", "", "", f"not Python ({error})", "correct it") from None
    name = attribute.partition(".")[0]
    if name not in set(_names(tree)):
        raise ParameterError("function", function, f"{file.name} does not define {name}", "check the function's name")


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module may define: what its text binds anywhere, for a function may stand under an `if`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


def _matches(pattern: str, at: Path) -> Iterator[Path]:
    for number, path in enumerate(at.glob(pattern)):
        if number >= _MOST_FILES:
            rule = f"matches more than {_MOST_FILES:,} files"
            raise ParameterError("trainer.code", pattern, rule, "give a narrower pattern")
        yield path


def _is_foreign(path: Path) -> bool:
    return any(part in ("__pycache__", "site-packages", "node_modules") or part.startswith(".") for part in path.parts)


@lru_cache(maxsize=1_024)
def _content(path: Path, size: int, changed_ns: int) -> bytes:  # noqa: ARG001 - the key of the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
