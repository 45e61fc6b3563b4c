"""Whether a trained model relies on its memory, and what the memory is worth. The two are different questions.

Reliance is what a trained model loses when its bank is disturbed: val_loss with the bank's rows permuted
(bank_use_nats), with the read set to zero, or with the read replaced by its mean, each minus val_loss. A model may rely
on what is worth nothing: permuting often costs more than zeroing, since wrong content is worse than none. Worth is the
paired difference, in the objective, to runs on the same seeds whose layers are the same but for the memory (`blind`).

A gain is credited to a memory only if the interval of its bank_use_nats lies above 0; a single trial has no interval.
Only gains in what is learned of text and facts can be credited: a trial is not smaller or faster because of what its
bank holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import Effect, arm_names
from ablate.analyze.basis.frames import completed, floats, of_arm, texts
from ablate.analyze.basis.stats import Interval, t_interval
from ablate.analyze.search.best import best_runs
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective
from ablate.trainers import recorded

LEARNED = frozenset(
    {
        "ce_loss", "val_loss", "val_object_nats", "val_rest_nats", "val_bpb", "perplexity", "inference_loss",
        *(f"fact_{kind}{of}" for kind in ("nll", "accuracy") for of in ("", "_seen", "_heldout", "_kb_only")),
    }
)  # fmt: skip
"""Metrics whose gains may be credited to a memory's content."""


@dataclass(frozen=True)
class BankUse:
    """Reliance on the bank in one group of completed trials, nats a token, and the memory's worth. `group`: an arm, or
    `best` for the best trial.

    `zeroed` and `averaged`: means of bank_zero_nats and bank_mean_nats (the read replaced by 0, by its mean). `worth`:
    the objective of the group minus that of the runs with `memory: blind` on the same seeds; None without such runs.
    """

    group: str
    use: Interval
    zeroed: float
    averaged: float
    worth: Interval | None = None

    @property
    def read(self) -> bool:
        """The interval of bank_use_nats lies above 0: the model relies on the bank's content."""
        return self.use.above_zero


def bank_use(
    trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = (), seeds: int = 1
) -> list[BankUse]:
    """One entry each for the search's best trial, the baseline and the arms, where their trials have a bank. `seeds`:
    of a point of the search."""
    winner = best_runs(of_arm(trials, SEARCH), objective=objective, seeds=seeds)
    done = completed(trials)
    groups = {arm: of_arm(done, arm) for arm in [BASELINE, *arm_names(trials, declared=declared)]}
    blind = next((runs for runs in groups.values() if _is_blind(runs)), None)
    found = [_use("best", winner, None, objective)]
    found += [_use(name, runs, blind, objective) for name, runs in groups.items()]
    return [group for group in found if group.use.n]


def _is_blind(runs: pd.DataFrame) -> bool:
    """Whether every run of a group has the layers of a memory without the memory."""
    configs = texts(runs, "config_json") if "config_json" in runs else []
    kinds = {recorded.values(text).get("model.memory") for text in configs}
    return kinds == {"blind"}


def _use(group: str, runs: pd.DataFrame, blind: pd.DataFrame | None, objective: Objective) -> BankUse:
    use, zeroed, averaged = (
        t_interval(floats(runs, name)) for name in ("bank_use_nats", "bank_zero_nats", "bank_mean_nats")
    )
    worth = None if blind is None else t_interval(_paired(runs, blind, objective.metric))
    return BankUse(group=group, use=use, zeroed=zeroed.mean, averaged=averaged.mean, worth=worth)


def _paired(runs: pd.DataFrame, others: pd.DataFrame, metric: str) -> np.ndarray:
    """One difference for each seed that both have; of several runs of a seed the last."""
    left, right = (
        pd.Series(floats(side, metric), index=floats(side, "seed")).groupby(level=0).last() for side in (runs, others)
    )
    return np.asarray((left - right).dropna(), dtype=float)


def better_side(effect: Effect, *, objective: Objective) -> str | None:
    """The side that is better by its interval: the arm's name, `baseline`, or None where the interval holds 0."""
    if not effect.difference.excludes_zero:
        return None
    arm_is_better = effect.difference.below_zero == (objective.mode == "min")
    return effect.arm if arm_is_better else BASELINE
