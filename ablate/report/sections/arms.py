"""The ablation: what each arm changes against the baseline on the same seeds, a table a design."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from ablate import formatting
from ablate.analyze.arms.contrasts import Contrast
from ablate.analyze.arms.paired import Effect
from ablate.analyze.frames import texts
from ablate.analyze.memory import gain_owner
from ablate.report import figures
from ablate.report.document import Block, Cell, Column, Figure, Section, Table, cell, notice, words
from ablate.report.findings import Findings, PerObjective
from ablate.report.sections.labels import interval_cell, label
from ablate.report.sections.robustness import cost_blocks, robust_table
from ablate.report.sections.summary import EXPLORATORY, credit, effect_places, noise_in_words
from ablate.report.sections.tuned import tuned_blocks
from ablate.spec.declared_test import ALPHA, DRAWS, MAX_EXACT
from ablate.spec.designs import BASELINE

# Of report/ablation.csv: other programs read it, so the names and their order stay.
CSV_COLUMNS = tuple(
    Column(name, name)
    for name in (
        "arm", "n", "mean", "ci_low", "ci_high", "baseline_mean", "delta", "delta_low", "delta_high", "p", "p_exact",
        "p_holm", "mde",
    )
)  # fmt: skip

MATCHES = {
    "tokens": "Arms are compared at equal training tokens.",
    "flops": "Arms are compared at equal training FLOPs (by formula, forward and backward).",
    "wall": "Arms are compared at equal wall time of training.",
    "params": "Arms are compared at equal training tokens, and their active parameters (trained ones, the embedding "
    "table left out) are the baseline's within 2%.",
}
MIXED = "†"

# Design -> (stem of its files, what its rows are, title above it, prefix of its arms' names).
DESIGNS = {
    "arm": ("ablation", "arm", "Arms", ""),
    "leave_one_out": ("leave_one_out", "without", "One component left out, the largest effect first", "without_"),
    "add_one_in": ("add_one_in", "with", "One component added, the largest effect first", "with_"),
    "factorial": ("factorial_cells", "cell", "Cells of the factorial design", ""),
    "reseed": ("noise", "A/A arm", "The noise: the baseline on other random streams", ""),
}


def arm_sections(findings: Findings) -> list[Section]:
    """Nothing for a study without arms, or before one of its runs has ended."""
    if not findings.primary.effects or BASELINE not in texts(findings.data.trials, "arm"):
        return []
    blocks: list[Block] = [words(_design(findings)), *tuned_blocks(findings)]
    for per in findings.per_objective:
        blocks += [*_tables(findings, per), *_forest(findings, per)]
    if findings.bands:
        blocks.append(_curves(findings))
    beside: list[Block] = [robust_table(findings, per) for per in findings.per_objective if per.robust]
    beside += cost_blocks(findings)
    found = [Section("The ablation", tuple(blocks))]
    return [*found, Section("Beside the declared test", tuple(beside), sub=True)] if beside else found


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


def design_of(findings: Findings, effect: Effect) -> str:
    """The design that an arm belongs to; one that only the results know is a named arm."""
    arm = findings.data.arms.get(effect.arm)
    return arm.design if arm else "arm"


def _design(findings: Findings) -> str:
    ablation = findings.data.facts.spec.ablation
    baseline, match = "the study's base configuration", "tokens"
    if ablation is not None:
        match = ablation.match
        if ablation.baseline == "best":
            baseline = "the search's best configuration, trained again on fresh seeds"
    tuned = findings.data.tuned
    tuning = (
        f" Every arm, the baseline too, was first tuned over {', '.join(tuned.over)} in "
        f"{formatting.count(tuned.trials, 'trial')} on another seed, and the winner trained on the fresh seeds: "
        "intervals and p values are conditional on that one tuning."
        if tuned
        else ""
    )
    return (
        f"{MATCHES.get(match, f'Arms are compared at equal {match}.')} Baseline: {baseline}. Every arm runs on the "
        f"baseline's seeds; a difference is arm − baseline on one seed.{tuning}{_declared_test(findings)}"
    )


def _declared_test(findings: Findings) -> str:
    """What is tested and how small its p can be; a study of A/A arms alone tests nothing."""
    claims = findings.primary.claims
    if not claims:
        return ""
    pairs = max(effect.n for effect in claims)
    test = "exact sign-flip test" if pairs <= MAX_EXACT else "sign-flip test"
    text = (
        f" The declared test is the {test} over the pairs, adjusted by Holm over the arms; the t interval and the t "
        "test's p stand beside it."
    )
    if not pairs:
        return text
    reach = min(effect.smallest_p_holm for effect in claims if effect.n)
    of = f"{formatting.count(pairs, 'pair')} and {formatting.count(len(claims), 'arm')}"
    text += f" With {of} the smallest adjusted p that can be reached is {formatting.p_value(reach)}"
    return f"{text}, so the declared test cannot reject here." if reach > ALPHA else f"{text}."


def _tables(findings: Findings, per: PerObjective) -> list[Block]:
    """A table for each design of the study that has an arm."""
    blocks: list[Block] = []
    for design in DESIGNS:
        chosen = [effect for effect in per.effects if design_of(findings, effect) == design]
        if not chosen:
            continue
        if design in ("leave_one_out", "add_one_in"):
            chosen.sort(key=lambda effect: (effect.n == 0, -abs(effect.difference.mean)))
        blocks.append(_table(findings, per, chosen, design=design))
        if design == "reseed":
            blocks += [notice(noise_in_words(effect, per=per)) for effect in chosen if effect.n > 1 and _off(effect)]
    return blocks


def _off(effect: Effect) -> bool:
    return effect.difference.above_zero or effect.difference.below_zero


def _table(findings: Findings, per: PerObjective, chosen: Sequence[Effect], *, design: str) -> Table:
    stem, head, title, prefix = DESIGNS[design]
    better = "less" if per.objective.mode == "min" else "more"
    tests = (
        "p of the paired t test and of the exact sign-flip test; mde is the true difference that a t test would find "
        f"with power 0.8 at {ALPHA}. An A/A arm is a check and no claim: it is not of Holm's family."
        if design == "reseed"
        else "p of the paired t test, of the exact sign-flip test, and the latter adjusted by Holm over the "
        f"{formatting.count(len(per.claims), 'arm')} of the study; mde is the true difference that a t test would find "
        f"with power 0.8 at {ALPHA} over the number of arms."
    )
    return Table(
        label=label(findings, per, stem),
        caption=f"{title}, against the baseline: {per.label}, {better} is better. Mean ± standard deviation over the "
        "paired seeds (the baseline's over all its completed runs), paired difference with its 95% t interval, "
        f"{tests} {_lost(chosen)}",
        columns=(
            Column(head.replace(" ", "_").replace("/", ""), head, number=False),
            Column("n", "n"),
            Column("mean", "mean ± sd"),
            Column("delta", "difference"),
            Column("interval", "95% interval", interval=True),
            Column("p", "p (t)"),
            Column("p_exact", "p exact"),
            Column("p_holm", "p Holm"),
            Column("mde", "mde"),
            Column("dropped", "dropped"),
            Column("memory", "memory credited", number=False),
        ),
        rows=(_baseline_row(per), *(_row(findings, per, effect, prefix=prefix) for effect in chosen)),
        notes=_notes(findings, chosen),
    )


def _lost(chosen: Sequence[Effect]) -> str:
    dropped, pending = (sum(getattr(effect, name) for effect in chosen) for name in ("dropped", "pending"))
    text = f"Pairs dropped because one of the two runs gave no value: {dropped}." if dropped else "No pair was dropped."
    return f"{text} Pairs of which only one run has ended: {pending}." if pending else text


def _notes(findings: Findings, chosen: Sequence[Effect]) -> tuple[str, ...]:
    notes = [*drawn_note(effect.n for effect in chosen), *power_note([effect for effect in chosen if not effect.check])]
    why: dict[str, list[str]] = {}
    for effect in chosen:
        if effect.arm in findings.exploratory:
            why.setdefault(findings.exploratory[effect.arm], []).append(effect.arm)
    for reason, arms in why.items():
        notes.append(
            f"{EXPLORATORY} Exploratory, for {formatting.names(arms)}: {reason}. A p value holds for a number of seeds "
            "fixed before any result is seen; looking and then adding makes small ones more frequent than they say."
        )
    if any(effect.arm in _odd_arms(findings) for effect in chosen):
        notes.append(f"{MIXED} Holds trials of another commit, budget, data or version: see the provenance.")
    if any(_credit_word(findings, per, effect) == "no" for per in findings.per_objective for effect in chosen):
        notes.append(
            "No gain is credited to a memory whose bank_use_nats (what permuting its rows costs) is not above 0 with "
            "its whole 95% interval."
        )
    return tuple(notes)


def drawn_note(pairs: Iterable[int]) -> tuple[str, ...]:
    """Of a table whose declared test is not exact: nothing where all its patterns were counted."""
    if max(pairs, default=0) <= MAX_EXACT:
        return ()
    return (
        f"Of more than {MAX_EXACT} pairs the sign-flip test draws {DRAWS:,} sign patterns, seeded, where it counts all "
        "of fewer: p exact is (1 + those that reach the observed sum) / (1 + those drawn).",
    )


def power_note(tested: Sequence[Effect | Contrast]) -> tuple[str, ...]:
    """What the mde, a t test's, is of the declared test; nothing where that cannot reject or was not simulated."""
    times = [entry.mde_exact / entry.mde for entry in tested if entry.mde > 0 and entry.mde_exact > 0]
    if not times:
        return ()
    span = " to ".join(dict.fromkeys(formatting.fixed(value, 2) for value in (min(times), max(times))))
    return (f"The declared test, at Holm's first step, finds {span} times the mde with that power (simulated).",)


def _baseline_row(per: PerObjective) -> tuple[Cell, ...]:
    values = per.baseline
    blank = [Cell(formatting.DASH, None)] * 8
    return (
        cell(BASELINE),
        Cell(str(values.n), values.n),
        Cell(formatting.plus_minus(values.mean, values.sd), values.mean),
        *blank,
    )


def _row(findings: Findings, per: PerObjective, effect: Effect, *, prefix: str) -> tuple[Cell, ...]:
    difference, places = effect.difference, effect_places(effect)
    mark = MIXED if effect.arm in _odd_arms(findings) else ""
    peek = EXPLORATORY if effect.arm in findings.exploratory else ""
    return (
        Cell(effect.arm.removeprefix(prefix) + mark, effect.arm),
        Cell(str(effect.n), effect.n),
        Cell(formatting.plus_minus(effect.arm_values.mean, effect.arm_values.sd), effect.arm_values.mean),
        Cell(formatting.fixed(difference.mean, places, sign=True), difference.mean),
        interval_cell(difference.low, difference.high, places, sign=True),
        *(Cell(_marked(p, peek), p) for p in (effect.p, effect.p_exact, effect.p_holm)),
        Cell(formatting.fixed(effect.mde, places), effect.mde),
        Cell(str(effect.dropped), effect.dropped),
        cell(_credit_word(findings, per, effect)),
    )


def _marked(p: float, mark: str) -> str:
    text = formatting.p_value(p)
    return text if text == formatting.DASH else text + mark


def _credit_word(findings: Findings, per: PerObjective, effect: Effect) -> str:
    sentence = credit(findings, effect=effect, owner=gain_owner(effect, objective=per.objective))
    if "may be credited" in sentence:
        return "yes" if effect.p_holm <= ALPHA else "if a gain"
    return "no" if "not credited" in sentence else formatting.DASH


def _odd_arms(findings: Findings) -> set[str]:
    if not findings.odd_ids:
        return set()
    trials = findings.data.trials
    return {arm for arm, name in zip(trials["arm"], trials["trial_id"], strict=True) if name in findings.odd_ids}


def _forest(findings: Findings, per: PerObjective) -> list[Figure]:
    shown = [effect for effect in per.effects if effect.n]
    if not shown:
        return []
    order = list(DESIGNS)
    shown.sort(key=lambda effect: order.index(design_of(findings, effect)))
    said = [f"{effect.arm} {formatting.significant(effect.difference.mean, digits=3)}" for effect in shown]
    aa = "; the grey squares are A/A arms, the noise" if per.checks else ""
    return [
        Figure(
            label=label(findings, per, "effects"),
            caption=f"Paired differences to the baseline in {per.objective.metric} with 95% t intervals; filled where "
            f"the interval excludes 0{aa}.",
            alt=f"Differences: {', '.join(said)}.",
            draw=partial(figures.draw_effects, shown, unit=f" ({per.unit.strip()})" if per.unit else ""),
        )
    ]


def _curves(findings: Findings) -> Figure:
    floors = findings.floors_of(BASELINE)
    levels = (floors.unigram, floors.bigram) if floors else None
    what = "Held-out loss" if findings.data.curve_metric == "val_loss" else findings.data.curve_metric
    lines = "; horizontal lines are the corpus's n-gram floors, mean over the baseline's seeds" if levels else ""
    return Figure(
        label="curves_arms",
        caption=f"{what} over training: mean over the seeds of each arm, with the range from the lowest to the "
        f"highest seed{lines}. Beside it the means minus the baseline's, over the second half of training.",
        alt=f"Learning curves of {len(findings.bands)} arms.",
        draw=partial(figures.draw_bands, findings.bands, label=findings.curve_label, floors=levels),
    )
