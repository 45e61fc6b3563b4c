"""Budgets of matched arms: `match` says what an arm has the same of as the baseline. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from ablate.errors import ParameterError
from ablate.spec.models import Match
from ablate.trainers import Config

PARAMETER_TOLERANCE = 0.02
"""Under `match: params` or `total_params` an arm's parameters may differ from the baseline's by this share."""

CALIBRATION_SHARE, CALIBRATION_REPORTS = 0.05, 6
"""A calibration trains for this share of the budget, but at least for so many reports."""


def budget_for_flops(baseline: Config, arm: Config) -> int:
    """The budget at which the arm's FLOPs, by the trainer's formula, equal the baseline's."""
    control, own = baseline.cost, arm.cost
    assert control.budget is not None, "a study that matches FLOPs has its budget in the trainer's unit"
    assert control.flops_per_token is not None, "the reader asks whether the trainer says its FLOPs"
    assert own.flops_per_token is not None, "as the baseline's"
    return max(1, round(control.budget * control.flops_per_token / own.flops_per_token))


def budget_for_speed(baseline: Config, *, baseline_tokens_per_s: float, arm_tokens_per_s: float) -> int:
    """The budget at which the arm trains as long as the baseline, both at their measured speeds."""
    assert baseline.budget is not None, "a study that matches time has its budget in the trainer's unit"
    return max(1, round(baseline.budget * arm_tokens_per_s / baseline_tokens_per_s))


def calibration_budget(config: Config) -> int:
    """The budget of a calibration trial."""
    assert config.budget is not None, "a study that matches time has its budget in the trainer's unit"
    reports = config.trainer.calibration_budget(config, reports=CALIBRATION_REPORTS)
    return min(config.budget, max(reports, math.ceil(CALIBRATION_SHARE * config.budget)))


def speed(tokens_per_s: Sequence[float]) -> float:
    """Tokens/s of a calibration, from those of its reports: the median without the first, which has cold caches and
    allocates buffers. A median ignores the moments in which another process slowed the machine."""
    return statistics.median(tokens_per_s[1:] or tokens_per_s)


def size(config: Config, match: Match) -> int:
    """The parameters that `match` is about. Raises ParameterError where the trainer does not say how many they are."""
    found = config.cost.active_parameters if match == "params" else config.cost.parameters
    if found is None:
        rule = "the trainer does not say how many parameters it trains"
        raise ParameterError("ablation.match", match, rule, "match tokens")
    return found


def same_size(baseline: Config, arm: Config, match: Match) -> bool:
    """Whether the arm has as many parameters as the baseline, within PARAMETER_TOLERANCE."""
    control = size(baseline, match)
    return abs(size(arm, match) - control) <= PARAMETER_TOLERANCE * control
