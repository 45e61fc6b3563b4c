"""What the files of tables and figures are called."""

from __future__ import annotations

from ablate.escape import file_name
from ablate.findings import Findings, PerObjective


def label(findings: Findings, per: PerObjective, stem: str) -> str:
    """A file's stem: the metric is in it where it is not the primary objective's."""
    flat = file_name(stem).replace(".", "_")
    return flat if per is findings.primary else f"{flat}_{per.objective.metric}"
