"""docs/reference/columns.md: the columns of a study's tables, from the schema."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ablate import trainers
from ablate.records.schema import (
    HISTORY_COLUMNS,
    PARAM,
    SCHEMA_VERSION,
    TRIAL_ENDS,
    TRIAL_STARTS,
    Column,
    metric_columns,
)
from ablate.reference import markdown

_BETTER = {"min": "less", "max": "more", "": ""}


def page() -> str:
    """The page, in Markdown."""
    return markdown.page(
        "Columns of a study's tables",
        f"Schema version {SCHEMA_VERSION}. Any value may be null: it was not measured, or the trial failed.",
        "## A trial's row: trials/ID.parquet",
        f"Before the metrics stands a column `{PARAM}KEY` for every searched or overridden parameter.",
        _table([*TRIAL_STARTS, *TRIAL_ENDS]),
        "## A report's row: history/ID-ATTEMPT.parquet",
        _table(HISTORY_COLUMNS),
        "## Metrics: in both",
        _table(metric_columns(trainers.load().description.metrics)),
    )


def _table(columns: Sequence[Column]) -> str:
    rows = [[f"`{one.name}`", one.kind, one.unit, _BETTER[one.better], one.about] for one in columns]
    return markdown.table(["column", "type", "unit", "better", ""], rows)


if __name__ == "__main__":
    sys.stdout.write(page())
