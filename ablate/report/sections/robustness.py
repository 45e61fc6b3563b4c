"""In addition to the declared test: interquartile means, how often an arm is better, cost effectiveness; where the
variance of each objective comes from, and what pairing by seed buys."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablate import formatting
from ablate.analyze.arms.cost_effectiveness import CostEffectiveness
from ablate.analyze.arms.robust import Estimate
from ablate.analyze.arms.variance import LAST, Components
from ablate.report.render.document import Block, Cell, Column, Section, Table, cell, interval_cell, words
from ablate.report.sections.findings import Findings, PerObjective


def robust_table(findings: Findings, per: PerObjective) -> Table:
    """Interquartile means and the probability of improvement of every arm with a pair."""
    lines = []
    for entry in per.robust:
        widths = [estimate.high - estimate.low for estimate in (entry.arm, entry.baseline)]
        places = formatting.decimals_for(min(widths) / 4)
        lines.append(
            (
                cell(entry.name),
                Cell(str(entry.n), entry.n),
                *_estimate(entry.arm, places),
                *_estimate(entry.baseline, places),
                Cell(formatting.share(entry.better.value), entry.better.value),
                Cell(_share_span(entry.better), (entry.better.low, entry.better.high)),
            )
        )
    return Table(
        label=findings.label(per, "robust"),
        caption=f"Interquartile means of {per.label} (without the lowest and the highest quarter of the seeds) with "
        "95% percentile bootstrap intervals, which are too narrow at few seeds; and the share of the seeds on which "
        "the arm is better than the baseline, with its exact binomial interval.",
        columns=(
            Column("arm", "arm", number=False),
            Column("n", "n"),
            Column("iqm", "IQM"),
            Column("iqm_interval", "95% interval", interval=True),
            Column("baseline_iqm", "baseline's IQM"),
            Column("baseline_interval", "95% interval", interval=True),
            Column("better", "better on"),
            Column("better_interval", "95% interval", interval=True),
        ),
        rows=tuple(lines),
    )


def _estimate(estimate: Estimate, places: int) -> tuple[Cell, Cell]:
    span = interval_cell(estimate.low, estimate.high, places)
    return Cell(formatting.fixed(estimate.value, places), estimate.value), span


def _share_span(estimate: Estimate) -> str:
    return f"[{formatting.share(estimate.low)}, {formatting.share(estimate.high)}]"


@dataclass(frozen=True)
class _Unit:
    """A unit to show hours or PFLOP in; `of_one` of it are one hour, or one PFLOP."""

    name: str
    of_one: float


_TIMES = (_Unit("h", 1.0), _Unit("min", 60.0), _Unit("s", 3600.0))
_WORKS = (_Unit("PFLOP", 1.0), _Unit("TFLOP", 1e3), _Unit("GFLOP", 1e6))


def _unit_for(value: float, units: tuple[_Unit, ...]) -> _Unit:
    """The largest unit in which `value` is at least 0.5, else the smallest."""
    return next((unit for unit in units if value * unit.of_one >= 0.5), units[-1])


def cost_blocks(findings: Findings) -> list[Block]:
    """What a run of each arm costs, and the difference for each unit of that cost."""
    if len(findings.cost_effectiveness) < 2:
        return []
    per = findings.primary
    unit = per.unit.strip() or per.objective.metric
    control = findings.cost_effectiveness[0]
    time, work = _unit_for(control.hours, _TIMES), _unit_for(control.pflop, _WORKS)
    return [
        Table(
            label="worth",
            caption="What a run costs, mean over an arm's completed runs, over the baseline's in brackets, and the "
            f"difference to the baseline in {per.label} for each {time.name} and each {work.name} of a run of the arm. "
            "FLOPs are by formula, forward and backward; time is on this study's machine and share of its GPU. "
            "The csv has hours and PFLOP (10^15).",
            columns=(
                Column("arm", "arm", number=False),
                Column("n", "n"),
                Column("hours", f"{time.name} a run"),
                Column("pflop", f"{work.name} a run"),
                Column("per_hour", f"{unit} / {time.name}"),
                Column("per_pflop", f"{unit} / {work.name}"),
            ),
            rows=tuple(_cost_effectiveness(entry, time=time, work=work) for entry in findings.cost_effectiveness),
        )
    ]


def _cost_effectiveness(entry: CostEffectiveness, *, time: _Unit, work: _Unit) -> tuple[Cell, ...]:
    def cost(value: float, ratio: float, unit: _Unit) -> Cell:
        return Cell(f"{formatting.significant(value * unit.of_one, digits=3)} ({formatting.fixed(ratio, 2)})", value)

    def gain(value: float, unit: _Unit) -> Cell:
        return Cell(formatting.significant(value / unit.of_one, digits=3), value)

    return (
        cell(entry.group),
        Cell(str(entry.n), entry.n),
        cost(entry.hours, entry.hours_ratio, time),
        cost(entry.pflop, entry.pflop_ratio, work),
        gain(entry.per_hour, time),
        gain(entry.per_pflop, work),
    )


def variance_sections(findings: Findings) -> list[Section]:
    """Empty for a study without arms, or with too few seeds."""
    blocks: list[Block] = []
    for per in findings.per_objective:
        if per.variance is not None:
            blocks += [words(pairing_in_words(per.variance)), _components(findings, per, per.variance)]
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


def _components(findings: Findings, per: PerObjective, found: Components) -> Table:
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
