"""The only reader and writer of results/STUDY, the record of truth: parquet parts that are whole or absent, in a folder
or a bucket (`ablate.records.store`).

A trial has one writer at a time. A writer claims an attempt by creating its history part; from then on the writers of
older attempts are refused, because a killed worker may go on writing for a second.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.errors import BadInput, CannotWrite
from ablate.records import json_files, parquet_files, store, study_reader
from ablate.records.atomic_files import Unreadable, check_regular
from ablate.records.interim_looks import Look
from ablate.records.locations import Place
from ablate.records.parquet_files import Problem
from ablate.records.rows import TrialRow
from ablate.records.schema import history_schema, trial_schema
from ablate.records.store import Store
from ablate.records.study_reader import StudyTables
from ablate.trainers import Description, Metric, Report, recorded


class StaleAttempt(RuntimeError):
    """A write was refused: the attempt is not the trial's current one, or the trial has ended."""


@dataclass(frozen=True)
class Ledger:
    """results/STUDY. It holds only its place and the trainer's metrics, so it is sent to workers as it is.
    `known_metrics`: None in a reader, which takes them from study.json."""

    place: Place
    known_metrics: tuple[Metric, ...] | None = None

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the study's trainer. Raises BadInput where study.json is damaged."""
        if self.known_metrics is not None:
            return self.known_metrics
        return self.trainer.metrics

    @property
    def trainer(self) -> Description:
        """The study's trainer, as study.json describes it; without study.json, the first trainer. Raises BadInput where
        study.json is damaged."""
        if not self.exists():
            return recorded.first()
        try:
            return recorded.described(self.read_study())
        except ValueError as error:
            rule, hint = f"not a trainer ({error})", "restore the file, or move the folder away"
            raise BadInput(str(self.place / "study.json"), "trainer", "", rule, hint) from None

    # ---- locations

    @property
    def store(self) -> Store:
        """The store of the study's files. Raises BadInput where a bucket cannot be reached."""
        return store.at(self.place)

    @property
    def root(self) -> Path:
        """The study's folder; for a bucket, the folder of copies on this machine."""
        return self.store.folder

    def path(self, *parts: str) -> Path:
        """A file or folder of the study on this machine: `ledger.path("swanlab")`."""
        return self.root.joinpath(*parts)

    def exists(self) -> bool:
        """Whether the study exists."""
        return self.store.exists("study.json")

    def is_orphaned(self) -> bool:
        """Whether there are trials, or draws of trials, of which no study.json says what was asked."""
        return not self.exists() and any(self.store.names(folder) for folder in ("trials", "history", "draws"))

    def checkpoint_dir(self, trial_id: str, *, own: bool = False) -> Path:
        """The folder of a trial's checkpoints. `own`: for the workers that train it; the folder then holds only
        what the store keeps, so that all of them see the same."""
        self.store.pull(f"checkpoints/{trial_id}", mirror=own)
        return self.path("checkpoints", trial_id)

    def keep_checkpoint(self, trial_id: str, *, attempt: int) -> None:
        """Store what was written to `checkpoint_dir`, unless a newer attempt has begun."""
        if self.attempt(trial_id) == attempt:
            self.store.push(f"checkpoints/{trial_id}", mirror=True)

    def log_place(self, trial_id: str, attempt: int) -> Place:
        """The place of the log of a failed attempt, which may not exist."""
        return self.place / _log(trial_id, attempt)

    # ---- writing a trial

    def claim(self, trial_id: str) -> int:
        """Begin the trial's next attempt (the first is 1), and refuse all writes of older ones from now on."""
        attempt, empty = self.attempt(trial_id) + 1, history_schema(self.metrics).empty_table()
        while True:
            try:
                self.store.create(_history(trial_id, attempt), lambda tmp: pq.write_table(empty, tmp))
            except FileExistsError:
                attempt += 1  # another process claimed it at the same moment
            else:
                return attempt

    def append_report(self, trial_id: str, *, attempt: int, report: Report) -> None:
        """Add a row to the attempt's history, and store the checkpoint written before it. Raises StaleAttempt."""
        self._refuse_stale(trial_id, attempt)
        name, row = _history(trial_id, attempt), self.history_row(trial_id, attempt=attempt, report=report)
        table = pa.concat_tables([parquet_files.table(self.store.fetch(name)), row])
        self.store.replace(name, lambda tmp: pq.write_table(table, tmp))
        self.store.push(f"checkpoints/{trial_id}", mirror=True)

    def history_row(self, trial_id: str, *, attempt: int, report: Report) -> pa.Table:
        """The row of a report, reported now."""
        row = {name: value for name, value in vars(report).items() if name not in ("metrics", "note")}
        row |= {"trial_id": trial_id, "attempt": attempt, "time": datetime.now(UTC), **report.metrics}
        return self._one_row(row, history_schema(self.metrics))

    def finish(self, row: TrialRow) -> None:
        """Record a trial's end, once. Raises StaleAttempt where the trial has ended or a newer attempt has begun."""
        self._refuse_stale(row.trial_id, row.attempt)
        table = self._one_row(row.cells(), trial_schema(row.params, self.metrics))
        try:
            self.store.create(_final(row.trial_id), lambda tmp: pq.write_table(table, tmp))
        except FileExistsError:
            raise StaleAttempt(f"trial {row.trial_id} has ended already") from None

    def write_log(self, trial_id: str, *, attempt: int, text: str) -> None:
        """Write the traceback and the last output of a failed attempt, unless it has a log already."""
        with contextlib.suppress(FileExistsError):
            self.store.create(_log(trial_id, attempt), lambda tmp: tmp.write_text(text, encoding="utf-8"))

    def log(self, trial_id: str, *, attempt: int) -> str:
        """The log that `write_log` wrote; "" where there is none, or something else has its name."""
        path = self.store.fetch(_log(trial_id, attempt))
        try:
            check_regular(path)
            return json_files.content(path).decode(errors="replace")
        except (OSError, ValueError, Unreadable):
            return ""

    def write_samples(self, trial_id: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Write a trial's samples of text."""
        self._write_json(f"samples/{trial_id}.json", samples)

    def samples(self, trial_id: str) -> list[dict[str, Any]]:
        """A trial's samples of text: `prompt`, `continuation`, `ended`; empty where it has none. Raises BadInput where
        its file is damaged."""
        name = f"samples/{trial_id}.json"
        if not self.store.exists(name):
            return []
        try:
            found = json_files.read(self.store.fetch(name))
            if not isinstance(found, list) or not all(_is_sample(sample) for sample in found):
                raise Unreadable("not a list of samples")
        except Unreadable as error:
            rule, hint = f"not readable as samples ({error})", "restore the file, or delete it"
            raise BadInput(str(self.place / name), "", "", rule, hint) from None
        return found

    def _refuse_stale(self, trial_id: str, attempt: int) -> None:
        current = self.attempt(trial_id)
        if current < attempt:
            line = f"{self.place}: files of the study were deleted while it ran (attempt {attempt} of trial {trial_id})"
            raise CannotWrite(line)
        if attempt != current:
            raise StaleAttempt(f"attempt {attempt} of trial {trial_id} was replaced by attempt {current}")
        if self.store.exists(_final(trial_id)):
            raise StaleAttempt(f"trial {trial_id} has ended already")

    # ---- study.json

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Write study.json."""
        self._write_json("study.json", study)

    def write_check(self, found: Mapping[str, Any]) -> None:
        """Write check.json: what short runs of the trainer showed (`ablate.study.checks`)."""
        self._write_json("check.json", found)

    def read_study(self) -> dict[str, Any]:
        """Read study.json. Raises BadInput where it is missing or is not a JSON object."""
        path, shown = self.store.fetch("study.json"), str(self.place / "study.json")
        try:
            study = json_files.read(path)
        except Unreadable as error:
            raise BadInput(shown, "", "", f"cannot be read ({error})", "is this the folder of a study?") from None
        if not isinstance(study, dict):
            raise BadInput(shown, "", "", "not a JSON object", "restore the file, or run the sweep again")
        return study

    # ---- reading

    def attempt(self, trial_id: str) -> int:
        """The trial's current attempt; 0 before its first."""
        return max((attempt for name, attempt in self._attempts() if name == trial_id), default=0)

    def final_ids(self) -> set[str]:
        """The trials that have ended, in any way: those whose final rows can be read."""
        return set(self.trials().column("trial_id").to_pylist())

    def started_ids(self) -> set[str]:
        """The trials that were started, ended or not."""
        return {trial_id for trial_id, _ in self._attempts()}

    def row(self, trial_id: str) -> TrialRow | None:
        """The row of a trial that has ended; None where it has not, or its part is unreadable."""
        self.store.pull("trials", prefix=f"{trial_id}.")
        table, _ = study_reader.trials(self.root, metrics=self.metrics, trial_id=trial_id)
        return next((TrialRow.of(cells) for cells in table.to_pylist()), None)

    def rows(self) -> list[TrialRow]:
        """`trials()`, as rows."""
        return [TrialRow.of(cells) for cells in self.trials().to_pylist()]

    def trials(self) -> pa.Table:
        """A row for every trial that has ended, in the order of their ends; unreadable parts are left out."""
        self.store.pull("trials")
        return study_reader.trials(self.root, metrics=self.metrics)[0]

    def history(
        self, trial_id: str | None = None, *, columns: Sequence[str] | None = None, repeats: bool = False
    ) -> pa.Table:
        """A row for every report, of one trial or of all, by step; unreadable parts are left out.

        Where an attempt resumed from a checkpoint, rows of older attempts end at that checkpoint, since the attempt
        trained the later steps again. `repeats`: keep all rows of older attempts. `columns`: read only these.
        """
        self.store.pull("history", prefix="" if trial_id is None else f"{trial_id}-")
        return study_reader.history(
            self.root, metrics=self.metrics, trial_id=trial_id, columns=columns, repeats=repeats
        )[0]

    def tables(self, *, columns: Sequence[str] | None = None) -> StudyTables:
        """Trials, history (only these columns) and problems, from the compacted copy where it is current."""
        self._pull()
        found = study_reader.read(self.root, metrics=self.metrics, columns=columns)
        return replace(found, problems=tuple(map(self._shown, found.problems)))

    def compact(self) -> bool:
        """Write the compacted copy of a large study where it is not current; see `study_reader.compact`."""
        self._pull()
        return study_reader.compact(self.root, metrics=self.metrics)

    def problems(self) -> list[str]:
        """`path: reason` for every unreadable part. Readers leave it out."""
        self._pull()
        ended = study_reader.trials(self.root, metrics=self.metrics)[1]
        reports = study_reader.history(self.root, metrics=self.metrics)[1]
        return [self._shown(str(one)) for one in ended + reports]

    def unreadable_rows(self) -> list[Problem]:
        """Every final row that cannot be read, with the place of its part. Its trial counts as not ended."""
        self.store.pull("trials")
        found = study_reader.trials(self.root, metrics=self.metrics)[1]
        return [each._replace(path=self.place / "trials" / each.path.name) for each in found]

    def damaged_rows(self) -> list[Problem]:
        """`unreadable_rows`. Raises BadInput where one is not damaged but of a newer version, say."""
        found = self.unreadable_rows()
        for problem in found:
            if not problem.damaged:
                hint = "its trial would be trained again otherwise"
                raise BadInput(str(problem.path), "", "", problem.reason, hint)
        return found

    def set_aside(self) -> list[str]:
        """Move every damaged final row to damaged/trials/, so that its trial can be trained again. Returns a line for
        each. Raises BadInput, and moves nothing, as `damaged_rows` does."""
        lines = []
        for problem in self.damaged_rows():
            name = f"trials/{problem.path.name}"
            free = (f"damaged/{name}" + (f".{number}" if number else "") for number in itertools.count())
            to = next(free_name for free_name in free if not self.store.exists(free_name))
            self.store.move(name, to)
            lines.append(f"{problem}; moved to {to}, its trial is trained again")
        return lines

    # ---- interim looks at an ablation's results

    def record_look(self, look: Look) -> None:
        """Record that results were shown. Raises OSError where results/ cannot be written."""
        name = f"{datetime.fromisoformat(look.at):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
        self._write_json(f"looks/{name}", asdict(look))

    def looks(self) -> tuple[list[Look], list[str]]:
        """Every look, the oldest first, and `path: reason` for files that are not looks."""
        self.store.pull("looks")
        found, problems = [], []
        for path in sorted(self.path("looks").glob("*.json")):
            try:
                found.append(Look.read(json_files.read(path)))
            except (Unreadable, ValueError) as error:
                problems.append(self._shown(f"{path}: not readable as a look ({error})"))
        return sorted(found, key=lambda look: look.at), problems

    # ---- shared by the above

    def _one_row(self, cells: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
        """A table of one row. A metric without a cell is null; a cell without a column is a programmer's error."""
        unknown = sorted(cells.keys() - set(schema.names))
        assert not unknown, f"no such columns: {unknown}"
        missing = set(schema.names) - cells.keys() - {metric.name for metric in self.metrics}
        assert not missing, f"columns without a value: {sorted(missing)}"
        return pa.Table.from_pylist([dict(cells)], schema=schema)

    def _attempts(self) -> list[tuple[str, int]]:
        return study_reader.named_attempts(self.store.names("history"))

    def _pull(self) -> None:
        self.store.pull("trials")
        self.store.pull("history")

    def _shown(self, problem: str) -> str:
        """The problem with the place of the part instead of its copy."""
        return problem.replace(str(self.root), str(self.place), 1)

    def _write_json(self, name: str, value: object) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.store.replace(name, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def _is_sample(found: Any) -> bool:
    kinds = {"prompt": str, "continuation": str, "ended": bool}
    return isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())


def _final(trial_id: str) -> str:
    return f"trials/{trial_id}.parquet"


def _history(trial_id: str, attempt: int) -> str:
    return f"history/{trial_id}-{attempt}.parquet"


def _log(trial_id: str, attempt: int) -> str:
    return f"logs/{trial_id}-{attempt}.txt"
