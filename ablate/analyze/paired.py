"""What an arm of an ablation changes: the paired difference to the baseline on the same seeds.

The declared test is the exact sign-flip test, with Holm over the study's arms; the t interval and the t test's p stand
beside it. A seed where either run has no value is dropped as a pair, and counted. An A/A arm (the baseline on other
random streams) is a check and no claim: it is measured like an arm and is not of Holm's family.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ablate.analyze.best import Objective
from ablate.analyze.frames import floats, of_arm, texts
from ablate.analyze.stats import (
    Interval,
    detectable_effect,
    holm,
    paired_t_p,
    sign_flip_p,
    smallest_exact_p,
    t_interval,
)

BASELINE = "baseline"
SEARCH = "search"
TUNING = "tune."  # prefix of an arm's tuning trials: what chose an arm's learning rate is no run of it
ALPHA = 0.05


@dataclass(frozen=True)
class Effect:
    """One arm against the baseline, in the objective's unit, over the seeds that both have.

    `arm_values` and `baseline_values`: mean, spread and t interval of either side over those seeds. `difference`: of
    arm - baseline. `mde`: the true difference found with power 0.8 at 0.05 / arms. `dropped`: seeds that only one side
    has. `smallest_p_holm`: what the smallest of the arms' adjusted p values could be at this n. `check`: an A/A arm,
    whose `p_holm` and `smallest_p_holm` are NaN and whose `mde` is at 0.05.
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
    dropped: int
    smallest_p_holm: float
    check: bool = False

    @property
    def n(self) -> int:
        """Pairs."""
        return self.difference.n


def arm_names(trials: pd.DataFrame, *, declared: Sequence[str] = ()) -> list[str]:
    """The arms other than the baseline: the declared ones in their order, then any that only the results have."""
    found = [arm for arm in dict.fromkeys(texts(trials, "arm")) if arm not in (BASELINE, SEARCH)]
    return [arm for arm in dict.fromkeys([*declared, *found]) if not arm.startswith(TUNING)]


def effects(
    trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = (), checks: Collection[str] = ()
) -> list[Effect]:
    """Every arm's effect on one objective, p values adjusted over all of them, arms without a pair included.

    `checks`: the A/A arms, which stand outside of the family.
    """
    names = arm_names(trials, declared=declared)
    family = sum(name not in checks for name in names)
    raw = [_effect(trials, name, objective, family=1 if name in checks else family) for name in names]
    claims = iter(holm([effect.p_exact for effect in raw if effect.arm not in checks]))
    return [
        replace(effect, check=True, smallest_p_holm=np.nan)
        if effect.arm in checks
        else replace(effect, p_holm=next(claims))
        for effect in raw
    ]


def pairs_of(trials: pd.DataFrame, arm: str, *, objective: Objective) -> pd.DataFrame:
    """A row a seed that either side has, columns `baseline` and `arm`: the objective, NaN for a run without a value."""
    sides = {BASELINE: by_seed(trials, BASELINE, objective), "arm": by_seed(trials, arm, objective)}
    return pd.DataFrame(sides).sort_index()


def by_seed(trials: pd.DataFrame, arm: str, objective: Objective) -> pd.Series:
    """The objective of an arm's ended runs, indexed by seed; NaN for a run that did not complete."""
    runs = of_arm(trials, arm)
    ended = np.array(texts(runs, "status")) == "completed"
    return pd.Series(np.where(ended, floats(runs, objective.metric), np.nan), index=floats(runs, "seed"))


def _effect(trials: pd.DataFrame, arm: str, objective: Objective, *, family: int) -> Effect:
    table = pairs_of(trials, arm, objective=objective)
    pairs = table.dropna()
    control_values, treated_values = floats(pairs, BASELINE), floats(pairs, "arm")
    differences = treated_values - control_values
    difference = t_interval(differences)
    return Effect(
        arm=arm,
        metric=objective.metric,
        arm_values=t_interval(treated_values),
        baseline_values=t_interval(control_values),
        difference=difference,
        p=paired_t_p(differences),
        p_exact=sign_flip_p(differences),
        p_holm=np.nan,
        mde=detectable_effect(difference.sd, n=len(pairs), alpha=ALPHA / family),
        dropped=len(table) - len(pairs),
        smallest_p_holm=min(1.0, family * smallest_exact_p(len(pairs))) if len(pairs) else np.nan,
    )
