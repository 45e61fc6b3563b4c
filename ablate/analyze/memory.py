"""Whether a trained model reads its memory: how much the bank's content lowers the loss.

bank_use_nats is val_loss with the bank's rows permuted, minus val_loss. A gain is credited to a memory only if the
interval of its bank_use_nats lies above 0; a single trial has no interval. Only gains in what is learned of text and
facts can be credited: a trial is not smaller or faster because of what its bank holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ablate.analyze.arms.paired import Effect, arm_names
from ablate.analyze.basis.frames import completed, floats, of_arm
from ablate.analyze.basis.stats import Interval, t_interval
from ablate.analyze.search.best import ranked
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective

LEARNED = frozenset(
    {
        "ce_loss", "val_loss", "val_bpb", "perplexity", "inference_loss",
        *(f"fact_{kind}{of}" for kind in ("nll", "accuracy") for of in ("", "_seen", "_heldout", "_kb_only")),
    }
)  # fmt: skip
"""Metrics whose gains may be credited to a memory's content."""


@dataclass(frozen=True)
class BankUse:
    """The bank's use in one group of completed trials, nats a token. `group`: an arm, or `best` for the best trial.

    `zeroed` and `averaged`: means of bank_zero_nats and bank_mean_nats (the read replaced by 0, by its mean).
    """

    group: str
    use: Interval
    zeroed: float
    averaged: float

    @property
    def read(self) -> bool:
        """The interval of bank_use_nats lies above 0: the bank's content lowers the loss."""
        return self.use.above_zero


def bank_use(trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = ()) -> list[BankUse]:
    """One entry each for the search's best trial, the baseline and the arms, where their trials have a bank."""
    winner = ranked(of_arm(trials, SEARCH), objective=objective).head(1)
    done = completed(trials)
    arms = [(arm, of_arm(done, arm)) for arm in [BASELINE, *arm_names(trials, declared=declared)]]
    groups = [_use(name, runs) for name, runs in [("best", winner), *arms]]
    return [group for group in groups if group.use.n]


def _use(group: str, runs: pd.DataFrame) -> BankUse:
    use, zeroed, averaged = (
        t_interval(floats(runs, name)) for name in ("bank_use_nats", "bank_zero_nats", "bank_mean_nats")
    )
    return BankUse(group=group, use=use, zeroed=zeroed.mean, averaged=averaged.mean)


def better_side(effect: Effect, *, objective: Objective) -> str | None:
    """The side that is better by its interval: the arm's name, `baseline`, or None where the interval holds 0."""
    if not effect.difference.excludes_zero:
        return None
    arm_is_better = effect.difference.below_zero == (objective.mode == "min")
    return effect.arm if arm_is_better else BASELINE
