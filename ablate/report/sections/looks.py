"""A study with sequential seeds: its looks with their levels, and at which of them each arm was decided."""

from __future__ import annotations

from ablate import formatting
from ablate.analyze.arms.paired import Effect
from ablate.analyze.arms.sequential import Walk
from ablate.report.render.document import Block, Cell, Column, Table, cell, words
from ablate.report.sections.findings import Findings
from ablate.spec.spending import levels


def look_blocks(findings: Findings) -> list[Block]:
    """How seeds were added, and a table of the arms; nothing where the number of seeds was fixed."""
    walk = findings.data.completion.walk
    if walk is None:
        return []
    return [words(_rule(walk, arms=len(findings.primary.claims))), _table(findings, walk)]


def _rule(walk: Walk, *, arms: int) -> str:
    looks = walk.looks
    nominal = levels(looks.sizes, looks.alpha / max(1, arms))
    at = ", ".join(f"{size} ({formatting.p_value(level)})" for size, level in zip(looks.sizes, nominal, strict=True))
    return (
        "Seeds were added in blocks until each arm was decided, by a rule that the study file declared: "
        f"O'Brien-Fleming alpha spending (Lan and DeMets 1983) at an error of {looks.alpha:g} over all looks and arms. "
        f"Looks at so many seeds, with the nominal level of Holm's first step: {at}. An arm is decided when its p, "
        "adjusted over looks and arms, and those of its hypotheses are at most that error; it then gets no more seeds. "
        "p Holm is adjusted over the looks too. Intervals of differences are 95% repeated t intervals (Jennison and "
        "Turnbull 1989), which hold at all looks together. p (t), p exact, p of equivalence, the intervals of other "
        "tables and the estimates themselves are not adjusted: the estimate of an arm that is decided early is, on "
        "average, too far from 0."
    )


def _table(findings: Findings, walk: Walk) -> Table:
    per = findings.primary
    return Table(
        label="looks",
        caption=f"At which look each arm was decided, and its p in {per.objective.metric}, adjusted over looks and "
        f"arms. Undecided arms go on to {walk.looks.most} seeds.",
        columns=(
            Column("arm", "arm", number=False),
            Column("looks", "looks"),
            Column("seeds", "seeds"),
            Column("decided", "decided", number=False),
            Column("p_adjusted", "p adjusted"),
        ),
        rows=tuple(_row(effect, walk) for effect in per.claims),
    )


def _row(effect: Effect, walk: Walk) -> tuple[Cell, ...]:
    had = walk.had(effect.arm)
    seeds = had[-1] if had else 0
    return (
        cell(effect.arm),
        Cell(f"{len(had)} of {len(walk.looks.sizes)}", len(had)),
        Cell(str(seeds), seeds),
        cell(_decided(effect.arm, walk)),
        Cell(formatting.p_value(effect.p_holm), effect.p_holm),
    )


def _decided(arm: str, walk: Walk) -> str:
    had = walk.had(arm)
    if arm in walk.decided:
        return f"yes, at look {len(had)}"
    return "no, by the last look" if len(had) == len(walk.looks.sizes) else "not yet"


def interval_kind(findings: Findings) -> str:
    """What the intervals of differences are: t intervals, or repeated ones over the looks."""
    return "t" if findings.data.completion.walk is None else "repeated t"
