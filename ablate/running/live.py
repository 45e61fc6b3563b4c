"""Shows a running study on stderr: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate import escape, formatting
from ablate.running.progress import Running, StudyProgress
from ablate.running.runner import Event

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow

_LAST_ENDED = 8
"""How many ended trials the live table shows."""

_PLAIN_EVERY_S = 60.0
"""Seconds between two progress lines in a log."""


class View:
    """Shows a study's progress. Use it as a context, pass it every event, and print other lines with `say`."""

    def __init__(self, study_progress: StudyProgress, *, console: Console | None = None) -> None:
        # The console keeps the stream it is made with, so a later redirection of stderr does not affect it.
        self._console = console or Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._study_progress = study_progress
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True)
        self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print one line, above the live table if it is shown."""
        self._console.print(escape.cut(line), markup=False)

    def on_event(self, event: Event) -> None:
        """Count an event. An ended trial and a warning get a line each."""
        now = time.monotonic()
        self._study_progress.add(event, now_s=now)
        if event.progress is not None and event.progress.warning:
            self.say(event.progress.warning)
        if event.row is not None:
            self.say(self._ended_line(event.row))
        elif not self._console.is_terminal and now - self._printed_at > _PLAIN_EVERY_S:
            self._printed_at = now
            self.say(self.summary())

    def summary(self) -> str:
        """`12 planned: 3 completed, 1 pruned, 2 running, 6 to come · best val_loss 3.21 (0123abcd…) · 4 min left`."""
        study_progress = self._study_progress
        counts = [f"{count} {status}" for status, count in sorted(study_progress.ended.items())]
        counts += [f"{len(study_progress.running)} running"] if study_progress.running else []
        counts += [f"{study_progress.left} to come"] if study_progress.left else []
        parts = [f"{study_progress.planned} planned: {', '.join(counts)}"]
        if study_progress.best is not None:
            row, value = study_progress.best
            parts.append(f"best {study_progress.objective.metric} {formatting.significant(value)} ({row.trial_id})")
        left_s = study_progress.left_s(now_s=time.monotonic())
        if left_s is not None:
            parts.append(f"about {formatting.duration(left_s)} left")
        return " · ".join(parts)

    def _ended_line(self, row: TrialRow) -> str:
        study_progress = self._study_progress
        ending = outcome(row, metric=study_progress.objective.metric)
        return f"[{len(study_progress.rows)}/{study_progress.planned}] {row.trial_id} {ending}"

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for header in ("trial", "arm", "seed", "state", "loss", self._study_progress.objective.metric, "parameters"):
            table.add_column(header, no_wrap=True, overflow="ellipsis")
        for row in self._study_progress.rows[-_LAST_ENDED:]:
            loss, value = row.metrics.get("ce_loss"), row.metrics.get(self._study_progress.objective.metric)
            cells = (
                row.trial_id,
                row.arm,
                str(row.seed),
                row.status,
                _cell(loss),
                _cell(value),
                formatting.parameters(row.params),
            )
            table.add_row(*map(_text, cells), style="" if row.status in ("completed", "pruned") else "red")
        for running in self._study_progress.running.values():
            table.add_row(*map(_text, _running_cells(running)), style="cyan")
        return Group(table, Text(self.summary(), style="bold"))


def outcome(row: TrialRow, *, metric: str) -> str:
    """How a trial ended, in a few words: its value of `metric`, or why it failed."""
    what = f"{row.arm} seed {row.seed} {row.status}"
    if row.error:
        return f"{what}: {row.error_kind}: {row.error}"
    reached = f" {metric} {formatting.significant(float(row.metrics[metric]))}" if metric in row.metrics else ""
    return f"{what}{reached} after {row.tokens_seen:,} tokens, {formatting.duration(row.wall_s)}"


def _running_cells(running: Running) -> tuple[str, ...]:
    trial, progress = running.trial, running.progress
    state = "starting" if progress is None else f"{formatting.share(running.share)} of budget"
    loss, value = (None, None) if progress is None else (progress.loss, progress.value)
    return (
        trial.trial_id,
        trial.arm,
        str(trial.seed),
        state,
        _cell(loss),
        _cell(value),
        formatting.parameters(trial.params),
    )


def _text(cell: str) -> Text:
    return Text(escape.one_line(cell))


def _cell(value: float | None) -> str:
    return "" if value is None else formatting.significant(value)
