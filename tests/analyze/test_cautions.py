"""What makes a result say less than it seems to, and what a memory is worth."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from ablate.analyze import cautions
from ablate.analyze.basis.frames import of_arm
from ablate.analyze.floors import Floors
from ablate.analyze.memory import bank_use
from ablate.analyze.trained import Span
from ablate.spec.designs import TUNE
from ablate.spec.models import Objective

LOSS = Objective(metric="val_loss", mode="min")


@pytest.mark.parametrize(("high", "said"), [(4.0, False), (4.01, True), (18.2, True)])
def test_more_than_four_passes_are_said(high: float, said: bool) -> None:
    found = cautions.repeated(Span(1.0, high), most=4.0)
    assert bool(found) is said
    assert all(f"{high:.3g} times" in sentence for sentence in found)
    assert not cautions.repeated(Span(math.nan, math.nan), most=4.0)


def test_a_plan_says_it_of_the_largest_budget() -> None:
    assert cautions.planned({"a": 100, "b": 500, "c": None}, epoch=100, most=4.0)
    assert not cautions.planned({"a": 100, "b": 400}, epoch=100, most=4.0)
    assert not cautions.planned({"a": None}, epoch=100, most=4.0)
    assert not cautions.planned({"a": 100}, epoch=None, most=4.0)


def runs(arms: dict[str, str]) -> pd.DataFrame:
    """Trial id -> arm, all completed."""
    return pd.DataFrame({"trial_id": list(arms), "arm": list(arms.values()), "status": "completed"})


def history(curves: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [(name, 10 * place, value) for name, values in curves.items() for place, value in enumerate(values)],
        columns=["trial_id", "tokens_seen", "val_loss"],
    ).sample(frac=1, random_state=0)


def test_losses_that_were_better_before_the_end_are_counted() -> None:
    curves = {"falls": [3.0, 2.0, 1.0], "rises": [3.0, 1.0, 1.5], "flat": [3.0, 1.0, 1.005], "tuned": [1.0, 2.0]}
    trials = runs({"falls": "baseline", "rises": "a", "flat": "b", "tuned": f"{TUNE}a"})
    (sentence,) = cautions.risen(trials, history(curves), objective=LOSS)
    assert sentence.startswith("1 of 3 completed trials had a better val_loss before the end")
    assert not cautions.risen(trials, history({"falls": curves["falls"]}), objective=LOSS)


def test_what_is_maximised_may_rise() -> None:
    best = Objective(metric="val_loss", mode="max")
    trials = runs({"up": "baseline", "down": "a"})
    (sentence,) = cautions.risen(trials, history({"up": [0.1, 0.5], "down": [0.5, 0.1]}), objective=best)
    assert sentence.startswith("1 of 2")


def test_groups_above_the_bigram_floor_are_named() -> None:
    groups = [Floors(name, n=2, val_loss=loss, unigram=4.0, bigram=3.0) for name, loss in [("a", 3.5), ("b", 2.0)]]
    (sentence,) = cautions.above_floor(groups)
    assert sentence.startswith("a did not get below the bigram floor")
    assert not cautions.above_floor(groups[1:])


def test_worth_is_the_paired_difference_to_blind() -> None:
    """Paired on seeds 1 and 2; seed 3 has no blind run."""
    losses = {
        ("baseline", 1): 1.0,
        ("baseline", 2): 2.0,
        ("baseline", 3): 9.0,
        ("no_bank", 1): 1.5,
        ("no_bank", 2): 2.1,
    }
    trials = pd.DataFrame(
        [
            {
                "trial_id": f"{arm}{seed}", "arm": arm, "seed": seed, "status": "completed", "val_loss": loss,
                "config_json": json.dumps({"model": {"memory": "token" if arm == "baseline" else "blind"}}),
                **dict.fromkeys(
                    ("bank_use_nats", "bank_zero_nats", "bank_mean_nats"), 0.1 * seed if arm == "baseline" else math.nan
                ),
            }
            for (arm, seed), loss in losses.items()
        ]
    )  # fmt: skip
    (found,) = bank_use(trials, objective=LOSS)
    assert found.group == "baseline"
    assert found.worth is not None
    assert found.worth.n == 2
    assert found.worth.mean == pytest.approx((-0.5 - 0.1) / 2)
    (alone,) = bank_use(of_arm(trials, "baseline"), objective=LOSS)
    assert alone.worth is None
