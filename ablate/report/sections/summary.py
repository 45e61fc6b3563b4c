"""A report's summary: its first paragraph, made from the numbers by rules. It claims nothing that no number shows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ablate import formatting
from ablate.analyze.arms.paired import Effect
from ablate.analyze.memory import LEARNED, BankUse, better_side
from ablate.analyze.search.best import Best
from ablate.analyze.search.space import short
from ablate.report.render.document import Code, Paragraph, Span
from ablate.report.sections.findings import Findings, PerObjective
from ablate.report.sections.sensitivity import (
    NO_CONTROL,
    difference_as_values,
    noise_floor,
    sensitivity_as_values,
    sensitivity_in_words,
    verdict_in_words,
)
from ablate.spec.declared_test import ALPHA, MAX_EXACT
from ablate.spec.designs import BASELINE
from ablate.spec.models import Objective

EXPLORATORY = "‡"  # mark of exploratory p values and claims
NO_BANK = ("none", "blind")
POSITIVE_CONTROLS = ("ngram", "values")
TIED = 6  # most trials of a tie that are named
SENTENCES = 6  # up to so many arms have a sentence each
ANSWERED = 20  # the same, at the end of a sweep


def summary(findings: Findings) -> Paragraph:
    """The report's first paragraph."""
    seen = sensitivity_in_words(findings)
    parts = [*([seen] if seen else []), _ended(findings)]
    if findings.mixed:
        parts.append(("Trials of different code, budgets, data or versions are compared here (marked †).",))
    for per in findings.per_objective:
        parts += _search(findings, per)
    if findings.pareto:
        front = f"The Pareto set has {formatting.count(len(findings.pareto), 'trial')} of the search"
        rule = "no other trial is at least as good in every objective and better in one"
        parts.append((f"{front}: {rule}.",))
    for per in findings.per_objective:
        parts += _arms(findings, per)
    return Paragraph(tuple(_joined(parts)))


@dataclass(frozen=True)
class Answer:
    """What an ablation shows. `verdict`: of which arms the declared test shows an effect. `sentences`: the summary's,
    one for each arm, after the one on the positive control. `arms`: the same as values, None where a number is missing.
    `sensitivity`: whether the study saw its positive control; None without one. `noise_floor`: the differences of the
    A/A arms. `hypotheses`: every claim with its verdict."""

    verdict: str
    sentences: tuple[str, ...]
    arms: tuple[dict[str, Any], ...]
    sensitivity: dict[str, Any] | None
    noise_floor: tuple[dict[str, Any], ...]
    hypotheses: tuple[dict[str, Any], ...]


def answer(findings: Findings) -> Answer:
    """The answer of a study with arms, by its first objective."""
    per = findings.primary
    shown = [effect.arm for effect in per.claims if effect_is_shown(effect)]
    verdict = f"the declared test shows an effect of {formatting.names(shown)}" if shown else "no effect is shown"
    if not any(effect.n for effect in per.effects):
        verdict = "none yet"
    elif not per.claims:
        verdict = "the noise: A/A arms claim nothing" if per.checks else "the study has its positive control alone"
    seen = sensitivity_in_words(findings)
    parts = [*([seen] if seen else []), *_arms(findings, per, most=ANSWERED)]
    return Answer(
        verdict,
        sentences=tuple(Paragraph(part).plain for part in parts),
        arms=tuple(_as_values(effect) for effect in per.claims),
        sensitivity=sensitivity_as_values(findings),
        noise_floor=tuple({"arm": effect.arm, **difference_as_values(effect)} for effect in noise_floor(per)),
        hypotheses=tuple(_verdicts(findings)),
    )


def _verdicts(findings: Findings) -> Iterator[dict[str, Any]]:
    for judged in findings.judged:
        claim = judged.claim
        yield {"claim": claim.claim, "arm": claim.arm, "metric": claim.metric, "min_effect": claim.min_effect,
               "verdict": judged.verdict, "withheld": judged.withheld or None}  # fmt: skip
    for reached in findings.reached:
        claim = reached.claim
        yield {"claim": claim.claim, "arm": claim.arm, "metric": claim.metric, "target": claim.target,
               "verdict": reached.verdict, "withheld": None}  # fmt: skip


def effect_is_shown(effect: Effect) -> bool:
    """Whether the interval excludes 0 and the declared test rejects."""
    return effect.difference.excludes_zero and effect.p_holm <= ALPHA


def _as_values(effect: Effect) -> dict[str, Any]:
    p_holm = effect.p_holm if math.isfinite(effect.p_holm) else None
    measured = {**difference_as_values(effect), "p_holm": p_holm}
    return {"arm": effect.arm, "metric": effect.metric, **measured, "shown": effect_is_shown(effect)}


def _joined(parts: list[tuple[Span, ...]]) -> list[Span]:
    spans: list[Span] = []
    for part in parts:
        spans += [" ", *part] if spans else part
    return spans


def _ended(findings: Findings) -> tuple[Span, ...]:
    progress = findings.progress
    planned = formatting.count(progress.planned, "planned trial")
    if not progress.final:
        return (f"No trial has ended yet: 0 of {planned}.",)
    how = ", ".join(f"{count} {status}" for status, count in progress.ended.items())
    text = f"{progress.final} of {planned} {'has' if progress.planned == 1 else 'have'} ended ({how})."
    if not progress.completed:
        text += " No trial succeeded, so there is nothing to compare."
    elif not progress.whole:
        text += " The study is unfinished: the results below are of the trials so far."
    return (text,)


def _search(findings: Findings, per: PerObjective) -> list[tuple[Span, ...]]:
    if not findings.data.space or not findings.progress.final:
        return []
    if per.best is None:
        return [(f"No trial of the search completed with a {per.objective.metric}.",)] if len(findings.search) else []
    if len(per.best.tied) > 1:
        return [_tie(per, per.best)]
    parts = [_best(per, per.best), *_edges(per.best)]
    if per is findings.primary:
        parts += _floors(findings, group="best", whose="Its") + _single_bank(findings)
    return parts


def _best(per: PerObjective, best: Best) -> tuple[Span, ...]:
    lowest = "lowest" if per.objective.mode == "min" else "highest"
    places = search_decimals(per)
    value = formatting.fixed(best.value, places)
    others = f"the median of the {best.completed} completed is {formatting.fixed(best.median, places)}"
    rest = others if best.completed > 1 else "no other trial completed"
    spread = formatting.over_seeds(best.seeds, best.sd)
    spans: list[Span] = [f"The {lowest} {per.objective.metric} of the search is {value}{per.unit}{spread} (trial "]
    spans += [Code(best.trial_id), f"; {rest}), at "]
    for index, (key, chosen) in enumerate(best.params.items()):
        spans += [", " if index else "", Code(f"{key} = {short(chosen)}")]
    return (*spans, ".")


def _tie(per: PerObjective, best: Best) -> tuple[Span, ...]:
    lowest = "lowest" if per.objective.mode == "min" else "highest"
    value = formatting.fixed(best.value, search_decimals(per))
    spans: list[Span] = [f"{len(best.tied)} trials tie at the {lowest} {per.objective.metric} of the search, "]
    spans.append(f"{value}{per.unit} (")
    for index, trial_id in enumerate(best.tied[:TIED]):
        spans += [", " if index else "", Code(trial_id)]
    more = f" and {len(best.tied) - TIED} more" if len(best.tied) > TIED else ""
    return (*spans, f"{more}): the search has no winner among them.")


def _edges(best: Best) -> list[tuple[Span, ...]]:
    if not best.edges:
        return []
    named = ", ".join(f"{key} ({edge})" for key, edge in best.edges.items())
    verb = "sits at an edge of its range" if len(best.edges) == 1 else "sit at edges of their ranges"
    return [(f"{named} {verb}: better values may lie outside what was searched.",)]


def _floors(findings: Findings, *, group: str, whose: str) -> list[tuple[Span, ...]]:
    floors = findings.floors_of(group)
    if floors is None:
        return []
    gaps = ((floors.below_unigram, floors.unigram, "unigram"), (floors.below_bigram, floors.bigram, "bigram"))
    against = [
        f"{formatting.fixed(abs(gap), 3)} nats {'below' if gap > 0 else 'above'} the {name} floor"
        f" ({formatting.fixed(at, 3)})"
        for gap, at, name in gaps
    ]
    text = f"{whose} val_loss is {' and '.join(against)}."
    if floors.below_unigram <= 0:
        text += " Nothing was learned there beyond token frequencies: comparisons made here say little."
    return [(text,)]


def _single_bank(findings: Findings) -> list[tuple[Span, ...]]:
    bank = findings.bank_of("best")
    if bank is None or bank.use.n > 1:  # of several seeds the table gives the interval
        return []
    value = formatting.fixed(bank.use.mean, formatting.decimals_for(abs(bank.use.mean)), sign=True)
    text = f"Permuting its bank's rows changes val_loss by {value} nats (bank_use_nats); one trial has no interval, "
    return [(text + "so no gain is credited to the memory.",)]


def _arms(findings: Findings, per: PerObjective, *, most: int = SENTENCES) -> list[tuple[Span, ...]]:
    """Up to `most` arms have a sentence each."""
    effects = [effect for effect in per.claims if effect.n]
    is_primary = per is findings.primary
    if not any(effect.n for effect in per.effects):
        none = "No arm shares a completed seed with the baseline yet."
        return [(none,)] if per.effects and findings.progress.final and is_primary else []
    parts = _floors(findings, group=BASELINE, whose="The baseline's mean") if is_primary else []
    if not per.claims:
        parts += [(noise_in_words(effect, per=per),) for effect in per.checks if effect.n]
    described, unclear, one_pair = _split_for_sentences(_without_cells(per, effects), most=most)
    for effect in described:
        parts += [(effect_in_words(effect, per=per),), (credit(findings, effect=effect, objective=per.objective),)]
    if unclear:
        what = f"For {_named(unclear, other=bool(described))}"
        parts.append(
            (f"{what} the 95% interval of the difference in {unclear[0].metric} holds 0: no effect is shown.",)
        )
    if one_pair:
        share = f"{_named(one_pair, other=bool(described or unclear))} {'shares' if len(one_pair) == 1 else 'share'}"
        parts.append((f"{share} one seed with the baseline: no interval yet.",))
    unpaired = [effect for effect in _without_cells(per, list(per.claims)) if not effect.n]
    if unpaired:
        share = f"{_named(unpaired, other=bool(effects))} {'shares' if len(unpaired) == 1 else 'share'}"
        parts.append((f"{share} no completed seed with the baseline.",))
    smallest = min((effect.smallest_p_holm for effect in effects), default=0.0)
    if smallest > ALPHA:
        pairs = formatting.count(max(effect.n for effect in effects), "pair")
        of = f"{pairs} and {formatting.count(len(per.claims), 'arm')}"
        at_least = formatting.p_value(smallest)
        parts.append((f"With {of} no adjusted p can be smaller than {at_least}: the test cannot reject at {ALPHA}.",))
    if is_primary:
        parts += _whole_ablation(findings)
    return [part for part in parts if part != ("",)]


def _named(effects: list[Effect], *, other: bool) -> str:
    noun = "other arm" if other else "arm"
    return f"{formatting.count(len(effects), noun)} ({formatting.names([effect.arm for effect in effects])})"


def _without_cells(per: PerObjective, effects: list[Effect]) -> list[Effect]:
    """The effects without the cells of a factorial that has contrasts: the summary gives the contrasts instead."""
    if per.factorial is None or not per.factorial.contrasts:
        return effects
    cells = {cell.arm for cell in per.factorial.cells}
    return [effect for effect in effects if effect.arm not in cells]


def _split_for_sentences(effects: list[Effect], *, most: int) -> tuple[list[Effect], list[Effect], list[Effect]]:
    """(arms with a sentence each, arms whose interval holds 0, arms with one pair, so no interval). Of up to `most`
    arms all have a sentence, of more those whose interval excludes 0."""
    if len(effects) <= most:
        return effects, [], []
    clear = [effect for effect in effects if effect.difference.excludes_zero]
    rest = [effect for effect in effects if not effect.difference.excludes_zero]
    return clear, [effect for effect in rest if effect.n > 1], [effect for effect in rest if effect.n == 1]


def _whole_ablation(findings: Findings) -> list[tuple[Span, ...]]:
    """The ablation as a whole: contrasts, hypotheses, and what its p values are conditional on."""
    parts: list[tuple[Span, ...]] = []
    design = findings.primary.factorial
    if design is not None and design.contrasts:
        shown = [contrast for contrast in design.contrasts if contrast.p_holm <= ALPHA]
        of = f"Of {formatting.count(len(design.contrasts), 'contrast')} of the factorial design"
        names = "; ".join(f"{contrast.name} ({_signed(contrast.value.mean, contrast.value.sd)})" for contrast in shown)
        parts.append((f"{of} the declared test rejects {len(shown)}{': ' + names if shown else ''}.",))
    for judged in findings.judged:
        late = f" ({EXPLORATORY}, declared after results)" if judged.claim.hindsight else ""
        parts.append((f"Hypothesis \u201c{judged.claim.claim}\u201d{late}: {verdict_in_words(judged)}.",))
    for reached in findings.reached:
        late = f" ({EXPLORATORY}, declared after results)" if reached.claim.hindsight else ""
        parts.append((f"Hypothesis \u201c{reached.claim.claim}\u201d{late}: {reached.verdict}.",))
    if findings.sensitivity is None and findings.primary.claims:
        parts.append((NO_CONTROL,))
    if findings.data.tuned:
        parts.append(("All of this is conditional on one tuning of each arm.",))
    peeked = [effect.arm for effect in findings.primary.claims if effect.arm in findings.exploratory]
    if peeked:
        names = "all arms" if len(peeked) == len(findings.primary.claims) else formatting.names(peeked)
        why = f"The p values of {names} are exploratory ({EXPLORATORY}): the ablation's tables say why."
        parts.append((why,))
    return parts


def _signed(value: float, spread: float) -> str:
    return formatting.fixed(value, formatting.decimals_for(spread), sign=True)


def effect_in_words(effect: Effect, *, per: PerObjective) -> str:
    """One arm's sentence: the difference, its interval, the declared test, and the power where no effect is shown."""
    difference = effect.difference
    places = effect_decimals(effect)
    test = "exact p" if effect.n <= MAX_EXACT else "sign-flip p"
    tail = f"(n = {effect.n}, {test} {formatting.p_value(effect.p_exact)}, Holm {formatting.p_value(effect.p_holm)})"
    if effect.n < 2:
        value = formatting.fixed(difference.mean, places, sign=True)
        return f"{effect.arm} differs from the baseline by {value}{per.unit} on the one seed they share: no interval."
    span = formatting.interval(difference.low, difference.high, places, sign=True)
    if difference.excludes_zero:
        verb = "raises" if difference.above_zero else "lowers"
        size = formatting.fixed(abs(difference.mean), places)
        text = (
            f"Against the baseline, {effect.arm} {verb} {effect.metric} by {size}{per.unit}, 95% interval {span} {tail}"
        )
        return text + ("." if effect_is_shown(effect) else f"; the declared test does not reject at {ALPHA}.")
    value = formatting.fixed(difference.mean, places, sign=True)
    return (
        f"For {effect.arm} the difference in {effect.metric} is {value}{per.unit} and its 95% interval {span} holds 0 "
        f"{tail}: no effect is shown{_power(effect, per=per)}."
    )


def _power(effect: Effect, *, per: PerObjective) -> str:
    """Which true difference the tests find with power 0.8; "" where the declared test cannot reject."""
    if not effect.mde > 0 or effect.smallest_p_holm > ALPHA:
        return ""
    at = f"{ALPHA}/{len(per.claims)}" if len(per.claims) > 1 else str(ALPHA)
    size = formatting.fixed(effect.mde, effect_decimals(effect))
    text = f"; with power 0.8 a t test at {at} finds a true difference of {size}"
    if effect.mde_exact > 0:
        text += f", the declared test one of {formatting.fixed(effect.mde_exact, effect_decimals(effect))}"
    return text


def noise_in_words(effect: Effect, *, per: PerObjective) -> str:
    """An A/A arm's sentence. It differs from the baseline by chance alone."""
    places = effect_decimals(effect)
    span = formatting.interval(effect.difference.low, effect.difference.high, places, sign=True)
    value = formatting.fixed(effect.difference.mean, places, sign=True)
    text = f"The A/A arm {effect.arm}, which differs only in its random streams, differs in {effect.metric} by "
    text += f"{value}{per.unit}"
    if effect.n < 2:
        return f"{text} on the one seed they share: no interval yet."
    if effect.difference.excludes_zero:
        why = "one check in twenty does so by chance, more often a setting differs"
        return f"{text}, 95% interval {span}, which excludes 0: {why}."
    return f"{text}, 95% interval {span}: the noise."


def credit(findings: Findings, *, effect: Effect, objective: Objective) -> str:
    """Whether a gain between two kinds of memory may be credited to the memory; "" where no such gain is shown."""
    better = better_side(effect, objective=objective)
    if better is None or effect.metric not in LEARNED:
        return ""
    kinds = {side: findings.memory_of(side) for side in (BASELINE, effect.arm)}
    if kinds[BASELINE] == kinds[effect.arm]:
        return ""
    if kinds[better] in NO_BANK:
        return f"The better side of that comparison, {better}, has no memory to read."
    if kinds[better] in POSITIVE_CONTROLS:
        return f"The better side of that comparison, {better}, is a positive control: gradients train its memory."
    gain = f"The gain of {better}" if effect.declared_p <= ALPHA else f"The gain of {better}, if it is one,"
    bank = findings.bank_of(better)
    if bank is None:
        return f"{gain} is not credited to its memory: bank_use_nats was not measured."
    held = _bank_interval(bank)
    if bank.read:
        return f"{gain} may be credited to its memory: bank_use_nats is {held}, above 0."
    return f"{gain} is not credited to its memory: bank_use_nats is {held}, not above 0."


def _bank_interval(bank: BankUse) -> str:
    places = formatting.decimals_for(bank.use.sd)
    mean = formatting.fixed(bank.use.mean, places, sign=True)
    if bank.use.n < 2:
        return f"{mean} without an interval (one trial)"
    return f"{mean} {formatting.interval(bank.use.low, bank.use.high, places, sign=True)}"


def search_decimals(per: PerObjective) -> int:
    """Decimal places at which the search's best and worst trial differ visibly."""
    if per.best is None:
        return 3
    return max(
        formatting.decimals_for(abs(per.best.worst - per.best.value), digits=3), 2 if abs(per.best.value) < 100 else 0
    )


def effect_decimals(effect: Effect) -> int:
    """Decimal places that show the spread of an arm's differences."""
    return formatting.decimals_for(effect.difference.sd)
