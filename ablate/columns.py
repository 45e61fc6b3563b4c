"""`python -m ablate.columns > docs/columns.md`: the table of columns as a page of documentation."""

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

_BETTER = {"min": "less", "max": "more", "": ""}


def page() -> str:
    """The page, in Markdown."""
    metrics = metric_columns(trainers.load().description.metrics)
    return "\n".join(
        [
            "# Columns of a study's tables",
            "",
            f"Schema version {SCHEMA_VERSION}. Made by `python -m ablate.columns > docs/columns.md` from"
            " ablate/schema.py and model/metrics.py.",
            "Any value may be null: not measured, or the trial failed.",
            "",
            "## A trial's row: trials/ID.parquet",
            "",
            f"Before the metrics stands a column `{PARAM}KEY` for every searched or overridden parameter.",
            "",
            *_table([*TRIAL_STARTS, *TRIAL_ENDS]),
            "",
            "## A report's row: history/ID-ATTEMPT.parquet",
            "",
            *_table(HISTORY_COLUMNS),
            "",
            "## Metrics: in both",
            "",
            *_table(metrics),
            "",
        ]
    )


def _table(columns: Sequence[Column]) -> list[str]:
    rows = [
        f"| `{column.name}` | {column.kind} | {column.unit} | {_BETTER[column.better]} | {_cell(column.about)} |"
        for column in columns
    ]
    return ["| column | type | unit | better | |", "|---|---|---|---|---|", *rows]


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    sys.stdout.write(page())
