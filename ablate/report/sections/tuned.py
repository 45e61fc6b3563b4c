"""What was tuned for each arm before it ran on the seeds."""

from __future__ import annotations

from typing import Any

from ablate import formatting
from ablate.report.document import Block, Cell, Column, Table, cell
from ablate.report.findings import Findings


def tuned_blocks(findings: Findings) -> list[Block]:
    """A table of the values that all runs of an arm have, the baseline first; nothing where arms are not tuned."""
    values, tuned = findings.data.tuned_values, findings.data.tuned
    if not values or tuned is None:
        return []
    return [
        Table(
            label="tuned",
            caption=f"What was tuned for each arm, by {formatting.count(tuned.trials, 'trial')} each on another seed "
            "than those that are compared.",
            columns=(Column("arm", "arm", number=False), *(Column(key, key) for key in tuned.over)),
            rows=tuple((cell(arm), *(_cell(value) for value in found.values())) for arm, found in values.items()),
        )
    ]


def _cell(value: Any) -> Cell:
    return Cell(formatting.setting(value), value)
