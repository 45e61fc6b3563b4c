"""The factorial design, and the study's hypotheses with their verdicts."""

from __future__ import annotations

import itertools
from functools import partial

from ablate import formatting
from ablate.analyze.arms.contrasts import Contrast, Factorial, Levels
from ablate.analyze.arms.fixed_target import Reached, TargetClaim
from ablate.analyze.arms.hypotheses import Claim, Judged, level
from ablate.report.render import figures
from ablate.report.render.document import Block, Cell, Column, Figure, Section, Table, cell, interval_cell, words
from ablate.report.sections.arms import drawn_note, power_note
from ablate.report.sections.findings import Findings, PerObjective
from ablate.report.sections.looks import interval_kind
from ablate.report.sections.sensitivity import verdict_in_words
from ablate.report.sections.summary import EXPLORATORY
from ablate.spec.declared_test import ALPHA


def factorial_sections(findings: Findings) -> list[Section]:
    """Main effects and interactions; empty for a study without a factorial design."""
    blocks: list[Block] = []
    for per in findings.per_objective:
        if per.factorial is not None:
            blocks += _factorial(findings, per, per.factorial)
    return [Section("Main effects and interactions", tuple(blocks))] if blocks else []


def _factorial(findings: Findings, per: PerObjective, design: Factorial) -> list[Block]:
    if design.missing:
        gaps = "; ".join(map(_point, design.missing))
        return [words(f"No contrast is estimated: the design has no arm at {gaps}.")]
    dropped = formatting.count(design.dropped, "seed")
    left = f"{dropped} left out because a cell gave no value" if design.dropped else "no seed was left out"
    if design.pending:
        left += f"; {formatting.count(design.pending, 'seed')} of which some cells have not ended"
    seeds, count = formatting.count(design.n, "seed"), formatting.count(len(design.contrasts), "contrast")
    table = Table(
        label=findings.label(per, "contrasts"),
        caption=f"Contrasts in {per.label}, each taken within a seed over all the cells ({seeds}; {left}). A main "
        "effect is a level against the factor's reference, mean over the cells of the other factors; an interaction is "
        "what one level changes where the other is on, minus what it changes at the reference. 95% t interval, p of "
        f"the t test and of the exact sign-flip test, adjusted by Holm over {count}; mde as for the arms.",
        columns=(
            Column("contrast", "contrast", number=False),
            Column("kind", "kind", number=False),
            Column("effect", "effect"),
            Column("interval", "95% interval", interval=True),
            Column("p", "p (t)"),
            Column("p_exact", "p exact"),
            Column("p_holm", "p Holm"),
            Column("mde", "mde"),
        ),
        rows=tuple(_contrast(entry) for entry in design.contrasts),
        notes=(*drawn_note([design.n]), *power_note(design.contrasts), *_peeked(findings)),
    )
    names = ", ".join(design.factors)
    drawn = Figure(
        label=findings.label(per, "interactions"),
        caption=f"{per.label} over the levels of {names}: mean over the seeds with 95% t intervals. Lines that are not "
        "parallel show an interaction; these intervals include the spread between seeds, those of contrasts do not.",
        alt="Means: "
        + "; ".join(f"{_point(entry.levels)} {formatting.significant(entry.value.mean)}" for entry in design.cells),
        draw=partial(figures.draw_interactions, design, label=per.label),
    )
    return [table, drawn]


def _peeked(findings: Findings) -> tuple[str, ...]:
    cells = [arm.name for arm in findings.data.arms.values() if arm.design == "factorial"]
    reasons = dict.fromkeys(findings.exploratory[name] for name in cells if name in findings.exploratory)
    return tuple(f"{EXPLORATORY} Exploratory, every p value here: {reason}." for reason in reasons)


def _point(levels: Levels) -> str:
    return ", ".join(f"{key} = {level}" for key, level in levels.items())


def _contrast(entry: Contrast) -> tuple[Cell, ...]:
    places = formatting.decimals_for(entry.value.sd)
    return (
        cell(entry.name),
        cell("interaction" if entry.interaction else "main effect"),
        Cell(formatting.fixed(entry.value.mean, places, sign=True), entry.value.mean),
        interval_cell(entry.value.low, entry.value.high, places, sign=True),
        *(Cell(formatting.p_value(p), p) for p in (entry.p, entry.p_exact, entry.p_holm)),
        Cell(formatting.fixed(entry.mde, places), entry.mde),
    )


def hypothesis_sections(findings: Findings) -> list[Section]:
    """The study's claims with their verdicts; empty for a study without hypotheses."""
    blocks = hypothesis_blocks(findings)
    return [Section("Hypotheses", tuple(blocks))] if blocks else []


def hypothesis_blocks(findings: Findings) -> list[Block]:
    """The rules and the table of the claims about a gain, then those of the claims about a fixed target."""
    blocks: list[Block] = [RULES, hypothesis_table(findings)] if findings.judged else []
    return blocks + ([TARGET_RULES, target_table(findings)] if findings.reached else [])


RULES = words(
    "A hypothesis claims that an arm is better than the baseline in a metric, by min_effect at least. Equivalent: two "
    f"one-sided t tests at {ALPHA} show that the gain is smaller than min_effect either way. Supported: the whole 95% "
    "interval of the gain lies at min_effect or above, and the exact test rejects at "
    f"{ALPHA}. Refuted: the whole interval lies below min_effect. Inconclusive: the interval holds "
    "min_effect, or lies above it and the exact test does not reject, or there is none. Intervals and p values hold "
    "over all the hypotheses together."
)
TARGET_RULES = words(
    "A hypothesis about a target claims that an arm's mean is at the target or better. Supported: the one-sided exact "
    "sign-flip test of the arm's runs against the target, adjusted by Holm over the targets, has p below alpha. "
    "Inconclusive: it does not. The test takes the runs to spread evenly about their mean."
)


def hypothesis_table(findings: Findings) -> Table:
    """A table with one row for each claim."""
    reasons = [_reasons(findings, entry.claim) for entry in findings.judged]
    return Table(
        label="hypotheses",
        caption="The study's hypotheses: gain of the arm over the baseline (positive is better) with its "
        f"{_interval_in_words(findings)}, p of the exact sign-flip test, the same adjusted by Holm over "
        "the hypotheses, and p of equivalence within min_effect, adjusted likewise.",
        columns=(
            Column("claim", "claim", number=False),
            Column("arm", "arm", number=False),
            Column("metric", "metric", number=False),
            Column("min_effect", "min effect"),
            Column("n", "n"),
            Column("gain", "gain"),
            Column("interval", "95% interval", interval=True),
            Column("p_exact", "p exact"),
            Column("p_holm", "p Holm"),
            Column("p_equivalence", "p equivalence"),
            Column("verdict", "verdict", number=False),
        ),
        rows=tuple(
            _judged(entry, mark=EXPLORATORY if why else "", unit=findings.data.trainer.unit(entry.claim.metric))
            for entry, why in zip(findings.judged, reasons, strict=True)
        ),
        notes=(
            *drawn_note(entry.gain.n for entry in findings.judged),
            *(f"{EXPLORATORY} Exploratory{reason}." for reason in dict.fromkeys(itertools.chain(*reasons))),
            *(
                f"\u201c{entry.claim.claim}\u201d is {verdict_in_words(entry)}."
                for entry in findings.judged
                if entry.withheld
            ),
        ),
    )


def _interval_in_words(findings: Findings) -> str:
    claims, kind = len(findings.judged), interval_kind(findings)
    if claims == 1:
        return f"95% {kind} interval"
    return f"95% {kind} interval over {claims} hypotheses together ({level(claims):.1%} each, Bonferroni)"


def target_table(findings: Findings) -> Table:
    """A table with one row for each claim about a fixed target."""
    reasons = [_reasons(findings, entry.claim) for entry in findings.reached]
    return Table(
        label="fixed_targets",
        caption="Arms against fixed targets: mean over the arm's completed runs with its 95% t interval, one-sided p "
        "of the t test and of the exact sign-flip test, and the latter adjusted by Holm over the targets.",
        columns=(
            Column("claim", "claim", number=False),
            Column("arm", "arm", number=False),
            Column("metric", "metric", number=False),
            Column("target", "target"),
            Column("n", "n"),
            Column("mean", "mean"),
            Column("interval", "95% interval", interval=True),
            Column("p", "p (t)"),
            Column("p_exact", "p exact"),
            Column("p_holm", "p Holm"),
            Column("alpha", "alpha"),
            Column("verdict", "verdict", number=False),
        ),
        rows=tuple(
            _reached(entry, mark=EXPLORATORY if why else "", unit=findings.data.trainer.unit(entry.claim.metric))
            for entry, why in zip(findings.reached, reasons, strict=True)
        ),
        notes=(
            *drawn_note(entry.values.n for entry in findings.reached),
            *(f"{EXPLORATORY} Exploratory{reason}." for reason in dict.fromkeys(itertools.chain(*reasons))),
        ),
    )


def _reached(entry: Reached, *, mark: str, unit: str) -> tuple[Cell, ...]:
    claim, values = entry.claim, entry.values
    places = formatting.decimals_for(values.sd)
    return (
        cell(claim.claim),
        cell(claim.arm),
        Cell(f"{claim.metric} ({unit})" if unit else claim.metric, claim.metric),
        Cell(f"{claim.target:g}", claim.target),
        Cell(str(values.n), values.n),
        Cell(formatting.fixed(values.mean, places), values.mean),
        interval_cell(values.low, values.high, places),
        *(Cell(formatting.p_value(p), p) for p in (entry.p, entry.p_exact, entry.p_holm)),
        Cell(f"{claim.alpha:g}", claim.alpha),
        Cell(entry.verdict + mark, entry.verdict),
    )


def _reasons(findings: Findings, claim: Claim | TargetClaim) -> list[str]:
    """Why a claim is exploratory: it, or the number of its arm's seeds, was declared after results were seen."""
    late = [f", \u201c{claim.claim}\u201d: {claim.hindsight}"] if claim.hindsight else []
    return late + ([f": {findings.exploratory[claim.arm]}"] if claim.arm in findings.exploratory else [])


def _judged(entry: Judged, *, mark: str, unit: str) -> tuple[Cell, ...]:
    claim, gain = entry.claim, entry.gain
    places = formatting.decimals_for(gain.sd)
    return (
        cell(claim.claim),
        cell(claim.arm),
        Cell(f"{claim.metric} ({unit})" if unit else claim.metric, claim.metric),
        Cell(f"{claim.min_effect:g}", claim.min_effect),
        Cell(str(gain.n), gain.n),
        Cell(formatting.fixed(gain.mean, places, sign=True), gain.mean),
        interval_cell(gain.low, gain.high, places, sign=True),
        *(Cell(formatting.p_value(p), p) for p in (entry.p_exact, entry.p_holm, entry.p_equivalence)),
        Cell(entry.verdict + mark, entry.verdict),
    )
