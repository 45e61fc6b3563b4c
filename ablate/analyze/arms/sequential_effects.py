"""The effects and gains of a study with sequential seeds: intervals and adjusted p values that hold over the looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import Effect
from ablate.analyze.arms.sequential import Values, Walk, arm_p, smallest_arm_p
from ablate.analyze.basis.pairs import by_seed
from ablate.analyze.basis.stats import Interval, holm, t_interval
from ablate.spec.designs import BASELINE
from ablate.spec.models import Objective


def over_looks(
    effects: Sequence[Effect], trials: pd.DataFrame, *, objective: Objective, walk: Walk | None
) -> list[Effect]:
    """The effects with repeated intervals, and with Holm's correction over sequential p values; as they are without
    looks. Those of checks stay (A/A arms and the positive control): they are
    not decided by looks."""
    if walk is None:
        return list(effects)
    tested = [effect for effect in effects if not (effect.check or effect.control)]
    values = values_of(trials, [effect.arm for effect in tested], objective=objective)
    adjusted = holm([arm_p(values, effect.arm, walked=walk) for effect in tested])
    by_arm = dict(zip([effect.arm for effect in tested], adjusted, strict=True))
    return [
        effect
        if effect.check or effect.control
        else replace(
            effect,
            difference=repeated(_differences(values, effect.arm), arm=effect.arm, walk=walk),
            p_holm=by_arm[effect.arm],
            smallest_p_holm=min(1.0, len(tested) * smallest_arm_p(effect.arm, walked=walk)),
        )
        for effect in effects
    ]


def values_of(trials: pd.DataFrame, arms: Sequence[str], *, objective: Objective) -> Values:
    """The ended runs of the baseline and these arms."""
    return {arm: by_seed(trials, arm, objective) for arm in (BASELINE, *arms)}


def repeated(differences: np.ndarray, *, arm: str, walk: Walk, family: int = 1) -> Interval:
    """The 95% repeated interval: all of an arm's intervals, one at each look, hold the true difference together with
    this probability; with a `family` of several intervals, all of these together."""
    return t_interval(differences, level=walk.confidence(arm, family=family))


def _differences(values: Values, arm: str) -> np.ndarray:
    both = sorted(values[BASELINE].keys() & values[arm].keys())
    return np.array([values[arm][seed] - values[BASELINE][seed] for seed in both], dtype=float)
