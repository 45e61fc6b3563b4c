"""What an arm's difference costs: time and FLOPs of a run, and the difference for each hour and each PFLOP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import Effect
from ablate.analyze.basis.frames import completed, floats, of_arm
from ablate.spec.designs import BASELINE

PFLOP = 1e15


@dataclass(frozen=True)
class CostEffectiveness:
    """The completed runs of one group. `hours`, `pflop`: means over its runs; `*_ratio`: these over the baseline's.

    `per_hour` and `per_pflop`: the arm's difference to the baseline over the cost of one of its runs; NaN for the
    baseline. FLOPs are the trainer's formula, forward and backward, times the tokens seen; NaN where unknown.
    """

    group: str
    n: int
    hours: float
    pflop: float
    hours_ratio: float
    pflop_ratio: float
    per_hour: float
    per_pflop: float


def cost_effectiveness(
    trials: pd.DataFrame, *, effects: Sequence[Effect], flops_per_token: Mapping[str, float]
) -> list[CostEffectiveness]:
    """The baseline, then every arm with a pair. `flops_per_token`: recorded configuration -> FLOPs."""
    control = _costs(trials, BASELINE, flops_per_token)
    found = [_cost_effectiveness(BASELINE, control, control, difference=math.nan)]
    for effect in effects:
        if effect.n:
            own = _costs(trials, effect.arm, flops_per_token)
            found.append(_cost_effectiveness(effect.arm, own, control, difference=effect.difference.mean))
    return [entry for entry in found if entry.n]


def _costs(trials: pd.DataFrame, group: str, flops_per_token: Mapping[str, float]) -> tuple[int, float, float]:
    """(number, mean hours, mean PFLOP) of a group's completed runs."""
    runs = completed(of_arm(trials, group))
    if runs.empty:
        return 0, math.nan, math.nan
    # A group's runs differ only in their seed, so all have the FLOPs of the first configuration.
    per_token = flops_per_token.get(str(runs["config_json"].iloc[0]), math.nan)
    return (
        len(runs),
        float(np.mean(floats(runs, "wall_s"))) / 3600,
        per_token * float(np.mean(floats(runs, "tokens_seen"))) / PFLOP,
    )


def _cost_effectiveness(
    group: str, own: tuple[int, float, float], control: tuple[int, float, float], *, difference: float
) -> CostEffectiveness:
    n, hours, pflop = own
    return CostEffectiveness(
        group=group,
        n=n,
        hours=hours,
        pflop=pflop,
        hours_ratio=_ratio(hours, control[1]),
        pflop_ratio=_ratio(pflop, control[2]),
        per_hour=_ratio(difference, hours),
        per_pflop=_ratio(difference, pflop),
    )


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 else math.nan
