"""The ablation: what each arm changes against the baseline on the same seeds."""

from __future__ import annotations

from functools import partial

from ablate import figures, numbers
from ablate.analyze.frames import texts
from ablate.analyze.memory import gain_owner
from ablate.analyze.paired import ALPHA, BASELINE, Effect
from ablate.chapters.answer import credit, effect_places
from ablate.chapters.search import label
from ablate.document import Block, Cell, Column, Figure, Section, Table, cell, words
from ablate.findings import Findings, PerObjective

# Of report/ablation.csv: other programs read it, so the names and their order stay.
CSV_COLUMNS = tuple(
    Column(name, name)
    for name in (
        "arm", "n", "mean", "ci_low", "ci_high", "baseline_mean", "delta", "delta_low", "delta_high", "p", "p_exact",
        "p_holm", "mde",
    )
)  # fmt: skip


def arm_sections(findings: Findings) -> list[Section]:
    """Nothing for a study without arms, or before one of its runs has ended."""
    if not findings.primary.effects or BASELINE not in texts(findings.data.trials, "arm"):
        return []
    blocks: list[Block] = [words(_design(findings))]
    for per in findings.per_objective:
        blocks += [_table(findings, per), *_forest(findings, per)]
    if findings.bands:
        blocks.append(_curves(findings))
    return [Section("The ablation", tuple(blocks))]


def csv_rows(findings: Findings) -> list[list[object]]:
    """Rows of report/ablation.csv: one an arm other than the baseline, the primary objective."""
    return [
        [
            effect.arm, effect.n, effect.arm_values.mean, effect.arm_values.low, effect.arm_values.high,
            effect.baseline_values.mean, effect.difference.mean, effect.difference.low, effect.difference.high,
            effect.p, effect.p_exact, effect.p_holm, effect.mde,
        ]
        for effect in findings.primary.effects
    ]  # fmt: skip


def _design(findings: Findings) -> str:
    ablation = findings.data.facts.spec.ablation
    baseline = "the study's base configuration"
    if ablation is not None and ablation.baseline == "best":
        baseline = "the search's best configuration, trained again on fresh seeds"
    pairs = max(effect.n for effect in findings.primary.effects)
    reach = numbers.p_value(
        max((effect.smallest_p_holm for effect in findings.primary.effects if effect.n), default=1.0)
    )
    return (
        f"Baseline: {baseline}. Every arm runs on the baseline's seeds; a difference is arm − baseline on one seed. "
        "The declared test is the exact sign-flip test over the pairs, adjusted by Holm over the arms; the t interval "
        f"and the t test's p stand beside it. With {numbers.count(pairs, 'pair')} and "
        f"{numbers.count(len(findings.primary.effects), 'arm')} the smallest adjusted p that can be reached is {reach}"
        f"{', so the declared test cannot reject here' if reach != numbers.DASH and _cannot_reject(findings) else ''}."
    )


def _cannot_reject(findings: Findings) -> bool:
    return all(effect.smallest_p_holm > ALPHA for effect in findings.primary.effects if effect.n)


def _table(findings: Findings, per: PerObjective) -> Table:
    dropped = sum(effect.dropped for effect in per.effects)
    note = (
        f" Pairs dropped because one of the two runs gave no value: {dropped}." if dropped else " No pair was dropped."
    )
    if any(effect.arm in _odd_arms(findings) for effect in per.effects):
        note += " † holds trials of another commit, budget or data."
    better = "less" if per.objective.mode == "min" else "more"
    return Table(
        label=label(findings, per, "ablation"),
        caption=f"Arms against the baseline, {per.label}, {better} is better: "
        "mean ± standard deviation over the paired seeds, paired difference with its 95% t interval, p of the paired t "
        "test, of the exact sign-flip test, and the latter adjusted by Holm; mde is the true difference that a t test "
        f"would find with power 0.8 at {ALPHA} over the number of arms." + note,
        columns=(
            Column("arm", "arm", number=False),
            Column("n", "n"),
            Column("mean", "mean ± sd"),
            Column("delta", "difference"),
            Column("interval", "95% interval"),
            Column("p", "p (t)"),
            Column("p_exact", "p exact"),
            Column("p_holm", "p Holm"),
            Column("mde", "mde"),
            Column("dropped", "dropped"),
            Column("memory", "memory credited", number=False),
        ),
        rows=(_baseline_row(per), *(_row(findings, per, effect) for effect in per.effects)),
    )


def _baseline_row(per: PerObjective) -> tuple[Cell, ...]:
    values = per.baseline
    blank = [Cell(numbers.DASH, None)] * 8
    return (
        cell(BASELINE),
        Cell(str(values.n), values.n),
        Cell(numbers.plus_minus(values.mean, values.sd), values.mean),
        *blank,
    )


def _row(findings: Findings, per: PerObjective, effect: Effect) -> tuple[Cell, ...]:
    difference, places = effect.difference, effect_places(effect)
    span = numbers.interval(difference.low, difference.high, places, sign=True)
    mark = "†" if effect.arm in _odd_arms(findings) else ""
    return (
        Cell(effect.arm + mark, effect.arm),
        Cell(str(effect.n), effect.n),
        Cell(numbers.plus_minus(effect.arm_values.mean, effect.arm_values.sd), effect.arm_values.mean),
        Cell(numbers.fixed(difference.mean, places, sign=True), difference.mean),
        Cell(span, span),
        Cell(numbers.p_value(effect.p), effect.p),
        Cell(numbers.p_value(effect.p_exact), effect.p_exact),
        Cell(numbers.p_value(effect.p_holm), effect.p_holm),
        Cell(numbers.fixed(effect.mde, places), effect.mde),
        Cell(str(effect.dropped), effect.dropped),
        cell(_credit_word(findings, per, effect)),
    )


def _credit_word(findings: Findings, per: PerObjective, effect: Effect) -> str:
    sentence = credit(findings, effect=effect, owner=gain_owner(effect, objective=per.objective))
    if "may be credited" in sentence:
        return "yes" if effect.p_holm <= ALPHA else "if a gain"
    return "no" if "not credited" in sentence else numbers.DASH


def _odd_arms(findings: Findings) -> set[str]:
    trials = findings.data.trials
    return {arm for arm, name in zip(trials["arm"], trials["trial_id"], strict=True) if name in findings.odd_ids}


def _forest(findings: Findings, per: PerObjective) -> list[Figure]:
    if not any(effect.n for effect in per.effects):
        return []
    said = [f"{effect.arm} {numbers.significant(effect.difference.mean, digits=3)}" for effect in per.effects]
    return [
        Figure(
            label=label(findings, per, "effects"),
            caption=f"Paired differences to the baseline in {per.objective.metric} with 95% t intervals; filled where "
            "the interval excludes 0.",
            alt=f"Differences: {', '.join(said)}.",
            draw=partial(figures.draw_effects, per.effects, unit=f" ({per.unit.strip()})" if per.unit else ""),
        )
    ]


def _curves(findings: Findings) -> Figure:
    floors = findings.floors_of(BASELINE)
    return Figure(
        label="curves_arms",
        caption="Held-out loss over training: mean over the seeds of each arm, with the range from the lowest to the "
        "highest seed; horizontal lines are the corpus's n-gram floors, mean over the baseline's seeds.",
        alt=f"Learning curves of {len(findings.bands)} arms.",
        draw=partial(figures.draw_bands, findings.bands, floors=(floors.unigram, floors.bigram) if floors else None),
    )
