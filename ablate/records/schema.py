"""The one table of columns of results/: names, types, units, which way is good. The schema, the documentation and the
report's headers all derive from it; what a trial measures comes from its trainer's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from ablate.trainers import Metric

SCHEMA_VERSION = 2
"""Raised whenever a column changes its meaning; every older version keeps loading, held by a golden file each."""

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
    """A column: `better` says which way is good ("" where neither is)."""

    name: str
    kind: Kind
    unit: str
    better: Literal["min", "max", ""]
    about: str

    @property
    def field(self) -> pa.Field:
        """The column in Arrow's terms; every column may be null."""
        return pa.field(self.name, _TYPES[self.kind])


TRIAL_STARTS: tuple[Column, ...] = (
    Column("study", "string", "", "", "name of the study"),
    Column("trial_id", "string", "", "", "12 hex digits: hash of arm, whole configuration and seed"),
    Column("arm", "string", "", "", "`search`, `baseline`, or the name of an ablation's arm"),
    Column("seed", "int", "", "", "seed of initialisation, data order and synthetic world"),
    Column("status", "string", "", "", "completed, pruned, oom, nan, timeout, lost or error"),
    Column(
        "error_kind",
        "string",
        "",
        "",
        "type of the exception that ended a failed trial; TimeLimit or Stalled of a timeout",
    ),
    Column("error", "string", "", "", "its message"),
    Column("config_json", "string", "", "", "the whole resolved configuration: enough to train the trial again"),
)
"""A trial's row, in trials/ID.parquet, up to its parameters and metrics."""

TRIAL_ENDS: tuple[Column, ...] = (
    Column(
        "audited", "bool", "", "", "a search's trial that early stopping leaves alone, to measure what stopping costs"
    ),
    Column("predicted_peak_gib", "float", "GiB", "", "peak that was predicted, uncorrected; with a card alone"),
    Column("gpu_fraction", "float", "cards", "", "share of a card that a worker held, or whole cards"),
    Column("tokens_seen", "int", "tokens", "", "tokens trained on"),
    Column("budget_tokens", "int", "tokens", "", "tokens a complete trial trains on"),
    Column("wall_s", "float", "s", "min", "wall-clock time of the trial, its start-up excluded"),
    Column("attempt", "int", "", "", "1 for a trial's first run, one more for every later one"),
    Column("started_at", "time", "UTC", "", "start of the attempt"),
    Column("finished_at", "time", "UTC", "", "end of the attempt"),
    Column("git_commit", "string", "", "", "commit of the code that trained it"),
    Column("data_hash", "string", "", "", "hash of the data that was read"),
    Column("host", "string", "", "", "name of the machine"),
    Column("device", "string", "", "", "cpu, or the card's name"),
    Column("schema_version", "int", "", "", "version of this table"),
    Column("versions", "string", "", "", "of the packages that can change a number: `ray 2.60.0, torch 2.13.0`"),
)
"""The rest of a trial's row, after its parameters and metrics."""

HISTORY_COLUMNS: tuple[Column, ...] = (
    Column("trial_id", "string", "", "", "the trial"),
    Column("attempt", "int", "", "", "the attempt that reported"),
    Column("step", "int", "steps", "", "micro-batches done"),
    Column("tokens_seen", "int", "tokens", "", "tokens trained on"),
    Column("budget_tokens", "int", "tokens", "", "tokens a complete trial trains on"),
    Column("wall_s", "float", "s", "", "wall-clock time since the trial's start"),
    Column("lr", "float", "", "", "learning rate of the last step"),
    Column("losses", "floats", "nats/token", "min", "cross-entropy of every step since the last report"),
    Column("time", "time", "UTC", "", "when the report was written"),
)
"""A report's row, in history/ID-ATTEMPT.parquet, up to its metrics."""

_OWN = frozenset(column.name for column in (*TRIAL_STARTS, *TRIAL_ENDS))

_VERSION = {b"schema_version": str(SCHEMA_VERSION).encode()}


def metric_columns(metrics: Sequence[Metric]) -> tuple[Column, ...]:
    """The columns of what a trainer measures."""
    return tuple(Column(m.name, m.kind, m.unit, m.better, m.about) for m in metrics)


def history_schema(metrics: Sequence[Metric]) -> pa.Schema:
    """The schema of a report's row."""
    return pa.schema([c.field for c in (*HISTORY_COLUMNS, *metric_columns(metrics))], metadata=_VERSION)


def trial_schema(params: Mapping[str, Any], metrics: Sequence[Metric]) -> pa.Schema:
    """The schema of a trial's row whose parameters are `params` (dotted key -> value).

    A parameter's column is typed by its value, so that rows of different trials unify: every number is a double.
    """
    given = [pa.field(PARAM + key, _param_type(value)) for key, value in params.items()]
    ends = [column.field for column in (*metric_columns(metrics), *TRIAL_ENDS)]
    return pa.schema([*(column.field for column in TRIAL_STARTS), *given, *ends], metadata=_VERSION)


def is_metric(column: str) -> bool:
    """Whether a column of a trial's row holds something that the trial measured."""
    return column not in _OWN and not column.startswith(PARAM)


def _param_type(value: object) -> pa.DataType:
    if value is None:
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    return pa.float64() if isinstance(value, (int, float)) else pa.string()
