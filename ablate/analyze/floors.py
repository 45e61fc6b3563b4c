"""How far below the corpus's n-gram floors a model gets: what it learned beyond token frequencies and token pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import arm_names
from ablate.analyze.basis.frames import completed, floats, of_arm
from ablate.analyze.search.best import best_runs
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Floors:
    """Means over a group's completed trials, nats a token. `group`: an arm, or `best` for the search's best trial."""

    group: str
    n: int
    val_loss: float
    unigram: float
    bigram: float

    @property
    def below_unigram(self) -> float:
        """Nats a token below the loss of token frequencies alone; negative for a worse model."""
        return self.unigram - self.val_loss

    @property
    def below_bigram(self) -> float:
        """Nats a token below the loss of token pairs; negative for a worse model."""
        return self.bigram - self.val_loss


def floors(trials: pd.DataFrame, *, objective: Objective, declared: Sequence[str] = (), seeds: int = 1) -> list[Floors]:
    """One entry each for the search's best trial, the baseline and the arms, where their trials have floors. `seeds`:
    of a point of the search."""
    winner = best_runs(of_arm(trials, SEARCH), objective=objective, seeds=seeds)
    done = completed(trials)
    arms = [(arm, of_arm(done, arm)) for arm in [BASELINE, *arm_names(trials, declared=declared)]]
    found = []
    for group, runs in [("best", winner), *arms]:
        values_N3 = np.column_stack([floats(runs, name) for name in ("val_loss", "unigram_floor", "bigram_floor")])
        values_N3 = values_N3[np.isfinite(values_N3).all(axis=1)]
        if len(values_N3):
            val_loss, unigram, bigram = (float(mean) for mean in values_N3.mean(axis=0))
            found.append(Floors(group=group, n=len(values_N3), val_loss=val_loss, unigram=unigram, bigram=bigram))
    return found
