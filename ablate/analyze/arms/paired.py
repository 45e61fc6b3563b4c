"""What an arm of an ablation changes: the paired difference to the baseline on the same seeds.

The declared test is the exact sign-flip test, adjusted by Holm over the study's arms; the t interval and the t test's p
are given in addition. A pair is dropped and counted where both runs have ended and one has no value; it is pending
where only one has ended. An A/A arm (the baseline on other random streams) and the positive control (an arm whose
effect is known) are checks, not claims: they are measured like an arm but are not in Holm's family.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import texts
from ablate.analyze.basis.pairs import Pairs, align, by_seed
from ablate.analyze.basis.stats import (
    Interval,
    detectable_effect,
    flip_detectable_effect,
    holm,
    paired_t_p,
    sign_flip_p,
    t_interval,
)
from ablate.spec.declared_test import ALPHA, smallest_p_holm
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Effect:
    """One arm against the baseline, in the objective's unit, over the seeds that both have.

    `arm_values`, `baseline_values`: mean, spread and t interval of each side over those seeds; `difference`: of arm -
    baseline. `mde`: the true difference that a t test at 0.05 / arms finds with power 0.8; `mde_exact`: the same for
    the declared test, NaN where it cannot reject or was not simulated. `dropped`: seeds on which both runs have ended
    and one has no value; `pending`: seeds on which only one has ended. `smallest_p_holm`: the smallest adjusted p that
    an arm can reach at this n. `check`: an A/A arm; `control`: the positive control. Of both `p_holm` and
    `smallest_p_holm` are NaN, and the `mde` is at 0.05.
    """

    arm: str
    metric: str
    arm_values: Interval
    baseline_values: Interval
    difference: Interval
    p: float
    p_exact: float
    p_holm: float
    mde: float
    mde_exact: float
    dropped: int
    pending: int
    smallest_p_holm: float
    check: bool = False
    control: bool = False

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.difference.n

    @property
    def declared_p(self) -> float:
        """The p by which the declared test judges the arm: adjusted, but for the positive control; NaN for an A/A arm,
        which is not judged."""
        return self.p_exact if self.control else self.p_holm


def arm_names(trials: pd.DataFrame, *, declared: Sequence[str] = ()) -> list[str]:
    """All arms but the baseline: the declared ones in their order, then those that only the results have."""
    found = [arm for arm in dict.fromkeys(texts(trials, "arm")) if arm not in (BASELINE, SEARCH)]
    return list(dict.fromkeys([*declared, *found]))


def effects(
    trials: pd.DataFrame,
    *,
    objective: Objective,
    declared: Sequence[str] = (),
    checks: Collection[str] = (),
    control: str | None = None,
) -> list[Effect]:
    """Every arm's effect on one objective. Holm's family is all arms, also those without a pair, but not `checks`, the
    A/A arms, nor `control`, the positive control."""
    names = arm_names(trials, declared=declared)
    outside = {*checks, control}
    family = sum(name not in outside for name in names)
    baseline = by_seed(trials, BASELINE, objective)
    raw = [
        _effect(
            name, objective, align(baseline, by_seed(trials, name, objective)), family=1 if name in outside else family
        )
        for name in names
    ]
    claims = iter(holm([effect.p_exact for effect in raw if effect.arm not in outside]))
    return [
        replace(effect, check=effect.arm in checks, control=effect.arm == control, smallest_p_holm=np.nan)
        if effect.arm in outside
        else replace(effect, p_holm=next(claims))
        for effect in raw
    ]


def pairs_of(trials: pd.DataFrame, arm: str, *, objective: Objective) -> Pairs:
    """An arm's runs paired with the baseline's."""
    return align(by_seed(trials, BASELINE, objective), by_seed(trials, arm, objective))


def _effect(arm: str, objective: Objective, pairs: Pairs, *, family: int) -> Effect:
    differences = pairs.arm - pairs.baseline
    difference, n = t_interval(differences), len(differences)
    return Effect(
        arm=arm,
        metric=objective.metric,
        arm_values=t_interval(pairs.arm),
        baseline_values=t_interval(pairs.baseline),
        difference=difference,
        p=paired_t_p(differences),
        p_exact=sign_flip_p(differences),
        p_holm=np.nan,
        mde=detectable_effect(difference.sd, n=n, alpha=ALPHA / family),
        mde_exact=flip_detectable_effect(difference.sd, n=n, alpha=ALPHA / family),
        dropped=pairs.dropped,
        pending=pairs.pending,
        smallest_p_holm=smallest_p_holm(seeds=n, arms=family) if n else np.nan,
    )
