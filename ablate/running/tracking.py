"""Tracking with SwanLab: one run per trial, grouped by study. An error in it is printed once and the trial continues.

The ledger is the record, not SwanLab: a killed process loses the last seconds of its run.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import threading
from collections.abc import Iterator, Set
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow
    from ablate.trainers import Report
    from ablate.trials.trial import Trial

Mode = Literal["offline", "local", "online", "disabled"]
"""`offline`: stored on disk for `swanlab sync`; `local`: stored for `swanlab watch`; `online`: sent to the host."""


def check(mode: Mode) -> tuple[Mode, str]:
    """The mode to use, and a line that says why it differs from `mode` ("" if it does not)."""
    if mode == "online" and not os.environ.get("SWANLAB_API_KEY"):
        return "disabled", (
            "tracking: swanlab: online: SWANLAB_API_KEY is not set, so nothing is tracked; export it"
            " (and SWANLAB_API_HOST for your own host), or use offline"
        )
    return mode, ""


class Tracker:
    """The SwanLab run of one trial, as a context. Its files go to `folder`. No method raises."""

    def __init__(self, trial: Trial, *, mode: Mode, folder: Path) -> None:
        self._trial, self._folder = trial, folder
        self._mode: Mode = mode
        self._run: Any = None
        self._end: tuple[Literal["success", "crashed", "aborted"], str | None] = ("aborted", None)
        self._warning, self._broken = "", False
        self._threads: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        if self._mode != "disabled":
            before = set(threading.enumerate())
            with self._never_raising():
                self._run = _start(self._trial, mode=self._mode, folder=self._folder)
            self._threads = set(threading.enumerate()) - before
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:  # a broken one as well, since SwanLab begins no other run before
            state, message = self._end
            with self._never_raising():
                self._run.finish(state=state, error=message)
        if self._threads:
            _stop_watching(self._threads)

    def log(self, report: Report) -> None:
        """Log the finite numbers of a report at its step; SwanLab rejects everything else."""
        if self._run is None or self._broken:
            return
        numbers: dict[str, float | int | list[float]] = {
            **report.metrics,
            **({} if report.lr is None else {"lr": report.lr}),
            "tokens_seen": report.tokens_seen,
            **({"loss": sum(report.losses) / len(report.losses)} if report.losses else {}),
        }
        finite = {
            name: value for name, value in numbers.items() if isinstance(value, (int, float)) and math.isfinite(value)
        }
        with self._never_raising():
            self._run.log(finite, step=report.step)

    def end(self, row: TrialRow) -> None:
        """Set the state that the run is closed with; without this call it is marked as aborted."""
        self._end = ("crashed", row.error) if row.error else ("success", None)

    def take_warning(self) -> str:
        """The warning, once; "" if there is none."""
        warning, self._warning = self._warning, ""
        return warning

    @contextlib.contextmanager
    def _never_raising(self) -> Iterator[None]:
        """The tracker's edge: an exception turns tracking off for this trial and becomes a warning."""
        try:
            # SwanLab prints to stdout, which is for the command's answer.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        except Exception as error:  # noqa: BLE001 - tracking must never fail a trial; the warning is the record
            if self._broken:
                return
            self._broken = True
            self._warning = (
                f"tracking: trial {self._trial.trial_id} is not tracked further: {type(error).__name__}: {error}"
            )
            with contextlib.suppress(OSError), self._folder.joinpath("warnings.txt").open("a", encoding="utf-8") as log:
                log.write(self._warning + "\n")


def _start(trial: Trial, *, mode: Mode, folder: Path) -> Any:
    import swanlab  # takes half a second, and is not needed if tracking is disabled

    folder.mkdir(parents=True, exist_ok=True)
    return swanlab.init(
        mode=mode,
        log_dir=str(folder),
        project=trial.study,
        group=trial.study,
        name=f"{trial.arm}-{trial.trial_id}",
        tags=[trial.arm, f"seed-{trial.seed}"],
        config={**trial.params, "seed": trial.seed, "trial_id": trial.trial_id},
        # The defaults run git, pip and lscpu and take over the terminal: 0.8 s per trial instead of 0.04 s.
        settings=swanlab.Settings(
            probe=swanlab.Settings.Probe(monitor=False, requirements=False, git=False, hardware=False),
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
            interactive=False,
        ),
    )


def _stop_watching(threads: Set[threading.Thread]) -> None:
    """Stop the watchers of files among `threads`. SwanLab leaves one for each run (with watchdog 7), which holds an
    inotify instance. A user has 128 of these, and without one no trial is tracked."""
    from watchdog.utils import BaseThread  # comes with SwanLab

    for thread in threads:
        if isinstance(thread, BaseThread):
            thread.stop()
