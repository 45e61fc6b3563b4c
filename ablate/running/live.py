"""Shows a running study on stderr: a live table in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate import escape, formatting
from ablate.records.rows import MEASURED, TrialRow
from ablate.running.progress import Running, StudyProgress
from ablate.running.runner import Event

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
            best = "best" if study_progress.seeds == 1 else "best mean"
            parts.append(f"{best} {study_progress.objective.metric} {formatting.significant(value)} ({row.trial_id})")
        left_s = study_progress.left_s(now_s=time.monotonic())
        if left_s is not None:
            parts.append(f"{formatting.roughly(left_s)} left")
        return " · ".join(parts)

    def _ended_line(self, row: TrialRow) -> str:
        study_progress = self._study_progress
        ending = outcome(row, metric=study_progress.objective.metric)
        return f"[{len(study_progress.rows)}/{study_progress.planned}] {row.trial_id} {ending}"

    def _table(self) -> Group:
        """The summary is first: a low terminal cuts the last lines."""
        metric = self._study_progress.objective.metric
        ended, running = self._study_progress.rows[-_LAST_ENDED:], self._study_progress.running.values()
        rows = [*(_ended_cells(row, metric) for row in ended), *map(_running_cells, running)]
        styles = [*("" if row.status in MEASURED else "red" for row in ended), *("cyan" for _ in running)]
        heads, *cells = fitted([(*_HEADS, metric, "parameters"), *rows], width=self._console.width)
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        for head in heads:
            table.add_column(Text(head), no_wrap=True, overflow="ellipsis")
        for line, style in zip(cells, styles, strict=True):
            table.add_row(*map(Text, line), style=style)
        # It breaks into lines: the console's soft wrap would send its end past the edge of the screen.
        return Group(Text(self.summary(), style="bold", no_wrap=False, overflow="fold"), table)


def outcome(row: TrialRow, *, metric: str) -> str:
    """How a trial ended, in a few words: its value of `metric`, or why it failed."""
    what = f"{row.arm} seed {row.seed} {row.status}"
    if row.error:
        return f"{what}: {row.error_kind}: {row.error}"
    reached = f" {metric} {formatting.significant(float(row.metrics[metric]))}" if metric in row.metrics else ""
    return f"{what}{reached} after {row.tokens_seen:,} tokens, {formatting.duration(row.wall_s)}"


_HEADS = ("trial", "arm", "seed", "state", "loss")
_TRIAL, _ARM, _SEED, _STATE, _PARAMETERS = 0, 1, 2, 3, 6
"""Columns of the live table. The objective's value is between the loss and the parameters."""

_GAP, _FEW_PARAMETERS, _SHORT_ARM = 2, 12, 8
"""Characters between two columns, and the fewest that parameters and arms are cut to."""


def fitted(rows: Sequence[Sequence[str]], *, width: int) -> list[list[str]]:
    """The lines of the live table, its head first, in `width` characters. Arm, state, loss and objective always stay:
    the parameters are cut, then left out, then the trials and the seeds are left out, then arms are cut within."""
    lines = [[escape.one_line(cell) for cell in row] for row in rows]
    columns = dict(enumerate(zip(*lines, strict=True)))

    def longest(index: int) -> int:
        return max(map(cell_len, columns[index]))

    def excess() -> int:
        return sum(longest(index) + _GAP for index in columns) - _GAP - width

    if excess() > 0 and (room := longest(_PARAMETERS) - excess()) >= _FEW_PARAMETERS:
        columns[_PARAMETERS] = tuple(_cut(cell, room) for cell in columns[_PARAMETERS])
    for index in (_PARAMETERS, _TRIAL, _SEED):
        if excess() > 0:
            del columns[index]
    if excess() > 0:
        columns[_STATE] = tuple(cell.removesuffix(_OF_BUDGET) for cell in columns[_STATE])
    if excess() > 0:
        room = max(_SHORT_ARM, longest(_ARM) - excess())
        columns[_ARM] = tuple(_cut(cell, room, within=True) for cell in columns[_ARM])
    return [list(line) for line in zip(*columns.values(), strict=True)]


def _cut(cell: str, room: int, *, within: bool = False) -> str:
    """The text in `room` characters; `within`: without its middle, since names of cells differ at their ends."""
    if cell_len(cell) <= room:
        return cell
    tail = (room - 1) // 2 if within else 0
    return f"{set_cell_size(cell, room - 1 - tail)}…{set_cell_size(cell[::-1], tail)[::-1]}"


def _ended_cells(row: TrialRow, metric: str) -> tuple[str, ...]:
    loss, value = row.metrics.get("ce_loss"), row.metrics.get(metric)
    params = formatting.parameters(row.params)
    return (row.trial_id, row.arm, str(row.seed), row.status, _cell(loss), _cell(value), params)


_OF_BUDGET = " of budget"


def _running_cells(running: Running) -> tuple[str, ...]:
    trial, progress = running.trial, running.progress
    state = "starting" if progress is None else f"{formatting.share(running.share)}{_OF_BUDGET}"
    loss, value = (None, None) if progress is None else (progress.loss, progress.value)
    params = formatting.parameters(trial.params)
    return (trial.trial_id, trial.arm, str(trial.seed), state, _cell(loss), _cell(value), params)


def _cell(value: float | None) -> str:
    return "" if value is None else formatting.significant(value)
