"""Whether two studies say the same: the tables of their reports, but for what a second run measures otherwise."""

from __future__ import annotations

import csv
from pathlib import Path

TIMES = (
    "wall",
    "tokens/s",
    "tokens_per_s",
    "throughput",
    "time",
    "hour",
    "step_ms",
    "ema_ms",
    "gib",
    "attempt",
    "host",
)
"""What stands in the name of a column, or of a row, that is never the same twice."""

ABOUT_THE_RUN = ("cost", "provenance")
"""Tables of nothing else."""


def differences(one: Path, other: Path) -> list[str]:
    """The tables in which the reports of two studies differ, with the first lines that do."""
    names = {path.relative_to(folder / "report") for folder in (one, other) for path in _tables(folder / "report")}
    found = [] if names else ["no tables at all"]
    for name in sorted(names):
        paths = [folder / "report" / name for folder in (one, other)]
        if not all(path.exists() for path in paths):
            found.append(f"{name}: only in one")
            continue
        first, second = (without_times(path) for path in paths)
        if first != second:
            where = next((pair for pair in zip(first, second, strict=False) if pair[0] != pair[1]), "one is longer")
            found.append(f"{name}: {where}")
    return found


def without_times(path: Path) -> list[tuple[str, ...]]:
    """A table's cells, without what is never the same twice."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    kept = [index for index, name in enumerate(rows[0]) if not _is_time(name)]
    return [tuple(row[index] for index in kept if index < len(row)) for row in rows if row and not _is_time(row[0])]


def _tables(report: Path) -> list[Path]:
    tables = [*report.glob("ablation.csv"), *report.glob("tables/*.csv")]
    return [path for path in tables if not path.stem.startswith(ABOUT_THE_RUN)]


def _is_time(name: str) -> bool:
    return any(part in name.lower() for part in TIMES)
