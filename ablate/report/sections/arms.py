"""The ablation: what each arm changes against the baseline on the same seeds, one table for each design."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from ablate import formatting
from ablate.analyze.arms.contrasts import Contrast
from ablate.analyze.arms.paired import Effect
from ablate.analyze.basis.frames import texts
from ablate.report.render import figures
from ablate.report.render.document import (
    Block,
    Cell,
    Column,
    Figure,
    Section,
    Table,
    cell,
    interval_cell,
    notice,
    words,
)
from ablate.report.sections.findings import Findings, PerObjective
from ablate.report.sections.looks import interval_kind, look_blocks
from ablate.report.sections.robustness import cost_blocks, robust_table, variance_sections
from ablate.report.sections.sensitivity import control_notes, floor_notes, noise_floor
from ablate.report.sections.summary import EXPLORATORY, credit, effect_decimals, noise_in_words
from ablate.spec.declared_test import ALPHA, DRAWS, MAX_EXACT
from ablate.spec.designs import BASELINE

# Columns of report/ablation.csv. Other programs read it: do not change the names or their order.
CSV_COLUMNS = tuple(
    Column(name, name)
    for name in (
        "arm", "n", "mean", "ci_low", "ci_high", "baseline_mean", "delta", "delta_low", "delta_high", "p", "p_exact",
        "p_holm", "mde",
    )
)  # fmt: skip

MATCHES = {
    "tokens": "Arms are compared at equal training {unit}.",
    "flops": "Arms are compared at equal training FLOPs (by formula, forward and backward).",
    "wall": "Arms are compared at equal wall time of training.",
    "params": "Arms are compared at equal training {unit}, and their active parameters (trained ones, the embedding "
    "table left out) are the baseline's within 2%.",
    "total_params": "Arms are compared at equal training {unit}, and all their trained parameters are the baseline's "
    "within 2%.",
}
MIXED = "†"

# Design -> (stem of its files, head of its first column, title, prefix of its arms' names).
DESIGNS = {
    "arm": ("ablation", "arm", "Arms", ""),
    "leave_one_out": ("leave_one_out", "without", "One component left out, the largest effect first", "without_"),
    "add_one_in": ("add_one_in", "with", "One component added, the largest effect first", "with_"),
    "factorial": ("factorial_cells", "cell", "Cells of the factorial design", ""),
    "reseed": ("noise", "A/A arm", "The noise: the baseline on other random streams", ""),
}


def arm_sections(findings: Findings) -> list[Section]:
    """Empty for a study without arms, and before a run of the baseline has ended."""
    if not findings.primary.effects or BASELINE not in texts(findings.data.trials, "arm"):
        return []
    blocks: list[Block] = [words(_design(findings)), *look_blocks(findings), *_tuned_blocks(findings)]
    for per in findings.per_objective:
        blocks += [*_tables(findings, per), *_forest(findings, per)]
    if findings.bands:
        blocks.append(_curves(findings))
    robustness: list[Block] = [robust_table(findings, per) for per in findings.per_objective if per.robust]
    robustness += cost_blocks(findings)
    sections = [Section("The ablation", tuple(blocks))]
    if robustness:
        sections.append(Section("Robustness and cost effectiveness", tuple(robustness), sub=True))
    return [*sections, *variance_sections(findings)]


def csv_rows(findings: Findings) -> list[list[object]]:
    """Rows of report/ablation.csv: one for each arm but the baseline, for the primary objective."""
    return [
        [
            effect.arm, effect.n, effect.arm_values.mean, effect.arm_values.low, effect.arm_values.high,
            effect.baseline_values.mean, effect.difference.mean, effect.difference.low, effect.difference.high,
            effect.p, effect.p_exact, effect.p_holm, effect.mde,
        ]
        for effect in findings.primary.effects
    ]  # fmt: skip


def design_of(findings: Findings, effect: Effect) -> str:
    """The design that an arm belongs to. An arm that only the results have counts as a named arm."""
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
        f"{formatting.count(tuned.trials, 'trial')} on another seed, and the winner was trained on fresh seeds: "
        "intervals and p values are conditional on that one tuning."
        if tuned
        else ""
    )
    compared = MATCHES.get(match, f"Arms are compared at equal {match}.").format(unit=findings.data.trainer.budget_unit)
    return (
        f"{compared} Baseline: {baseline}. Every arm runs on the "
        f"baseline's seeds; a difference is arm − baseline on one seed.{tuning}{_declared_test(findings)}"
    )


def _tuned_blocks(findings: Findings) -> list[Block]:
    """A table of the values that were tuned for each arm, the baseline first; nothing where arms are not tuned."""
    tuned = findings.data.tuned
    if not findings.data.tuned_values or tuned is None:
        return []
    return [
        Table(
            label="tuned",
            caption=f"What was tuned for each arm, by {formatting.count(tuned.trials, 'trial')} each on another seed "
            "than those that are compared.",
            columns=(Column("arm", "arm", number=False), *(Column(key, key) for key in tuned.over)),
            rows=tuple(
                (cell(arm), *(Cell(formatting.setting(value), value) for value in chosen.values()))
                for arm, chosen in findings.data.tuned_values.items()
            ),
        )
    ]


def _declared_test(findings: Findings) -> str:
    """Which test is declared and how small its p can be; "" for a study that has A/A arms alone and tests nothing."""
    claims = findings.primary.claims
    if not claims:
        return ""
    pairs = max(effect.n for effect in claims)
    test = "exact sign-flip test" if pairs <= MAX_EXACT else "sign-flip test"
    text = (
        f" The declared test is the {test} over the pairs, adjusted by Holm over the arms; the t interval and the t "
        "test's p are shown in addition."
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
            off = [effect for effect in chosen if effect.difference.excludes_zero]
            blocks += [notice(noise_in_words(effect, per=per)) for effect in off]
    return blocks


def _table(findings: Findings, per: PerObjective, chosen: Sequence[Effect], *, design: str) -> Table:
    stem, head, title, prefix = DESIGNS[design]
    better = "less" if per.objective.mode == "min" else "more"
    tests = (
        "p of the paired t test and of the exact sign-flip test; mde is the true difference that a t test would find "
        f"with power 0.8 at {ALPHA}. An A/A arm is a check, not a claim: it is not in Holm's family."
        if design == "reseed"
        else "p of the paired t test, of the exact sign-flip test, and the latter adjusted by Holm over the "
        f"{formatting.count(len(per.claims), 'arm')} of the study; mde is the true difference that a t test would find "
        f"with power 0.8 at {ALPHA} over the number of arms."
    )
    return Table(
        label=findings.label(per, stem),
        caption=f"{title}, against the baseline: {per.label}, {better} is better. Mean ± standard deviation over the "
        "paired seeds (the baseline's over all its completed runs), paired difference with its 95% "
        f"{interval_kind(findings)} interval, {tests} {_dropped_in_words(chosen)}",
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
            *([Column("memory", "memory credited", number=False)] if _has_memory(findings) else []),
        ),
        rows=(_baseline_row(per, findings), *(_row(findings, per, effect, prefix=prefix) for effect in chosen)),
        notes=(
            *_notes(findings, chosen),
            *control_notes(chosen),
            *(floor_notes(per) if design != "reseed" else []),
        ),
    )


def _has_memory(findings: Findings) -> bool:
    return "bank_use_nats" in findings.data.trainer.by_name


def _is_the_same(effect: Effect) -> bool:
    difference = effect.difference
    return effect.n > 1 and difference.mean == difference.low == difference.high == 0.0


def _dropped_in_words(chosen: Sequence[Effect]) -> str:
    dropped, pending = (sum(getattr(effect, name) for effect in chosen) for name in ("dropped", "pending"))
    text = f"Pairs dropped because one of the two runs gave no value: {dropped}." if dropped else "No pair was dropped."
    return f"{text} Pairs of which only one run has ended: {pending}." if pending else text


def _notes(findings: Findings, chosen: Sequence[Effect]) -> tuple[str, ...]:
    notes = [
        *drawn_note(effect.n for effect in chosen),
        *power_note([effect for effect in chosen if effect.p_holm >= 0]),
    ]
    arms_by_reason: dict[str, list[str]] = {}
    for effect in chosen:
        if effect.arm in findings.exploratory:
            arms_by_reason.setdefault(findings.exploratory[effect.arm], []).append(effect.arm)
    for reason, arms in arms_by_reason.items():
        notes.append(
            f"{EXPLORATORY} Exploratory, for {formatting.names(arms)}: {reason}. A p value holds for a number of seeds "
            "that was fixed before any result was seen; adding seeds after a look makes small p values too frequent."
        )
    if same := [effect.arm for effect in chosen if _is_the_same(effect)]:
        has = "has" if len(same) == 1 else "have"
        notes.append(
            f"{formatting.names(same)} {has} the baseline's values on every seed, to the last bit: what was overridden "
            "may not reach the training."
        )
    if any(effect.arm in _odd_arms(findings) for effect in chosen):
        notes.append(f"{MIXED} Has trials of another commit, budget, data or version: see the provenance.")
    if any(_credit_word(findings, per, effect) == "no" for per in findings.per_objective for effect in chosen):
        notes.append(
            "No gain is credited to a memory whose bank_use_nats (what permuting its rows costs) is not above 0 with "
            "its whole 95% interval."
        )
    return tuple(notes)


def drawn_note(pairs: Iterable[int]) -> tuple[str, ...]:
    """The note of a table whose sign-flip test draws its patterns; empty where it counts them all."""
    if max(pairs, default=0) <= MAX_EXACT:
        return ()
    return (
        f"Of more than {MAX_EXACT} pairs the sign-flip test draws {DRAWS:,} sign patterns, seeded; of fewer it counts "
        "all: p exact is (1 + those that reach the observed sum) / (1 + those drawn).",
    )


def power_note(tested: Sequence[Effect | Contrast]) -> tuple[str, ...]:
    """The note that relates the mde, a t test's, to the declared test; empty where that cannot reject or is unknown."""
    times = [entry.mde_exact / entry.mde for entry in tested if entry.mde > 0 and entry.mde_exact > 0]
    if not times:
        return ()
    span = " to ".join(dict.fromkeys(formatting.fixed(value, 2) for value in (min(times), max(times))))
    return (f"The declared test, at Holm's first step, finds {span} times the mde with that power (simulated).",)


def _baseline_row(per: PerObjective, findings: Findings) -> tuple[Cell, ...]:
    values = per.baseline
    blank = [Cell(formatting.DASH, None)] * (8 if _has_memory(findings) else 7)
    return (
        cell(BASELINE),
        Cell(str(values.n), values.n),
        Cell(formatting.plus_minus(values.mean, values.sd), values.mean),
        *blank,
    )


def _row(findings: Findings, per: PerObjective, effect: Effect, *, prefix: str) -> tuple[Cell, ...]:
    difference, places = effect.difference, effect_decimals(effect)
    mark = MIXED if effect.arm in _odd_arms(findings) else ""
    peek = EXPLORATORY if effect.arm in findings.exploratory else ""
    return (
        Cell(effect.arm.removeprefix(prefix) + " (control)" * effect.control + mark, effect.arm),
        Cell(str(effect.n), effect.n),
        Cell(formatting.plus_minus(effect.arm_values.mean, effect.arm_values.sd), effect.arm_values.mean),
        Cell(formatting.fixed(difference.mean, places, sign=True), difference.mean),
        interval_cell(difference.low, difference.high, places, sign=True),
        *(Cell(_marked(p, peek), p) for p in (effect.p, effect.p_exact, effect.p_holm)),
        Cell(formatting.fixed(effect.mde, places), effect.mde),
        Cell(str(effect.dropped), effect.dropped),
        *([cell(_credit_word(findings, per, effect))] if _has_memory(findings) else []),
    )


def _marked(p: float, mark: str) -> str:
    text = formatting.p_value(p)
    return text if text == formatting.DASH else text + mark


def _credit_word(findings: Findings, per: PerObjective, effect: Effect) -> str:
    sentence = credit(findings, effect=effect, objective=per.objective)
    if "may be credited" in sentence:
        return "yes" if effect.declared_p <= ALPHA else "if a gain"
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
    aa += ", and the grey band is their 95% interval, the noise floor" if noise_floor(per) else ""
    aa += "; the diamond is the positive control" if any(effect.control for effect in shown) else ""
    return [
        Figure(
            label=findings.label(per, "effects"),
            caption=f"Paired differences to the baseline in {per.objective.metric} with 95% "
            f"{interval_kind(findings)} intervals; filled where the interval excludes 0{aa}.",
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
        f"highest seed{lines}. On the right: means minus the baseline's, over the second half of training.",
        alt=f"Learning curves of {len(findings.bands)} arms.",
        draw=partial(figures.draw_bands, findings.bands, label=findings.curve_label, floors=levels),
    )
