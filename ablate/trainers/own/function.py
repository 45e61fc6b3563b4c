"""Runs the user's function in this process, as if it were called in the study file's folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablate.trainers.own.reporting import Reporting
from ablate.trainers.own.trial import Trial, TrialStopped
from ablate.trainers.protocol import Verdict


class Exited(RuntimeError):
    """The function called sys.exit."""


def run(function: str, trial: Trial, reporting: Reporting, *, at: Path, share: float = 0.0) -> None:
    """Import the function anew, seed the generators, call it, and take what it returns as its last report.

    `share`: of the GPU's memory that PyTorch may take, 0 for all of it. Raises what the function raises.
    """

    home = _current_folder()

    def record(progress: Any, metrics: Mapping[str, Any]) -> Verdict:
        """In the suite's own folder: what it reads and writes then may have relative paths."""
        with contextlib.chdir(home):
            return reporting.take(progress, metrics, digest=trial.data_digest)

    def take(progress: Any, metrics: Mapping[str, Any]) -> None:
        verdict = _agreed(record(progress, metrics))
        if verdict is not Verdict.CONTINUE:
            reporting.verdict = verdict
            raise TrialStopped(verdict.value)

    trial._take = take
    name, _, attribute = function.partition(":")
    with _as_if_started_in(at), contextlib.suppress(TrialStopped):
        random.seed(trial.seed)
        main: Any = importlib.import_module(name)
        for part in attribute.split("."):
            main = getattr(main, part)
        _seed(trial.seed)
        _hold(share)
        try:
            returned = main(trial)
        except SystemExit as error:
            raise Exited(f"it called sys.exit({error.code!r})") from error
        if returned is not None:
            if not isinstance(returned, Mapping):
                raise TypeError(f"{function} returned {type(returned).__name__}, not a mapping of metrics or None")
            at_end = reporting.state.progress if reporting.state.last else trial.budget
            record(at_end, returned)
        elif trial.data_digest:
            reporting.state.digest = trial.data_digest


@contextmanager
def _as_if_started_in(folder: Path) -> Iterator[None]:
    """The folder first on the path and as the current one, no arguments, and its modules imported anew, since a process
    trains several trials and a module may keep what an earlier one left. A module of this process that has the name of
    one in the folder (`model`) stands back meanwhile."""
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names - _KEPT}
    before, argv, path, current = set(sys.modules), sys.argv, list(sys.path), _current_folder()
    sys.argv, sys.path[:0] = [str(folder)], [str(folder)]
    os.chdir(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
        os.chdir(current)
        for name in set(sys.modules) - before:
            if _is_inside(sys.modules[name], folder):
                del sys.modules[name]
        sys.modules.update(hidden)


_KEPT = frozenset(("ablate", "__main__")) | sys.stdlib_module_names
"""Never hidden: a folder `ablate` of results, or a file that has the name of a standard module."""


def _current_folder() -> str:
    """The current folder; the root where it was removed, as nothing relative is there any more."""
    try:
        return os.getcwd()  # noqa: PTH109 - a text is what chdir takes
    except FileNotFoundError:
        return os.sep


def _is_inside(module: Any, folder: Path) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "")
    return bool(file) and "site-packages" not in str(file) and folder in Path(file).parents


def _seed(seed: int) -> None:
    """Seed the generators of what is imported, so that a process's earlier trials leave no trace."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def _hold(share: float) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def rank() -> int:
    """This process's rank; 0 where it is alone."""
    distributed = _process_group()
    return 0 if distributed is None else distributed.get_rank()


def _agreed(verdict: Verdict) -> Verdict:
    """Rank 0's verdict, on every rank."""
    distributed = _process_group()
    if distributed is None:
        return verdict
    said = [verdict.value]
    distributed.broadcast_object_list(said, src=0)
    return Verdict(said[0])


def _process_group() -> Any:
    """torch.distributed where this process is one of several; None where it is alone, or PyTorch is not imported."""
    torch = sys.modules.get("torch")
    alone = torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized()
    return None if torch is None or alone else torch.distributed
