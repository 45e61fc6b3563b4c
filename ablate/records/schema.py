"""The columns of the tables in results/: name, type, unit, and whether less or more is better. The parquet schema, the
documentation and the report's headers come from this table; a trainer adds its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ablate.trainers import Metric

SCHEMA_VERSION = 2
"""Increased when a column changes its meaning. Files of every older version load; a golden file of each tests it."""

Kind = Literal["string", "int", "float", "floats", "time", "bool"]

PARAM = "param."
"""Prefix of the columns that hold searched or overridden values: `param.model.ema_decay`."""

_TYPES: dict[Kind, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "floats": pa.list_(pa.float64()),
    "time": pa.timestamp("us", tz="UTC"),
    "bool": pa.bool_(),
}


@dataclass(frozen=True)
class Column:
    """A column. `better`: whether less (`min`) or more (`max`) is better; "" where neither is."""

    name: str
    kind: Kind
    unit: str
    better: Literal["min", "max", ""]
    about: str

    @property
    def field(self) -> pa.Field:
        """The Arrow field. Every column may be null."""
        return pa.field(self.name, _TYPES[self.kind])


TRIAL_STARTS: tuple[Column, ...] = (
    Column("study", "string", "", "", "name of the study"),
    Column("trial_id", "string", "", "", "12 hex digits: hash of arm, whole configuration and seed"),
    Column("arm", "string", "", "", "`search`, `baseline`, or the name of an ablation's arm"),
    Column("seed", "int", "", "", "seed of initialisation, data order and synthetic world"),
    Column("status", "string", "", "", "completed, pruned, oom, nan, timeout, lost or error"),
    Column("error_kind", "string", "", "", "type of the exception of a failed trial; timeouts: TimeLimit or Stalled"),
    Column("error", "string", "", "", "message of the exception"),
    Column("config_json", "string", "", "", "the whole resolved configuration; it is enough to train the trial again"),
)
"""The first columns of trials/ID.parquet; parameters and metrics follow."""

TRIAL_ENDS: tuple[Column, ...] = (
    Column("audited", "bool", "", "", "whether early stopping spares this trial, to measure what stopping costs"),
    Column("predicted_peak_gib", "float", "GiB", "", "predicted peak of memory, uncorrected; only with a GPU"),
    Column("gpu_fraction", "float", "GPUs", "", "share of a GPU that a worker held, or number of whole GPUs"),
    Column("tokens_seen", "int", "tokens", "", "tokens trained on"),
    Column("budget_tokens", "int", "tokens", "", "tokens that a complete trial trains on"),
    Column("wall_s", "float", "s", "min", "wall-clock time of the trial without its start-up"),
    Column("attempt", "int", "", "", "1 for the trial's first run, one more for every later run"),
    Column("started_at", "time", "UTC", "", "start of the attempt"),
    Column("finished_at", "time", "UTC", "", "end of the attempt"),
    Column("git_commit", "string", "", "", "commit of the code that trained it"),
    Column("data_hash", "string", "", "", "hash of the data that was read"),
    Column("host", "string", "", "", "name of the machine"),
    Column("device", "string", "", "", "cpu, or the name of the GPU"),
    Column("schema_version", "int", "", "", "version of this table"),
    Column("versions", "string", "", "", "packages that can change a number: `ray 2.60.0, torch 2.13.0`"),
    Column("code_hash", "string", "", "", "hash of the trainer's code; where both trials have it, commits may differ"),
    Column("data_digest", "string", "", "", "digest of the data that the trial saw, where its trainer reports one"),
)
"""The last columns of trials/ID.parquet."""

HISTORY_COLUMNS: tuple[Column, ...] = (
    Column("trial_id", "string", "", "", "the trial"),
    Column("attempt", "int", "", "", "the attempt that reported"),
    Column("step", "int", "steps", "", "micro-batches done"),
    Column("tokens_seen", "int", "tokens", "", "tokens trained on"),
    Column("budget_tokens", "int", "tokens", "", "tokens that a complete trial trains on"),
    Column("wall_s", "float", "s", "", "wall-clock time since the trial's start"),
    Column("lr", "float", "", "", "learning rate of the last step"),
    Column("losses", "floats", "nats/token", "min", "cross-entropy of every step since the last report"),
    Column("time", "time", "UTC", "", "when the report was written"),
)
"""The first columns of history/ID-ATTEMPT.parquet; metrics follow."""

OWN_COLUMNS = (*TRIAL_STARTS, *TRIAL_ENDS, *HISTORY_COLUMNS)
"""The columns that every trainer's tables have."""

_OWN = frozenset(column.name for column in (*TRIAL_STARTS, *TRIAL_ENDS))

_VERSION = {b"schema_version": str(SCHEMA_VERSION).encode()}


def metric_columns(metrics: Sequence[Metric]) -> tuple[Column, ...]:
    """The columns of a trainer's metrics."""
    return tuple(Column(m.name, m.kind, m.unit, m.better, m.about) for m in metrics)


def history_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """The schema of a report's row, in history/."""
    return pa.schema([c.field for c in (*HISTORY_COLUMNS, *metric_columns(metrics))], metadata=_VERSION)


def trial_schema(params: Mapping[str, Any], metrics: Sequence[Metric]) -> pa.Schema:
    """The schema of the row of a trial with `params` (dotted key -> value), in trials/.

    The type of a parameter's column follows from its value. Every number is a double, so that rows of different trials
    unify.
    """
    given = [pa.field(PARAM + key, _param_type(value)) for key, value in params.items()]
    ends = [column.field for column in (*metric_columns(metrics), *TRIAL_ENDS)]
    return pa.schema([*(column.field for column in TRIAL_STARTS), *given, *ends], metadata=_VERSION)


def is_metric(column: str) -> bool:
    """Whether a column of a trial's row is a metric."""
    return column not in _OWN and not column.startswith(PARAM)


def _param_type(value: object) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    return pa.float64() if isinstance(value, (int, float)) else pa.string()
