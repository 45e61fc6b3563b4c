"""What arms have the same of: `match` says how much of an arm equals how much of the baseline. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ablate.trainers import Config

PARAMETER_TOLERANCE = 0.02
"""Under `match: params` an arm's active parameters may differ from the baseline's by so much of them."""

CALIBRATION_SHARE, CALIBRATION_REPORTS = 0.05, 6
"""A calibration trains for a share of the budget, and for so many reports at least."""


def budget_for_flops(baseline: Config, arm: Config) -> int:
    """The arm's budget with which its FLOPs, by the trainer's formula, equal the baseline's."""
    control, own = baseline.cost, arm.cost
    assert control.budget is not None, "a study that matches FLOPs has its budget in the trainer's unit"
    return max(1, round(control.budget * control.flops_per_token / own.flops_per_token))


def budget_for_speed(baseline: Config, *, baseline_tokens_per_s: float, arm_tokens_per_s: float) -> int:
    """The arm's budget with which it trains as long as the baseline does, both at their measured speeds."""
    assert baseline.budget is not None, "a study that matches time has its budget in the trainer's unit"
    return max(1, round(baseline.budget * arm_tokens_per_s / baseline_tokens_per_s))


def calibration_budget(config: Config) -> int:
    """How long a run trains whose speed is measured."""
    assert config.budget is not None, "a study that matches time has its budget in the trainer's unit"
    reports = config.trainer.calibration_budget(config, reports=CALIBRATION_REPORTS)
    return min(config.budget, max(reports, math.ceil(CALIBRATION_SHARE * config.budget)))


def speed(tokens_per_s: Sequence[float]) -> float:
    """Tokens/s of a calibration, of what each of its reports measured: the median without the first, in which caches
    were cold and buffers allocated. Another process's moment on the machine moves a mean, and no median."""
    return statistics.median(tokens_per_s[1:] or tokens_per_s)


def as_large(baseline: Config, arm: Config) -> bool:
    """Whether the arm has as many active parameters as the baseline, within PARAMETER_TOLERANCE."""
    control = baseline.cost.active_parameters
    return abs(arm.cost.active_parameters - control) <= PARAMETER_TOLERANCE * control
