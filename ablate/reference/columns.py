"""docs/reference/columns.md: the columns of a study's tables, from the schema."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.records.schema import HISTORY_COLUMNS, METRIC_COLUMNS, PARAM, SCHEMA_VERSION, TRIAL_COLUMNS, Column
from ablate.reference import markdown

_BETTER = {"min": "less", "max": "more", "": ""}


def page() -> str:
    """The page, in Markdown."""
    metrics = set(METRIC_COLUMNS)
    return markdown.page(
        "Columns of a study's tables",
        f"Schema version {SCHEMA_VERSION}. Any value may be null: it was not measured, or the trial failed.",
        "## A trial's row: trials/ID.parquet",
        f"Before the metrics stands a column `{PARAM}KEY` for every searched or overridden parameter.",
        _table([column for column in TRIAL_COLUMNS if column not in metrics]),
        "## A report's row: history/ID-ATTEMPT.parquet",
        _table([column for column in HISTORY_COLUMNS if column not in metrics]),
        "## Metrics: in both",
        _table(METRIC_COLUMNS),
    )


def _table(columns: Sequence[Column]) -> str:
    rows = [[f"`{one.name}`", one.kind, one.unit, _BETTER[one.better], one.about] for one in columns]
    return markdown.table(["column", "type", "unit", "better", ""], rows)
