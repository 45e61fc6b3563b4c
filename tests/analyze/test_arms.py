"""Paired effects, the bank's use, and comparability."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analyze.arms.paired import effects
from ablate.analyze.basis.code import codes
from ablate.analyze.basis.frames import rows
from ablate.analyze.comparability import Mixed, mixed
from ablate.analyze.memory import LEARNED, bank_use, better_side
from ablate.spec.models import Objective
from model.api import BY_NAME
from tests.study_files import TRAINER

LOSS = Objective(metric="val_loss", mode="min")
SEEDS = range(1, 7)


def run(arm: str, seed: int, val_loss: float | None, **columns: object) -> dict[str, object]:
    """A trial's row; without a loss it failed."""
    plain = {"bank_use_nats": None, "bank_zero_nats": None, "bank_mean_nats": None}
    commit = {
        "code_hash": None,
        "git_commit": "aaa",
        "versions": "torch 2",
        "budget_tokens": 1000,
        "data_hash": f"d{seed}",
    }
    row = {"trial_id": f"{arm}{seed}", "arm": arm, "seed": seed, "val_loss": val_loss, **plain, **commit, **columns}
    return {"status": "completed" if val_loss is not None else "nan", **row}


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """As a ledger's, floats where a number may be missing."""
    return pd.DataFrame(rows).astype(dict.fromkeys(("val_loss", "bank_use_nats"), float))


@pytest.fixture
def losses() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    control = rng.normal(3.0, 0.1, len(SEEDS))
    return {
        "baseline": control,
        "better": control - 0.2 + rng.normal(0, 0.02, len(SEEDS)),
        "same": control + rng.normal(0, 0.02, len(SEEDS)),
    }


@pytest.fixture
def trials(losses: dict[str, np.ndarray]) -> pd.DataFrame:
    return table(
        [run(arm, seed, loss) for arm, values in losses.items() for seed, loss in zip(SEEDS, values, strict=True)]
    )


def test_effects_equal_scipy(trials: pd.DataFrame, losses: dict[str, np.ndarray]):
    better, same = effects(trials, objective=LOSS)
    test = stats.ttest_rel(losses["better"], losses["baseline"])
    expected = test.confidence_interval(0.95)
    assert (better.arm, better.n, better.dropped) == ("better", 6, 0)
    assert better.difference.mean == pytest.approx((losses["better"] - losses["baseline"]).mean())
    assert (better.difference.low, better.difference.high) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )
    assert better.p == pytest.approx(test.pvalue)
    own = stats.ttest_1samp(losses["better"], 0.0).confidence_interval(0.95)
    assert (better.arm_values.low, better.arm_values.high) == (pytest.approx(own.low), pytest.approx(own.high))
    exact = stats.permutation_test(
        (losses["same"] - losses["baseline"],), np.mean, permutation_type="samples", n_resamples=100
    )
    assert same.p_exact == pytest.approx(exact.pvalue)
    assert (better.p_exact, better.p_holm) == (pytest.approx(2 / 64), pytest.approx(2 * 2 / 64))
    assert same.p_holm == pytest.approx(max(same.p_exact, better.p_holm))
    assert better.smallest_p_holm == pytest.approx(2 * 2 / 64)


def test_failed_run_drops_its_pair_and_missing_run_leaves_it_pending(trials: pd.DataFrame):
    trials.loc[(trials["arm"] == "better") & (trials["seed"] == 2), ["status", "val_loss"]] = ["nan", None]
    trials = rows(trials, ~((trials["arm"] == "baseline") & (trials["seed"] == 5)))
    better, same = effects(trials, objective=LOSS, declared=["same"])[::-1]
    assert (better.arm, better.n, better.dropped, better.pending) == ("better", 4, 1, 1), "a pending run drops no pair"
    assert (same.n, same.dropped, same.pending) == (5, 0, 1)
    assert better.baseline_values.n == 4, "both sides are over the same seeds"


def test_declared_arm_without_runs_counts_in_holms_family(trials: pd.DataFrame):
    found = {effect.arm: effect for effect in effects(trials, objective=LOSS, declared=["better", "later", "same"])}
    assert found["later"].n == 0
    assert math.isnan(found["later"].p_holm)
    assert found["better"].p_holm == pytest.approx(3 * 2 / 64)


def test_search_is_not_an_arm(trials: pd.DataFrame):
    both = pd.concat([trials, table([run("search", 0, 1.0)])])
    assert [effect.arm for effect in effects(both, objective=LOSS)] == ["better", "same"]


def test_better_side_by_interval_and_objective(trials: pd.DataFrame):
    better, same = effects(trials, objective=LOSS)
    assert better_side(better, objective=LOSS) == "better"
    assert better_side(better, objective=Objective(metric="val_loss", mode="max")) == "baseline"
    assert better_side(same, objective=LOSS) is None


def test_learned_metrics_are_metrics_of_the_model():
    assert set(BY_NAME) >= LEARNED
    assert not {"peak_gib", "tokens_per_s", "parameters", "bank_use_nats"} & LEARNED


def test_bank_is_read_only_if_its_interval_is_above_zero():
    uses = {"token": [0.05, 0.06, 0.04], "shuffled": [0.05, -0.04, 0.01]}
    runs = [run(arm, seed, 3.0, bank_use_nats=use) for arm, values in uses.items() for seed, use in enumerate(values)]
    runs += [
        run("baseline", 0, 3.0),
        run("search", 0, 2.0, bank_use_nats=0.9),
        run("search", 1, 2.5, bank_use_nats=0.1),
    ]
    found = {entry.group: entry for entry in bank_use(table(runs), objective=LOSS)}
    assert list(found) == ["best", "token", "shuffled"], "the baseline has no bank"
    assert found["token"].read
    assert not found["shuffled"].read
    assert found["best"].use.mean == 0.9
    assert not found["best"].read, "one trial has no interval, however large its value"


def mixed_among(runs: list[dict[str, Any]], *varied: str) -> list[Mixed]:
    return mixed(table(runs), varied=varied, trainer=TRAINER.description)


def test_mixed_commits_budgets_and_data_are_found():
    runs = [run("baseline", seed, 3.0) for seed in SEEDS] + [run("arm", seed, 3.0) for seed in SEEDS]
    assert mixed_among(runs) == [], "seeds have their own data"
    runs[7] |= {"git_commit": "bbb", "data_hash": "other", "budget_tokens": 999}
    found = {entry.column: entry for entry in mixed_among(runs)}
    assert set(found) == {"git_commit", "budget_tokens", "data_hash"}
    assert found["git_commit"].odd == {"arm2": "bbb"}
    assert found["data_hash"].comparison == "seed 2 of the ablation"
    assert {entry.column for entry in mixed_among(runs, "train.tokens")} == {
        "git_commit",
        "data_hash",
    }
    assert {entry.column for entry in mixed_among(runs, "data.facts_entities")} == {"git_commit"}


def test_a_commit_that_leaves_the_code_is_no_difference():
    runs = [run("baseline", seed, 3.0, code_hash="c0de") for seed in SEEDS]
    runs[2] |= {"git_commit": "bbb"}
    assert mixed_among(runs) == []
    runs[3] |= {"code_hash": "feed"}
    (found,) = mixed_among(runs)
    assert (found.column, found.usual, found.odd) == ("code_hash", "c0de", {"baseline4": "feed"})


@pytest.mark.parametrize(
    ("hashes", "commits", "named"),
    [
        ([None, "c0de", "c0de"], ["aaa", "aaa", "bbb"], ["c0de", "c0de", "c0de"]),  # an older row of a known commit
        ([None, "c0de"], ["aaa", "bbb"], ["aaa", "c0de"]),
        ([None, "c0de", "feed"], ["aaa", "aaa", "aaa"], ["aaa", "c0de", "feed"]),  # edited, and not committed
        ([None, None], ["aaa", None], ["aaa", "unknown"]),
    ],
)
def test_rows_without_a_hash_are_compared_by_their_commit(
    hashes: list[str | None], commits: list[str | None], named: list[str]
):
    assert codes(hashes, commits) == named


def test_failed_trials_are_not_compared():
    runs = [run("search", 0, 3.0), run("search", 1, 3.0, data_hash="d0"), run("search", 2, None, git_commit="bbb")]
    assert mixed_among(runs) == []
    runs.append(run("search", 3, 3.0, git_commit=None, data_hash="d0"))
    assert mixed_among(runs)[0].odd == {"search3": "unknown"}
