"""The best trial, slices, importances and the Pareto set of a search."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ablate.analyze.best import Objective, best
from ablate.analyze.frames import rows
from ablate.analyze.importance import NEEDED, importances
from ablate.analyze.pareto import pareto_ids
from ablate.analyze.slices import slice_of
from ablate.analyze.space import Dimension

LOSS = Objective("val_loss", "min")
COEF = Dimension("train.balance_loss_coef", "loguniform", 0.01, 1.0)
LENGTH = Dimension("model.knowledge_length", "choice", 0, 0, (4, 8, 16))


def table(*lines: tuple[str, str, float | None, float, float]) -> pd.DataFrame:
    """(id, status, val_loss, balance_loss_coef, knowledge_length) a row."""
    names = ["trial_id", "status", "val_loss", COEF.column, LENGTH.column]
    return pd.DataFrame(lines, columns=pd.Index(names)).astype({"val_loss": float})


TRIALS = table(
    ("a", "completed", 3.0, 0.01, 4),
    ("b", "completed", 2.5, 0.9, 4),
    ("c", "pruned", 1.0, 0.1, 8),
    ("d", "nan", None, 0.2, 8),
    ("e", "completed", 2.5, 0.5, 4),
    ("f", "completed", 2.8, 0.05, 16),
)


def test_best_is_of_completed_trials_and_says_what_sits_at_an_edge():
    found = best(TRIALS, objective=LOSS, space=[COEF, LENGTH])
    assert found is not None
    assert (found.trial_id, found.value, found.completed) == ("b", 2.5, 4), "b before e: equal values, first id"
    assert found.params == {"train.balance_loss_coef": 0.9, "model.knowledge_length": 4}
    assert found.edges == {"train.balance_loss_coef": "upper", "model.knowledge_length": "first"}
    assert (found.median, found.worst) == (pytest.approx(2.65), 3.0)
    most = best(TRIALS, objective=Objective("val_loss", "max"), space=[])
    assert most is not None
    assert most.trial_id == "a"


def test_no_best_where_nothing_completed():
    assert best(rows(TRIALS, TRIALS["status"] != "completed"), objective=LOSS, space=[COEF]) is None


def test_a_slice_counts_every_end_and_averages_completed_trials_alone():
    groups = {group.label: group for group in slice_of(TRIALS, dimension=LENGTH, objective=LOSS).groups}
    four = groups["4"]
    assert (four.n, four.completed, four.pruned_share) == (3, 3, 0.0)
    assert four.mean == pytest.approx(np.mean([3.0, 2.5, 2.5]))
    assert four.sd == pytest.approx(np.std([3.0, 2.5, 2.5], ddof=1))
    assert four.best == 2.5
    eight = groups["8"]
    assert (eight.n, eight.completed, eight.pruned_share) == (2, 0, 0.5)
    assert math.isnan(eight.mean), "the pruned trial's 1.0 is of a smaller budget"
    assert groups["16"].mean == 2.8
    assert math.isnan(groups["16"].sd)
    assert four.best == slice_of(TRIALS, dimension=LENGTH, objective=LOSS).groups[0].best
    most = slice_of(TRIALS, dimension=LENGTH, objective=Objective("val_loss", "max")).groups[0]
    assert most.best == 3.0


def _random(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    coef, length = np.exp(rng.uniform(np.log(0.01), 0, count)), rng.choice([4, 8, 16], count)
    loss = np.log(coef) ** 2 + rng.normal(0, 0.01, count)
    ids = [f"t{index}" for index in range(count)]
    return table(*zip(ids, ["completed"] * count, loss, coef, length, strict=True))


def test_importances_find_the_parameter_that_matters():
    found = importances(_random(60), space=[COEF, LENGTH], objective=LOSS)
    assert [share.key for share in found.shares] == ["train.balance_loss_coef", "model.knowledge_length"]
    assert sum(share.value for share in found.shares) == pytest.approx(1.0)
    assert found.shares[0].value > 0.8


def test_importances_say_how_many_trials_are_missing():
    found = importances(_random(NEEDED - 2), space=[COEF, LENGTH], objective=LOSS)
    assert (found.shares, found.completed, found.missing) == ((), NEEDED - 2, 2)


def test_importances_take_values_at_both_ends_of_every_scale():
    decay = Dimension("model.ema_decay", "one_minus_loguniform", 0.3, 0.999)
    freq = Dimension("model.ema_update_freq", "logint", 1, 50)
    trials = _random(NEEDED)
    trials[decay.column] = np.linspace(0.3, 0.999, NEEDED)
    trials[freq.column] = np.linspace(1, 50, NEEDED).round()
    found = importances(trials, space=[decay, freq, COEF], objective=Objective("val_loss", "max"))
    assert {share.key for share in found.shares} == {decay.key, freq.key, COEF.key}


def test_pareto_set_by_hand():
    trials = pd.DataFrame(
        {
            "trial_id": ["cheap", "good", "beaten", "twin", "pruned", "unmeasured"],
            "status": ["completed"] * 4 + ["pruned", "completed"],
            "val_loss": [3.0, 2.0, 3.0, 2.0, 0.1, 0.1],
            "fact_accuracy": [0.9, 0.2, 0.8, 0.2, 1.0, None],
        }
    )
    objectives = [LOSS, Objective("fact_accuracy", "max")]
    assert pareto_ids(trials, objectives=objectives) == ("good", "twin", "cheap")
