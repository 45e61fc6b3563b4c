"""What stands beside the declared test: interquartile means, how often an arm is better, what a difference costs."""

from __future__ import annotations

from ablate import numbers
from ablate.analyze.robust import Estimate
from ablate.analyze.worth import Worth
from ablate.chapters.labels import label
from ablate.document import Block, Cell, Column, Table, cell
from ablate.findings import Findings, PerObjective


def robust_table(findings: Findings, per: PerObjective) -> Table:
    """Interquartile means and the probability of improvement of every arm with a pair."""
    lines = []
    for entry in per.robust:
        widths = [estimate.high - estimate.low for estimate in (entry.arm, entry.baseline)]
        places = numbers.decimals_for(min(widths) / 4)
        lines.append(
            (
                cell(entry.name),
                Cell(str(entry.n), entry.n),
                *_estimate(entry.arm, places),
                *_estimate(entry.baseline, places),
                Cell(numbers.share(entry.better.value), entry.better.value),
                cell(_share_span(entry.better)),
            )
        )
    return Table(
        label=label(findings, per, "robust"),
        caption=f"Interquartile means of {per.label} (without the lowest and the highest quarter of the seeds) with "
        "95% percentile bootstrap intervals, which are too narrow at few seeds; and the share of the seeds on which "
        "the arm is better than the baseline, with its exact binomial interval.",
        columns=(
            Column("arm", "arm", number=False),
            Column("n", "n"),
            Column("iqm", "IQM"),
            Column("iqm_interval", "95% interval"),
            Column("baseline_iqm", "baseline's IQM"),
            Column("baseline_interval", "95% interval"),
            Column("better", "better on"),
            Column("better_interval", "95% interval"),
        ),
        rows=tuple(lines),
    )


def _estimate(estimate: Estimate, places: int) -> tuple[Cell, Cell]:
    span = numbers.interval(estimate.low, estimate.high, places)
    return Cell(numbers.fixed(estimate.value, places), estimate.value), Cell(span, span)


def _share_span(estimate: Estimate) -> str:
    return f"[{numbers.share(estimate.low)}, {numbers.share(estimate.high)}]"


def cost_blocks(findings: Findings) -> list[Block]:
    """The cost of a run of each arm, and the difference for each hour and PFLOP of it."""
    if len(findings.worths) < 2:
        return []
    per = findings.primary
    unit = per.unit.strip() or per.objective.metric
    return [
        Table(
            label="worth",
            caption="What a run costs, mean over an arm's completed runs, over the baseline's in brackets, and the "
            f"difference to the baseline in {per.label} for each hour and each PFLOP (10^15) of a run of the arm. "
            "FLOPs are of the formula, forward and backward; hours are of this study's machine and share of its card.",
            columns=(
                Column("arm", "arm", number=False),
                Column("n", "n"),
                Column("hours", "hours a run"),
                Column("pflop", "PFLOP a run"),
                Column("per_hour", f"{unit} an hour"),
                Column("per_pflop", f"{unit} a PFLOP"),
            ),
            rows=tuple(_worth(entry) for entry in findings.worths),
        )
    ]


def _worth(entry: Worth) -> tuple[Cell, ...]:
    def of(value: float, ratio: float) -> Cell:
        return Cell(f"{numbers.significant(value, digits=3)} ({numbers.fixed(ratio, 2)})", value)

    return (
        cell(entry.group),
        Cell(str(entry.n), entry.n),
        of(entry.hours, entry.hours_ratio),
        of(entry.pflop, entry.pflop_ratio),
        Cell(numbers.significant(entry.per_hour, digits=3), entry.per_hour),
        Cell(numbers.significant(entry.per_pflop, digits=3), entry.per_pflop),
    )
