"""Where the variance of each objective comes from, and what pairing by seed buys."""

from __future__ import annotations

import math

from ablate import formatting
from ablate.analyze.arms.variance import LAST, Components
from ablate.report.render.document import Block, Cell, Column, Section, Table, cell, words
from ablate.report.sections.findings import Findings, PerObjective


def variance_sections(findings: Findings) -> list[Section]:
    """Empty for a study without arms, or with too few seeds."""
    blocks: list[Block] = []
    for per in findings.per_objective:
        if per.variance is not None:
            blocks += [words(pairing_in_words(per.variance)), _table(findings, per, per.variance)]
    return [Section("Where the variance comes from", tuple(blocks), sub=True)] if blocks else []


def pairing_in_words(found: Components) -> str:
    """What a comparison by seed is worth, in one sentence or two."""
    if math.isnan(found.ratio):
        return f"{found.metric} does not vary over the seeds."
    correlation = formatting.fixed(found.correlation, 2)
    share = formatting.share(abs(1 - found.ratio))
    what = f"smaller by {share}" if found.ratio < 1 else f"larger by {share}"
    return (
        f"On one seed an arm's and the baseline's {found.metric} correlate by {correlation} (mean over the arms): the "
        f"variance of a paired difference is {what} than that of an unpaired one."
    )


def _table(findings: Findings, per: PerObjective, found: Components) -> Table:
    rows = [("seed", found.seed), ("arm by seed", found.arm_by_seed)]
    if math.isfinite(found.evaluation):
        rows.append(("of it, between evaluations", found.evaluation))
    total = found.seed**2 + found.arm_by_seed**2
    return Table(
        label=findings.label(per, "variance"),
        caption=f"Components of the variance of {per.label} over {formatting.count(found.seeds, 'seed')} and "
        f"{formatting.count(found.arms, 'arm')}, the baseline among them. Seed: what all arms of a seed share. Arm by "
        "seed: what each run has beside that; only this part is in a paired difference, twice. Between evaluations: "
        f"noise among the last {LAST} evaluations of a run, without their trend.",
        columns=(
            Column("component", "component", number=False),
            Column("sd", "standard deviation"),
            Column("share", "share of the variance"),
        ),
        rows=tuple(
            (
                cell(name),
                Cell(formatting.significant(sd, digits=2), sd),
                Cell(formatting.share(sd**2 / total) if total else formatting.DASH, sd**2 / total if total else None),
            )
            for name, sd in rows
        ),
    )
