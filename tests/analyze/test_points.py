"""What a point of a search is worth: the mean over its seeds, or nothing where one failed or lacks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from ablate.analyze.basis import points
from ablate.analyze.search.best import best, best_runs, by_point
from ablate.analyze.search.space import Dimension
from ablate.search import samplers
from ablate.spec.models import Objective

LOSS = Objective(metric="val_loss", mode="min")
LR = Dimension(key="lr", kind="uniform", low=0.0, high=1.0)


@dataclass(frozen=True)
class End:
    lr: float
    seed: int
    value: float = 1.0
    status: str = "completed"
    arm: str = "search"

    @property
    def trial_id(self) -> str:
        return f"{self.lr:g}-{self.seed}"

    @property
    def params(self) -> Mapping[str, Any]:
        return {"lr": self.lr}

    @property
    def metrics(self) -> Mapping[str, Any]:
        return {"val_loss": self.value} if self.status == "completed" else {}


def table(*ends: End) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "trial_id": end.trial_id,
                "arm": end.arm,
                "seed": end.seed,
                "status": end.status,
                "param.lr": end.lr,
                "val_loss": end.metrics.get("val_loss", math.nan),
                "tokens_seen": 10,
            }
            for end in ends
        ]
    )


ENDS = (
    End(0.1, 1101, 3.0), End(0.1, 0, 1.0),
    End(0.2, 0, 1.5), End(0.2, 1101, 1.7),
    End(0.3, 0, 0.1), End(0.3, 1101, status="nan"),
    End(0.4, 1101, 0.2),
    End(0.1, 7, 0.0, arm="baseline"),
)  # fmt: skip


def test_points_are_ranked_by_means_and_a_failed_or_missing_seed_has_none():
    found = {point.first.lr: point for point in points.of(ENDS, seeds=2)}
    assert {lr: point.mean("val_loss") for lr, point in found.items()} == {0.1: 2.0, 0.2: 1.6, 0.3: None, 0.4: None}
    assert {lr: point.status for lr, point in found.items()} == {
        0.1: "completed",
        0.2: "completed",
        0.3: "nan",
        0.4: "unfinished",
    }
    assert found[0.3].failed == {1101: "nan"}
    assert found[0.2].sd("val_loss") == pytest.approx(statistics.stdev([1.5, 1.7]))
    ranked = points.ranked(ENDS, objective=LOSS, seeds=2)
    assert [(point.trial_id, mean) for point, mean in ranked] == [("0.2-0", 1.6), ("0.1-0", 2.0)]


def test_with_one_seed_every_trial_is_a_point_of_its_own():
    found = points.ranked(ENDS, objective=LOSS, seeds=1)
    assert [point.trial_id for point, _ in found] == ["0.3-0", "0.4-1101", "0.1-0", "0.2-0", "0.2-1101", "0.1-1101"]


def test_the_table_of_points_has_their_means():
    search = table(*(end for end in ENDS if end.arm == "search"))
    whole = by_point(search, objectives=[LOSS], seeds=2)
    assert list(whole["trial_id"]) == ["0.1-0", "0.2-0", "0.3-0", "0.4-1101"]
    assert list(whole["ended"]) == [2, 2, 2, 1]
    assert list(whole["failed"]) == ["", "", "seed 1101 nan", ""]
    assert list(whole["tokens_seen"]) == [20, 20, 20, 10]
    found = best(whole, objective=LOSS, space=[LR])
    assert found is not None
    assert (found.trial_id, found.value, found.seeds, found.completed) == ("0.2-0", 1.6, 2, 2)
    assert found.sd == pytest.approx(statistics.stdev([1.5, 1.7]))
    assert list(best_runs(search, objective=LOSS, seeds=2)["trial_id"]) == ["0.2-0", "0.2-1101"]
    assert by_point(search, objectives=[LOSS], seeds=1) is search


@dataclass(frozen=True)
class Row:
    value: float | None
    status: str = "completed"
    metrics: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", {} if self.value is None else {"val_loss": self.value})


NUMBERS = st.floats(-1e50, 1e50)


@given(st.lists(NUMBERS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_optuna_is_told_the_mean_of_the_rows_in_any_order(values: list[float], order: Any):
    rows: Any = [Row(value) for value in values]
    told = samplers.outcome_of_point(rows, [LOSS])
    assert told == (TrialState.COMPLETE, [statistics.fmean(values)])
    order.shuffle(rows)
    assert samplers.outcome_of_point(rows, [LOSS]) == told


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.sampled_from(["nan", "oom", "timeout", "lost", "error"]))
def test_a_failed_seed_makes_the_point_failed(values: list[float], status: str):
    rows: Any = [*(Row(value) for value in values), Row(None, status)]
    assert samplers.outcome_of_point(rows, [LOSS]) == (TrialState.FAIL, None)
    unmeasured: Any = [*(Row(value) for value in values), Row(math.nan)]
    assert samplers.outcome_of_point(unmeasured, [LOSS]) == (TrialState.FAIL, None)
