"""What an ablation can show, before it is trained: its arms, its smallest p, and the smallest effect it can detect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from ablate import formatting
from ablate.analyze.basis.stats import detectable_effect, flip_detectable_effect
from ablate.records.locations import Place
from ablate.spec import declared_test, designs, distributions, tuning
from ablate.spec.models import StudySpec
from ablate.study import blocks, dataset, foresight
from ablate.study.blocks import Blocks
from ablate.study.foresight import Foresight
from ablate.trials import plan


@dataclass(frozen=True)
class ArmPlan:
    """An arm other than the baseline. `tokens`: its budget; None where it is not known yet (epochs, `match: wall`).

    `mde`: the minimum detectable effect: the true difference to the baseline that a t test finds with power 0.8, in the
    metric's unit. It comes from the spread of the differences over the `pairs` of seeds that this study has already;
    None below two pairs.
    """

    name: str
    design: designs.Design
    overrides: Mapping[str, Any]
    tokens: int | None
    mde: float | None
    pairs: int


@dataclass(frozen=True)
class Power:
    """An ablation before it runs. `smallest_p`: the smallest p of the sign-flip test with `seeds` pairs.
    `smallest_p_holm`: this times `family`, the number of arms that Holm corrects for (without A/A arms). `mde_sd`:
    minimum detectable effect in standard deviations of the paired differences (paired t test, power 0.8 at 0.05 /
    family); None with one seed. `control`: the positive control, which is not in `family` either. `hypotheses`:
    those whose spread is known, with the chances of their verdicts; `declared_hypotheses` counts all.
    `mde_sd_exact`: the same for the declared test at Holm's first step; None where it cannot reject, or with more
    seeds than are simulated. `tuning`: key -> range, for every key that is tuned."""

    baseline: str
    match: str
    seeds: tuple[int, ...]
    exploratory: bool
    metric: str
    unit: str
    smallest_p: float
    smallest_p_holm: float
    mde_sd: float | None
    mde_sd_exact: float | None
    family: int
    tuning: Mapping[str, Any]
    tuning_trials: int
    arms: tuple[ArmPlan, ...]
    control: str | None
    hypotheses: tuple[Foresight, ...]
    declared_hypotheses: int
    blocks: Blocks | None = None
    """Of sequential seeds; `seeds` and what follows from their number are then those of the last look."""

    @property
    def can_reject(self) -> bool:
        """Whether the declared test can reject for some arm."""
        return self.smallest_p_holm <= declared_test.ALPHA


def as_json(power: Power) -> dict[str, Any]:
    """The ablation in the dry run's JSON."""
    return {key: value for key, value in asdict(power).items() if key != "unit"}


def describe(spec: StudySpec, *, earlier: Place | None, pilot: Place | None = None) -> Power | None:
    """The study's ablation; None without one. `earlier`: the study's folder, where it exists already. `pilot`: the
    folder of another study, whose spread is used where this one has none yet. Raises BadInput where it has none."""
    ablation = spec.ablation
    if ablation is None:
        return None
    arms = designs.expand(ablation, spec.base)
    family, metric = designs.family(arms, control=ablation.control), spec.objectives[0].metric
    trials = None if earlier is None else dataset.read(earlier).trials
    budget, budgets = spec.trainer.description.budget, plan.budgets(spec, spec.base, tokens_per_s={})

    def arm_plan(arm: designs.Arm) -> ArmPlan:
        spread, pairs = (None, 0) if trials is None else _spread(trials, arm.name, metric)
        mde = (
            None
            if spread is None
            else detectable_effect(spread, n=ablation.seeds, alpha=_alpha(arm, family, ablation.control))
        )
        tokens = None if ablation.match == "wall" else spec.base.budget
        if arm.name in budgets and budget in budgets[arm.name]:
            tokens = budgets[arm.name][budget]
        return ArmPlan(arm.name, arm.design, arm.overrides, tokens, _number(mde), pairs)

    tune = ablation.tune_each_arm
    space = tuning.space(tune, spec.base, spec.search) if tune else {}
    return Power(
        baseline=ablation.baseline,
        match=ablation.match,
        seeds=tuple(plan.seeds(spec)),
        exploratory=ablation.exploratory,
        metric=metric,
        unit=spec.trainer.description.unit(metric),
        smallest_p=declared_test.smallest_p(ablation.seeds),
        smallest_p_holm=declared_test.smallest_p_holm(seeds=ablation.seeds, arms=family),
        mde_sd=_number(detectable_effect(1.0, n=ablation.seeds, alpha=declared_test.ALPHA / family)),
        mde_sd_exact=_number(flip_detectable_effect(1.0, n=ablation.seeds, alpha=declared_test.ALPHA / family)),
        family=family,
        tuning={key: distributions.as_written(found) for key, found in space.items()},
        tuning_trials=tune.trials if tune else 0,
        arms=tuple(arm_plan(arm) for arm in arms),
        control=ablation.control,
        hypotheses=foresight.describe(spec, own=trials, pilot=pilot),
        declared_hypotheses=len(spec.hypotheses),
        blocks=blocks.describe(spec),
    )


def lines(power: Power) -> list[str]:
    """The ablation as lines for a terminal."""
    unit = power.unit
    arms = formatting.count(len(power.arms), "arm")
    rows = [
        [
            arm.name,
            arm.design,
            formatting.parameters(arm.overrides),
            len(power.seeds),
            "not known yet" if arm.tokens is None else f"{arm.tokens:,}",
            "" if arm.mde is None else f"{arm.mde:.3g} (from {formatting.count(arm.pairs, 'pair')})",
        ]
        for arm in power.arms
    ]
    detectable = f"detectable {power.metric}" + (f", {unit}" * bool(unit)) + " (t test)"
    headers = ["arm", "design", "overrides", "seeds", "tokens", detectable]
    found = [
        f"ablation: {arms} against the baseline ({power.baseline}) on seeds {power.seeds[0]} to {power.seeds[-1]},"
        f" compared at equal {power.match}",
        *(
            ["best: the search's winner; until there is one, the plan uses the study's base"]
            * (power.baseline == "best")
        ),
        "",
        tabulate(rows, headers=headers, disable_numparse=True),
        "",
        f"smallest p of the declared test ({_test(len(power.seeds))}): {power.smallest_p:.3g},"
        f" {power.smallest_p_holm:.3g} by Holm over {formatting.count(power.family, 'arm')}"
        f"{'' if power.can_reject else ': it cannot reject; exploratory'}",
        f"positive control: {power.control}, outside of Holm's family"
        if power.control
        else "positive control: none, so a missing difference will say nothing (ablation.control names one)",
    ]
    if power.mde_sd is not None:
        found.append(
            f"minimum detectable effect: {power.mde_sd:.3g} standard deviations of the paired differences"
            f" (t test, power 0.8 at 0.05 / {power.family})"
            + ("" if power.mde_sd_exact is None else f", {power.mde_sd_exact:.3g} by the declared test")
        )
    found += blocks.lines(power.blocks) if power.blocks else []
    for key, distribution in power.tuning.items():
        (kind, bounds), *_ = distribution.items()
        shown = f"[{', '.join(map(distributions.bound, bounds))}]"
        found.append(f"tuned first, {power.tuning_trials} trials for each arm and the baseline: {key} {kind} {shown}")
    chances = foresight.lines(power.hypotheses, seeds=len(power.seeds), hypotheses=power.declared_hypotheses)
    return [*found, *([""] * bool(chances)), *chances]


def _test(seeds: int) -> str:
    return (
        f"sign-flip, {declared_test.DRAWS:,} patterns drawn" if seeds > declared_test.MAX_EXACT else "exact sign-flip"
    )


def _spread(trials: pd.DataFrame, arm: str, metric: str) -> tuple[float | None, int]:
    """Standard deviation of (arm - baseline) over the seeds on which both completed, and the number of these seeds."""
    differences = foresight.differences(trials, arm, metric)
    return (float(differences.std(ddof=1)) if len(differences) > 1 else None), len(differences)


def _alpha(arm: designs.Arm, family: int, control: str | None) -> float:
    return declared_test.ALPHA / (1 if arm.design == "reseed" or arm.name == control else family)


def _number(value: float | None) -> float | None:
    """None instead of NaN, which JSON lacks."""
    return None if value is None or np.isnan(value) else value
