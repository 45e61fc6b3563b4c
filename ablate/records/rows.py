"""The row that the ledger keeps of a trial that has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, get_args

from ablate.formatting import whole
from ablate.records import json_files
from ablate.records.schema import PARAM, SCHEMA_VERSION, is_metric
from ablate.trainers import recorded

Status = Literal["completed", "pruned", "oom", "nan", "timeout", "lost", "error"]
ENDS: tuple[Status, ...] = get_args(Status)
MEASURED: tuple[Status, ...] = ("completed", "pruned")
"""The statuses that have metrics. Every other status is a failure, and its metrics are null."""


@dataclass(frozen=True)
class TrialRow:
    """How a trial ended. `metrics` of a failed trial are always written as nulls."""

    study: str
    trial_id: str
    arm: str
    seed: int
    status: Status
    error_kind: str | None
    error: str | None
    config_json: str = field(repr=False)
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
    predicted_peak_gib: float | None = None
    gpu_fraction: float | None = None
    schema_version: int = SCHEMA_VERSION
    versions: str | None = None
    code_hash: str | None = None
    data_digest: str | None = None

    def cells(self) -> dict[str, Any]:
        """Column -> value, without the metrics of a failed trial."""
        cells = {field.name: getattr(self, field.name) for field in fields(self)}
        params, metrics = cells.pop("params"), cells.pop("metrics")
        measured = metrics if self.status in MEASURED else {}
        return {**cells, **measured, **{PARAM + key: value for key, value in params.items()}}

    @classmethod
    def of(cls, cells: Mapping[str, Any]) -> TrialRow:
        """The row of these cells. Parameters and metrics that are null are left out; a whole parameter is whole."""
        own = {field.name: cells[field.name] for field in fields(cls) if field.name not in ("params", "metrics")}
        params = {
            name.removeprefix(PARAM): whole(value)
            for name, value in cells.items()
            if name.startswith(PARAM) and value is not None
        }
        metrics = {name: value for name, value in cells.items() if is_metric(name) and value is not None}
        return cls(**own, params=params, metrics=metrics)


_FILLED = tuple(
    field.name
    for field in fields(TrialRow)
    if field.default is MISSING and "None" not in str(field.type) and field.name not in ("params", "metrics")
)
"""The columns that every row fills."""

LEAST = {"attempt": 1, "tokens_seen": 0, "budget_tokens": 0, "wall_s": 0}
"""The least value of the columns that rows and reports count in. None of them is NaN or infinite."""


def problem(cells: Mapping[str, Any]) -> str:
    """Why these cells are not a trial's row, although they have its types; "" where they are."""
    empty = [name for name in _FILLED if name not in cells or cells[name] is None]
    if empty:
        return f"has no {', '.join(empty)}"
    if cells["status"] not in ENDS:
        return f"its status {cells['status'][:20]!r} is none of {', '.join(ENDS)}"
    impossible = [name for name, least in LEAST.items() if not least <= cells[name] < math.inf]
    if impossible:
        return f"its {impossible[0]} is {cells[impossible[0]]}"
    try:
        config = recorded.flatten(json_files.parse(cells["config_json"]))
    except (ValueError, AttributeError) as error:
        return f"its config_json is no configuration ({error})"
    for name, value in cells.items():
        key = name.removeprefix(PARAM)
        if name.startswith(PARAM) and key in config and _as_stored(config[key]) != value:
            return f"its {name} is {str(value)[:40]!r}, and its config_json says {str(config[key])[:40]!r}"
    return ""


def _as_stored(value: Any) -> Any:
    """A value of a configuration as its column holds it."""
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
