"""What arms have the same of: `match` says how much of an arm equals how much of the baseline. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from model.api import Config, estimate

PARAMETER_TOLERANCE = 0.02
"""Under `match: params` an arm's active parameters may differ from the baseline's by so much of them."""

CALIBRATION_SHARE, CALIBRATION_REPORTS = 0.05, 6
"""A calibration trains for a share of the budget, and for so many reports at least."""


def tokens_for_flops(baseline: Config, arm: Config) -> int:
    """The arm's budget with which its FLOPs, by formula (`model.api.estimate`), equal the baseline's."""
    control, own = estimate(baseline), estimate(arm)
    assert control.budget_tokens is not None, "a study that matches FLOPs has its budget in tokens"
    return max(1, round(control.budget_tokens * control.flops_per_token / own.flops_per_token))


def tokens_for_speed(baseline: Config, *, baseline_tokens_per_s: float, arm_tokens_per_s: float) -> int:
    """The arm's budget with which it trains as long as the baseline does, both at their measured speeds."""
    assert baseline.train.tokens is not None, "a study that matches time has its budget in tokens"
    return max(1, round(baseline.train.tokens * arm_tokens_per_s / baseline_tokens_per_s))


def calibration_tokens(config: Config) -> int:
    """How long a run trains whose speed is measured."""
    train = config.train
    assert train.tokens is not None, "a study that matches time has its budget in tokens"
    between = max(train.report_every, train.accumulation_steps)  # a report comes with an update
    reports = CALIBRATION_REPORTS * between * train.batch_size * config.model.max_seq_len
    return min(train.tokens, max(reports, math.ceil(CALIBRATION_SHARE * train.tokens)))


def speed(tokens_per_s: Sequence[float]) -> float:
    """Tokens/s of a calibration, of what each of its reports measured: the median without the first, in which caches
    were cold and buffers allocated. Another process's moment on the machine moves a mean, and no median."""
    return statistics.median(tokens_per_s[1:] or tokens_per_s)


def active_parameters(config: Config) -> int:
    """Trained parameters that every token meets, the embedding table left out."""
    return estimate(config).active_parameters


def as_large(baseline: Config, arm: Config) -> bool:
    """Whether the arm has as many active parameters as the baseline, within PARAMETER_TOLERANCE."""
    control = active_parameters(baseline)
    return abs(active_parameters(arm) - control) <= PARAMETER_TOLERANCE * control
