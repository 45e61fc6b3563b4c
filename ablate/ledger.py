"""The only reader and writer of results/STUDY: the record of truth, made of parquet parts that are whole or absent.

One writer a trial at a time: an attempt is claimed by creating its history part, and whoever held an older attempt is
refused from then on (a killed worker lives on for a second and goes on writing).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ablate import parts
from ablate.errors import BadInput
from ablate.schema import HISTORY_SCHEMA, METRIC_COLUMNS, PARAM, SCHEMA_VERSION, trial_schema
from model.api import Report

Status = Literal["completed", "pruned", "oom", "nan", "timeout", "lost", "error"]
MEASURED: tuple[Status, ...] = ("completed", "pruned")
"""The two ends that leave metrics; every other is a failure and leaves nulls."""

_HISTORY_NAME = re.compile(r"(?P<trial_id>.+)-(?P<attempt>\d+)\.parquet")


_TRIAL_NEEDS = ("trial_id", "status")
_HISTORY_NEEDS = ("trial_id", "step", "losses")
"""Columns without which a part is not of this ledger; whatever else an older version lacks is null."""


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
        return max((attempt for name, attempt in self._attempts() if name == trial_id), default=0)

    def final_ids(self) -> set[str]:
        """Trials that have ended, however."""
        return {path.stem for path in self.path("trials").glob("*.parquet")}

    def started_ids(self) -> set[str]:
        """Trials that were ever started, ended or not."""
        return {trial_id for trial_id, _ in self._attempts()}

    def row(self, trial_id: str) -> TrialRow | None:
        """A trial's final row; None where it has not ended, or where its part cannot be read."""
        tables, _ = _read_all([path for path in [self._final(trial_id)] if path.exists()], needs=_TRIAL_NEEDS)
        table, _ = parts.unify(tables, trial_schema({}))
        return next((_row(cells) for cells in table.to_pylist()), None)

    def rows(self) -> list[TrialRow]:
        """`trials()` as rows."""
        return [_row(cells) for cells in self.trials().to_pylist()]

    def trials(self) -> pa.Table:
        """A row for every trial that has ended, in the order of their ends; unreadable parts are left out."""
        return self._read_trials()[0]

    def history(self, trial_id: str | None = None) -> pa.Table:
        """A row for every report, of one trial or of all, by step; unreadable parts are left out.

        An attempt that went on from a checkpoint continues its forerunners' rows; rows past the checkpoint, which it
        trained again, are the newer attempt's.
        """
        return self._read_history(trial_id)[0]

    def problems(self) -> list[str]:
        """`path: reason` for every part that cannot be read and was therefore left out."""
        return self._read_trials()[1] + self._read_history(None)[1]

    def _attempts(self) -> list[tuple[str, int]]:
        names = (_HISTORY_NAME.fullmatch(path.name) for path in self.path("history").glob("*.parquet"))
        return sorted((name["trial_id"], int(name["attempt"])) for name in names if name)

    def _read_trials(self) -> tuple[pa.Table, list[str]]:
        tables, problems = _read_all(sorted(self.path("trials").glob("*.parquet")), needs=_TRIAL_NEEDS)
        table, misfits = parts.unify(tables, trial_schema({}))
        return table.sort_by([("finished_at", "ascending"), ("trial_id", "ascending")]), problems + misfits

    def _read_history(self, trial_id: str | None) -> tuple[pa.Table, list[str]]:
        chosen = [(name, attempt) for name, attempt in self._attempts() if trial_id in (None, name)]
        paths = [self._history(name, attempt) for name, attempt in chosen]
        tables, problems = _read_all(paths, needs=_HISTORY_NEEDS)
        for (name, _), (newer_name, newer) in pairwise(chosen):
            if name == newer_name and self._history(newer_name, newer) in tables:
                _cut_forerunners(tables, self, newer_name, newer)
        table, misfits = parts.unify(tables, HISTORY_SCHEMA)
        order = [("trial_id", "ascending"), ("step", "ascending")]
        return table.sort_by(order), problems + misfits


def _cut_forerunners(tables: dict[Path, pa.Table], ledger: Ledger, trial_id: str, newer: int) -> None:
    """Drop from older attempts the steps that attempt `newer` trained again: those after the checkpoint it read."""
    reports = tables[ledger._history(trial_id, newer)]
    if not reports.num_rows:
        return
    first = reports.slice(0, 1).to_pylist()[0]
    went_on_from = first["step"] - len(first["losses"])
    for attempt in range(1, newer):
        path = ledger._history(trial_id, attempt)
        if path in tables:
            tables[path] = tables[path].filter(pc.field("step") <= went_on_from)


def _read_all(paths: list[Path], *, needs: tuple[str, ...]) -> tuple[dict[Path, pa.Table], list[str]]:
    tables, problems = {}, []
    for path in paths:
        try:
            tables[path] = parts.read(path, needs=needs, version=SCHEMA_VERSION)
        except parts.Unreadable as error:
            problems.append(f"{path}: {error}")
    return tables, problems


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
