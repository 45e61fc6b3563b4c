"""`python -m ablate.columns > docs/columns.md`: the table of columns as a page of documentation."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ablate.records.schema import HISTORY_COLUMNS, METRIC_COLUMNS, PARAM, SCHEMA_VERSION, TRIAL_COLUMNS, Column

_BETTER = {"min": "less", "max": "more", "": ""}


def page() -> str:
    """The page, in Markdown."""
    metrics = set(METRIC_COLUMNS)
    trial = [column for column in TRIAL_COLUMNS if column not in metrics]
    history = [column for column in HISTORY_COLUMNS if column not in metrics]
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
            *_table(trial),
            "",
            "## A report's row: history/ID-ATTEMPT.parquet",
            "",
            *_table(history),
            "",
            "## Metrics: in both",
            "",
            *_table(METRIC_COLUMNS),
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
