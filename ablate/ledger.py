"""The only reader and writer of results/STUDY: the record of truth, made of parquet parts that are whole or absent.

One writer a trial at a time: an attempt is claimed by creating its history part, and whoever held an older attempt is
refused from then on (a killed worker lives on for a second and goes on writing).
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ablate import contents, parts
from ablate.contents import Contents
from ablate.errors import BadInput
from ablate.looks import Look
from ablate.schema import HISTORY_SCHEMA, METRIC_COLUMNS, PARAM, SCHEMA_VERSION, trial_schema
from model.api import Report

Status = Literal["completed", "pruned", "oom", "nan", "timeout", "lost", "error"]
MEASURED: tuple[Status, ...] = ("completed", "pruned")
"""The two ends that leave metrics; every other is a failure and leaves nulls."""


class StaleAttempt(RuntimeError):
    """A writer whose attempt is no longer the trial's current one, or whose trial is final, was refused."""


@dataclass(frozen=True)
class TrialRow:
    """A trial's end, as it is recorded. `metrics` of a failed trial are written as nulls whatever stands here."""

    study: str
    trial_id: str
    arm: str
    seed: int
    status: Status
    error_kind: str | None
    error: str | None
    config_json: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    tokens_seen: int
    budget_tokens: int
    wall_s: float
    attempt: int
    started_at: datetime
    finished_at: datetime
    git_commit: str | None
    data_hash: str | None
    host: str
    device: str
    audited: bool | None = None
    schema_version: int = SCHEMA_VERSION
    versions: str | None = None


@dataclass(frozen=True)
class Ledger:
    """results/STUDY. Holds nothing but the path, so it travels to workers as it is."""

    root: Path

    # ---- where things are

    def path(self, *parts: str) -> Path:
        """A file or folder of the study: `ledger.path("swanlab")`."""
        return self.root.joinpath(*parts)

    def checkpoint_dir(self, trial_id: str) -> Path:
        """Where a trial keeps what it goes on from."""
        return self.path("checkpoints", trial_id)

    def log_path(self, trial_id: str, attempt: int) -> Path:
        """Where the log of an attempt that failed is, if it has one."""
        return self.path("logs", f"{trial_id}-{attempt}.txt")

    def _final(self, trial_id: str) -> Path:
        return self.path("trials", f"{trial_id}.parquet")

    def _history(self, trial_id: str, attempt: int) -> Path:
        return self.path("history", f"{trial_id}-{attempt}.parquet")

    # ---- writing a trial

    def claim(self, trial_id: str) -> int:
        """Begin the trial's next attempt, 1 for its first, and fence every older one off."""
        attempt = self.attempt(trial_id) + 1
        while True:
            try:
                parts.create(self._history(trial_id, attempt), lambda tmp: pq.write_table(_no_reports(), tmp))
            except FileExistsError:
                attempt += 1  # somebody else claimed at the same moment
            else:
                return attempt

    def append_report(self, trial_id: str, *, attempt: int, report: Report) -> None:
        """Add a row to the attempt's history. Raises StaleAttempt."""
        self._refuse_stale(trial_id, attempt)
        path = self._history(trial_id, attempt)
        row = {
            "trial_id": trial_id,
            "attempt": attempt,
            "step": report.step,
            "tokens_seen": report.tokens_seen,
            "budget_tokens": report.budget_tokens,
            "wall_s": report.wall_s,
            "lr": report.lr,
            "losses": report.losses,
            "time": datetime.now(UTC),
            **report.metrics,
        }
        table = pa.concat_tables([parts.table(path), _one_row(row, HISTORY_SCHEMA)])
        parts.replace(path, lambda tmp: pq.write_table(table, tmp))

    def finish(self, row: TrialRow) -> None:
        """Record a trial's end, once. Raises StaleAttempt where it is final already or a newer attempt runs."""
        self._refuse_stale(row.trial_id, row.attempt)
        cells = {field.name: getattr(row, field.name) for field in fields(row)}
        params, metrics = cells.pop("params"), cells.pop("metrics")
        if row.status in MEASURED:
            cells |= metrics
        cells |= {PARAM + key: value for key, value in params.items()}
        table = _one_row(cells, trial_schema(params))
        try:
            parts.create(self._final(row.trial_id), lambda tmp: pq.write_table(table, tmp))
        except FileExistsError:
            raise StaleAttempt(f"trial {row.trial_id} is final already") from None

    def write_log(self, trial_id: str, *, attempt: int, text: str) -> None:
        """Keep the traceback and the last output of an attempt that failed; what stands there already stays."""
        with contextlib.suppress(FileExistsError):
            parts.create(self.log_path(trial_id, attempt), lambda tmp: tmp.write_text(text, encoding="utf-8"))

    def log(self, trial_id: str, *, attempt: int) -> str:
        """What `write_log` kept; "" where nothing was."""
        try:
            return self.log_path(trial_id, attempt).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def write_samples(self, trial_id: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep what a trial wrote."""
        _write_json(self.path("samples", f"{trial_id}.json"), samples)

    def _refuse_stale(self, trial_id: str, attempt: int) -> None:
        current = self.attempt(trial_id)
        if attempt != current:
            raise StaleAttempt(f"attempt {attempt} of trial {trial_id} was replaced by attempt {current}")
        if self._final(trial_id).exists():
            raise StaleAttempt(f"trial {trial_id} is final already")

    # ---- the study's own file

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Write study.json whole."""
        _write_json(self.path("study.json"), study)

    def read_study(self) -> dict[str, Any]:
        """study.json. Raises BadInput where it is missing or is not a JSON object."""
        path = self.path("study.json")
        try:
            study = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(str(path), "", "", f"cannot be read ({error})", "is this a study's folder?") from None
        if not isinstance(study, dict):
            raise BadInput(str(path), "", "", "not a JSON object", "restore the file, or run the sweep again")
        return study

    # ---- reading

    def attempt(self, trial_id: str) -> int:
        """The trial's current attempt; 0 where it was never started."""
        return max((attempt for name, attempt in contents.attempts(self.root) if name == trial_id), default=0)

    def final_ids(self) -> set[str]:
        """Trials that have ended, however."""
        return {path.stem for path in self.path("trials").glob("*.parquet")}

    def started_ids(self) -> set[str]:
        """Trials that were ever started, ended or not."""
        return {trial_id for trial_id, _ in contents.attempts(self.root)}

    def row(self, trial_id: str) -> TrialRow | None:
        """A trial's final row; None where it has not ended, or where its part cannot be read."""
        table, _ = contents.trials(self.root, trial_id=trial_id)
        return next((_row(cells) for cells in table.to_pylist()), None)

    def rows(self) -> list[TrialRow]:
        """`trials()` as rows."""
        return [_row(cells) for cells in self.trials().to_pylist()]

    def trials(self) -> pa.Table:
        """A row for every trial that has ended, in the order of their ends; unreadable parts are left out."""
        return contents.trials(self.root)[0]

    def history(self, trial_id: str | None = None) -> pa.Table:
        """A row for every report, of one trial or of all, by step; unreadable parts are left out.

        An attempt that went on from a checkpoint continues its forerunners' rows; rows past the checkpoint, which it
        trained again, are the newer attempt's.
        """
        return contents.history(self.root, trial_id=trial_id)[0]

    def contents(self, *, columns: Sequence[str] | None = None) -> Contents:
        """Trials, history (with these columns alone) and problems, by way of the compacted copy where it is current."""
        return contents.read(self.root, columns=columns)

    def compact(self) -> bool:
        """Make the compacted copy of a large study anew where it is not current; see `contents.compact`."""
        return contents.compact(self.root)

    def problems(self) -> list[str]:
        """`path: reason` for every part that cannot be read and was therefore left out."""
        return contents.trials(self.root)[1] + contents.history(self.root)[1]

    # ---- looks at an ablation's results

    def record_look(self, look: Look) -> None:
        """Keep that results were shown. Raises OSError where results/ cannot be written."""
        path = self.path("looks", f"{datetime.fromisoformat(look.at):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json")
        _write_json(path, asdict(look))

    def looks(self) -> tuple[list[Look], list[str]]:
        """Every look, the oldest first, and `path: reason` for files that are none."""
        found, problems = [], []
        for path in sorted(self.path("looks").glob("*.json")):
            try:
                found.append(Look.read(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError) as error:
                problems.append(f"{path}: not readable as a look ({error})")
        return sorted(found, key=lambda look: look.at), problems


def _row(cells: Mapping[str, Any]) -> TrialRow:
    """What `finish` wrote, without the columns that hold nothing."""
    own = {field.name: cells[field.name] for field in fields(TrialRow) if field.name not in ("params", "metrics")}
    params = {n.removeprefix(PARAM): value for n, value in cells.items() if n.startswith(PARAM) and value is not None}
    metrics = {column.name: cells[column.name] for column in METRIC_COLUMNS if cells[column.name] is not None}
    return TrialRow(**own, params=params, metrics=metrics)


def _no_reports() -> pa.Table:
    return HISTORY_SCHEMA.empty_table()


def _one_row(cells: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """One row; a cell that was not given is null, and one that the schema does not know is a programmer's error."""
    unknown = sorted(cells.keys() - set(schema.names))
    assert not unknown, f"no such columns: {unknown}"
    known = {column.name for column in METRIC_COLUMNS}
    missing = set(schema.names) - cells.keys() - known
    assert not missing, f"columns without a value: {sorted(missing)}"
    return pa.Table.from_pylist([dict(cells)], schema=schema)


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    parts.replace(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))
