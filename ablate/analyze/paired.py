"""What an arm of an ablation changes: the paired difference to the baseline on the same seeds.

The declared test is the exact sign-flip test, with Holm over the study's arms; the t interval and the t test's p stand
beside it. A seed where either run has no value is dropped as a pair, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
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
ALPHA = 0.05


@dataclass(frozen=True)
class Effect:
    """One arm against the baseline, in the objective's unit, over the seeds that both have.

    `arm_values` and `baseline_values`: mean, spread and t interval of either side over those seeds. `difference`: of
    arm - baseline. `mde`: the true difference found with power 0.8 at 0.05 / arms. `dropped`: seeds that only one side
    has. `smallest_p_holm`: what the smallest of the arms' adjusted p values could be at this n.
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

    @property
    def n(self) -> int:
        """Pairs."""
        return self.difference.n


def arm_names(trials: pd.DataFrame, *, declared: Sequence[str] = ()) -> list[str]:
    """The arms other than the baseline: the declared ones in their order, then any that only the results have."""
    found = [arm for arm in dict.fromkeys(texts(trials, "arm")) if arm not in (BASELINE, SEARCH)]
    return list(dict.fromkeys([*declared, *found]))


def effects(trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = ()) -> list[Effect]:
    """Every arm's effect on one objective, p values adjusted over all of them, arms without a pair included."""
    arms = arm_names(trials, declared=declared)
    control = _by_seed(trials, BASELINE, objective)
    raw = [_effect(arm, control, _by_seed(trials, arm, objective), objective, family=len(arms)) for arm in arms]
    adjusted = holm([effect.p_exact for effect in raw])
    return [replace(effect, p_holm=p_holm) for effect, p_holm in zip(raw, adjusted, strict=True)]


def _by_seed(trials: pd.DataFrame, arm: str, objective: Objective) -> pd.Series:
    """The objective of an arm's ended runs, indexed by seed; NaN for a run that did not complete."""
    runs = of_arm(trials, arm)
    ended = np.array(texts(runs, "status")) == "completed"
    return pd.Series(np.where(ended, floats(runs, objective.metric), np.nan), index=floats(runs, "seed"))


def _effect(arm: str, control: pd.Series, treated: pd.Series, objective: Objective, *, family: int) -> Effect:
    table = pd.DataFrame({"control": control, "treated": treated}).sort_index()  # rows: seeds of either
    pairs = table.dropna()
    control_values, treated_values = floats(pairs, "control"), floats(pairs, "treated")
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
