"""What chapters write alike: the names of the files of tables and figures, and intervals."""

from __future__ import annotations

from ablate import formatting
from ablate.escape import file_name
from ablate.report.document import Cell
from ablate.report.findings import Findings, PerObjective


def label(findings: Findings, per: PerObjective, stem: str) -> str:
    """A file's stem: the metric is in it where it is not the primary objective's."""
    flat = file_name(stem).replace(".", "_")
    return flat if per is findings.primary else f"{flat}_{per.objective.metric}"


def interval_cell(low: float, high: float, decimals: int, *, sign: bool = False) -> Cell:
    """`[0.012, 0.034]` for a reader, both ends unrounded for the csv."""
    return Cell(formatting.interval(low, high, decimals, sign=sign), (low, high))
