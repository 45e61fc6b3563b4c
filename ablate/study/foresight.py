"""What a study's hypotheses can end as, before it is trained: the chance of each verdict, from an earlier spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tabulate import tabulate

from ablate import formatting
from ablate.analyze.arms.paired import arm_names, by_seed, pairs_of
from ablate.analyze.arms.simulated_power import (
    MOST_SEEDS,
    POWER,
    STUDIES,
    Chances,
    Plan,
    TargetPlan,
    chances,
    seeds_for,
    seeds_for_target,
    target_power,
)
from ablate.errors import BadInput
from ablate.records.locations import Place
from ablate.spec.designs import BASELINE
from ablate.spec.models import Hypothesis, Objective, StudySpec
from ablate.study import dataset

FEWEST = 3
"""Pairs, or runs, below which a spread is not used."""

GAINS = {"zero": 0.0, "min_effect": 1.0, "twice": 2.0}
"""True gains for which chances are given, in multiples of min_effect."""

HOW = "the chances of the verdicts are not known: no earlier pairs; `--pilot STUDY` takes their spread from a study"


@dataclass(frozen=True)
class Spread:
    """A standard deviation, of `n` paired differences or runs, and where it is from, in words."""

    sd: float
    n: int
    source: str


@dataclass(frozen=True)
class Foresight:
    """One hypothesis before the study runs. `chances`: of the verdicts, for each true gain of GAINS. `seeds_needed`:
    the fewest seeds, up to 100, that support it with power 0.8 where the true gain is twice min_effect; None where they
    do not suffice.

    Of a claim about a target `chances` is empty; `margin` is how much better than the target the mean is taken to be:
    what the pilot's runs of the arm show, or else one standard deviation; `power` is the chance of `supported` then and
    `seeds_needed` the fewest seeds for 0.8.
    """

    claim: str
    arm: str
    metric: str
    min_effect: float | None
    target: float | None
    spread: Spread
    chances: dict[str, Chances]
    margin: float | None
    power: float | None
    seeds_needed: int | None


@dataclass(frozen=True)
class Earlier:
    """Results that a spread may come from. `name`: in words, as in `arm a of NAME`."""

    name: str
    trials: pd.DataFrame


def describe(spec: StudySpec, *, own: pd.DataFrame | None, pilot: Place | None) -> tuple[Foresight, ...]:
    """Every hypothesis whose spread is known, from this study's own earlier results, else from the pilot's. Raises
    BadInput where a pilot is given and no hypothesis can use it."""
    sources = [Earlier("this study", own)] if own is not None else []
    if pilot is not None:
        if not spec.hypotheses:
            raise BadInput("--pilot", "", pilot.name, "the study has no hypotheses to plan for", "leave it out")
        sources.append(Earlier(f"study {pilot.name}", dataset.read(pilot, whole=False).trials))
    gains = _known(spec.hypotheses, lambda claim: paired_spread(sources, claim) if claim.target is None else None)
    targets = _known(spec.hypotheses, lambda claim: None if claim.target is None else run_spread(sources, claim))
    if pilot is not None and not gains and not targets:
        metrics = formatting.names(list(dict.fromkeys(claim.metric for claim in spec.hypotheses)))
        rule = f"no arm of it has {FEWEST} pairs that differ in {metrics}"
        raise BadInput("--pilot", "", pilot.name, rule, "name a study whose arms have these metrics")
    assert spec.ablation is not None, "hypotheses are about arms"
    # Hypotheses without a spread count in the family, so that the others are not planned too well.
    missing = sum(claim.target is None for claim in spec.hypotheses) - len(gains)
    aimed = sum(claim.target is not None for claim in spec.hypotheses)
    found = _gains(gains, seeds=spec.ablation.seeds, missing=missing)
    maximised = spec.trainer.description.maximised
    found += [
        _target(claim, spread, sources, seeds=spec.ablation.seeds, targets=aimed, more=claim.metric in maximised)
        for claim, spread in targets
    ]
    return tuple(found)


def paired_spread(sources: Sequence[Earlier], claim: Hypothesis) -> Spread | None:
    """The spread of an arm's paired differences: that of the arm itself where a source has it, else the largest of the
    last source's arms, so that a plan does not promise too much."""
    for source in sources:
        if found := _spread(differences(source.trials, claim.arm, claim.metric), "pair", claim.arm, source):
            return found
    if not sources or sources[-1].name == "this study":
        return None
    others = [
        _spread(differences(sources[-1].trials, arm, claim.metric), "pair", arm, sources[-1])
        for arm in arm_names(sources[-1].trials)
    ]
    return max((found for found in others if found), key=lambda found: found.sd, default=None)


def run_spread(sources: Sequence[Earlier], claim: Hypothesis) -> Spread | None:
    """The spread of an arm's own runs, or of the baseline's where no source has the arm."""
    for arm in (claim.arm, BASELINE):
        for source in sources:
            if found := _spread(_runs(source.trials, arm, claim.metric), "run", arm, source):
                return found
    return None


def lines(found: Sequence[Foresight], *, seeds: int, hypotheses: int) -> list[str]:
    """The chances as lines for a terminal; one line that says how to get them where there are none."""
    if not hypotheses:
        return []
    if not found:
        return [HOW]
    rows = [
        [entry.claim, entry.arm, entry.metric, f"{gain * (entry.min_effect or 0):g}", *_percent(entry.chances[name])]
        for entry in found
        for name, gain in GAINS.items()
        if entry.chances
    ]
    headers = ["hypothesis", "arm", "metric", "true gain", "supported", "equivalent", "refuted", "inconclusive"]
    said = (
        f"chances of the verdicts with {formatting.count(seeds, 'seed')} ({STUDIES} simulated studies, judged as the "
        "report does, at a true gain of zero, min_effect and twice min_effect):"
    )
    table = [said, "", tabulate(rows, headers=headers, disable_numparse=True), ""] if rows else []
    left_out = hypotheses - len(found)
    more = f"{left_out} of {hypotheses} hypotheses have no such spread: {HOW}"
    return [*table, *map(_needed, found), *([more] if left_out else [])]


def _needed(entry: Foresight) -> str:
    spread = f"{entry.arm}: a spread of {entry.spread.sd:.3g} ({entry.spread.source})"
    enough = "more than " * (entry.seeds_needed is None) + formatting.count(entry.seeds_needed or MOST_SEEDS, "seed")
    if entry.target is None:
        return f"{spread}; {enough} for {POWER:.0%} supported at twice min_effect"
    at = f"where the mean is {entry.margin:.3g} better than the target {entry.target:g}"
    return f"{spread}; supported by {entry.power:.0%} {at}, and {enough} for {POWER:.0%}"


def _percent(found: Chances) -> list[str]:
    return [f"{share:.0%}" for share in (found.supported, found.equivalent, found.refuted, found.inconclusive)]


def _known(
    hypotheses: Sequence[Hypothesis], spread_of: Callable[[Hypothesis], Spread | None]
) -> list[tuple[Hypothesis, Spread]]:
    return [(claim, spread) for claim in hypotheses if (spread := spread_of(claim)) is not None]


def _gains(known: Sequence[tuple[Hypothesis, Spread]], *, seeds: int, missing: int) -> list[Foresight]:
    plans = [Plan(claim.min_effect or 0.0, spread.sd) for claim, spread in known]
    if not plans:
        return []
    family = [*plans, *[plans[0]] * missing]
    by_gain = {name: chances(family, seeds=seeds, gain=gain) for name, gain in GAINS.items()}
    needed = seeds_for(family, gain=GAINS["twice"])
    return [
        Foresight(
            claim=claim.claim,
            arm=claim.arm,
            metric=claim.metric,
            min_effect=claim.min_effect,
            target=None,
            spread=spread,
            chances={name: found[index] for name, found in by_gain.items()},
            margin=None,
            power=None,
            seeds_needed=needed[index],
        )
        for index, (claim, spread) in enumerate(known)
    ]


def _target(
    claim: Hypothesis, spread: Spread, sources: Sequence[Earlier], *, seeds: int, targets: int, more: bool
) -> Foresight:
    assert claim.target is not None
    plan = TargetPlan(spread.sd, claim.alpha / targets)
    runs = [values for source in sources if len(values := _runs(source.trials, claim.arm, claim.metric)) >= FEWEST]
    shown = (float(runs[0].mean()) - claim.target) * (1 if more else -1) if runs else 0.0
    margin = shown if shown > 0 else spread.sd
    return Foresight(
        claim=claim.claim,
        arm=claim.arm,
        metric=claim.metric,
        min_effect=None,
        target=claim.target,
        spread=spread,
        chances={},
        margin=margin,
        power=target_power(plan, seeds=seeds, margin=margin),
        seeds_needed=seeds_for_target(plan, margin=margin),
    )


def differences(trials: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    """Arm minus baseline, over the seeds on which both completed."""
    pairs = pairs_of(trials, arm, objective=Objective(metric=metric, mode="min"))
    return pairs.arm - pairs.baseline


def _runs(trials: pd.DataFrame, arm: str, metric: str) -> np.ndarray:
    values = np.array(list(by_seed(trials, arm, Objective(metric=metric, mode="min")).values()), dtype=float)
    return values[np.isfinite(values)]


def _spread(values: np.ndarray, noun: str, arm: str, source: Earlier) -> Spread | None:
    """None below FEWEST values, and where they are all equal."""
    sd = float(values.std(ddof=1)) if len(values) >= FEWEST else 0.0
    return (
        Spread(sd, len(values), f"{formatting.count(len(values), noun)} of {arm} in {source.name}") if sd > 0 else None
    )
