"""Which steps report, and at which learning rate a step trains. Pure functions: no state to save or to restore."""

from __future__ import annotations

import math

from model.config import TrainConfig


def learning_rate(update: int, *, total: int, train: TrainConfig) -> float:
    """The rate of update `update` (0-based) out of `total`.

    Linear warm-up, then `cosine` (Loshchilov & Hutter 2016, arXiv 1608.03983) down to `min_lr_ratio`, or `wsd`: stable,
    then linear over the last `decay_ratio` of the updates (Haegele et al. 2024, arXiv 2405.18392).
    """
    warmup = round(train.warmup_ratio * total)
    if update < warmup:
        return train.lr * (update + 1) / warmup
    if train.schedule == "cosine":
        done = (update - warmup) / max(1, total - warmup)
        shape = (1 + math.cos(math.pi * min(1.0, done))) / 2
    else:
        decay = max(1, round(train.decay_ratio * total))
        shape = min(1.0, max(0.0, (total - update) / decay))
    return train.lr * (train.min_lr_ratio + (1 - train.min_lr_ratio) * shape)


def reports_by(step: int, *, train: TrainConfig) -> int:
    """How many reports fall on a run's first `step` steps: one every `report_every` steps, each on an update."""
    return step // max(train.report_every, train.accumulation_steps)


def report_due(step: int, *, total: int, train: TrainConfig) -> bool:
    """Whether a report follows the first `step` steps of `total`: on the last one, and every `report_every` steps, or
    with the next update where that falls between two updates.

    Reports fall on updates only: between two of them there are gradients, which no checkpoint holds.
    """
    if step % train.accumulation_steps:
        return False
    before = step - train.accumulation_steps
    return step == total or reports_by(step, train=train) > reports_by(before, train=train)
