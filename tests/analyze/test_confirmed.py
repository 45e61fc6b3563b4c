"""A search's winner on fresh seeds: means, paired gaps, the noise, and the shrunken values, against their formulas."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analyze.search.confirmed import confirmation, shrink
from ablate.spec.models import Objective

LOSS = Objective(metric="val_loss", mode="min")
SEARCHED = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 1.5, "e": 1.7}


def table(**runs: list[float]) -> pd.DataFrame:
    """Fresh runs by trial, NaN for a failed one, on seeds 1001 and so on."""
    return pd.DataFrame(
        [
            {
                "arm": f"confirm.{name}",
                "seed": 1001 + index,
                "val_loss": value,
                "status": "nan" if math.isnan(value) else "completed",
            }
            for name, values in runs.items()
            for index, value in enumerate(values)
        ],
        columns=["arm", "seed", "val_loss", "status"],
    )


@pytest.fixture
def search() -> pd.DataFrame:
    rows = [{"trial_id": name, "val_loss": value, "status": "completed"} for name, value in SEARCHED.items()]
    return pd.DataFrame(rows)


def test_the_winner_that_leads_on_fresh_seeds_is_shown(search: pd.DataFrame):
    runs = {"a": [1.2, 1.3, 1.25, 1.22], "b": [1.41, 1.49, 1.46, 1.42]}
    found = confirmation(table(**runs), search, objective=LOSS)
    assert found is not None
    assert [one.trial_id for one in found.candidates] == ["a", "b"]
    assert found.shown
    second = found.candidates[1]
    gaps = [theirs - own for own, theirs in zip(runs["a"], runs["b"], strict=True)]
    assert second.behind.mean == pytest.approx(statistics.mean(gaps))
    assert second.p == pytest.approx(stats.ttest_1samp(gaps, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    # Of two trials the noise of one run is the gaps' spread over sqrt(2).
    assert found.noise_sd == pytest.approx(statistics.stdev(gaps) / math.sqrt(2))
    mean = statistics.mean(SEARCHED.values())
    expected = (5 - 3) * found.noise_sd**2 / sum((value - mean) ** 2 for value in SEARCHED.values())
    assert found.shrinkage == pytest.approx(expected)
    assert found.winner.shrunken == pytest.approx(mean + (1 - expected) * (1.0 - mean))


def test_another_best_mean_makes_rank_1_chance(search: pd.DataFrame):
    found = confirmation(table(a=[1.5, 1.4, math.nan], b=[1.2, 1.1, 1.0]), search, objective=LOSS)
    assert found is not None
    assert (found.freshest, found.shown) == (found.candidates[1], False)
    assert (found.winner.failed, found.winner.fresh.n, found.candidates[1].behind.n) == (1, 2, 2)


def test_more_is_better_where_the_objective_says_so(search: pd.DataFrame):
    more = Objective(metric="val_loss", mode="max")
    found = confirmation(table(e=[3.0, 3.1, 3.2], d=[2.0, 2.1, 2.2]), search, objective=more)
    assert found is not None
    assert found.winner.trial_id == "e"
    assert found.candidates[1].behind.mean == pytest.approx(1.0)


def test_without_fresh_runs_of_the_winner_nothing_is_judged(search: pd.DataFrame):
    assert confirmation(table(), search, objective=LOSS) is None
    assert confirmation(table(b=[1.0, 1.0]), search, objective=LOSS) is None
    alone = confirmation(table(a=[1.0, 1.2]), search, objective=LOSS)
    assert alone is not None
    assert math.isnan(alone.noise_sd), "the spread of one trial holds what its seeds do to all trials"
    assert math.isnan(alone.winner.shrunken)


def test_noise_of_few_fresh_runs_is_too_little_known_to_shrink_by(search: pd.DataFrame):
    """Two trials on two seeds have one degree of freedom: by chance the noise may look like none."""
    found = confirmation(table(a=[1.2, 1.5], b=[1.4, 1.7]), search, objective=LOSS)
    assert found is not None
    assert found.noise_sd == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(found.shrinkage)
    assert math.isnan(found.winner.shrunken)
    draws = np.random.default_rng(0).normal(size=(20_000, 2, 2))
    left = draws - draws.mean(axis=2, keepdims=True)
    variance = ((left - left.mean(axis=1, keepdims=True)) ** 2).sum(axis=(1, 2))
    assert np.mean(variance < 0.1) == pytest.approx(0.25, abs=0.02)


def test_pure_noise_is_shrunk_to_the_mean_and_clear_values_are_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(3.0, 0.1, 40)
    assert shrink(noise, noise_sd=0.1) > 0.7
    assert shrink(noise, noise_sd=10.0) == 1.0
    assert shrink(np.linspace(0, 10, 40), noise_sd=0.1) < 0.01
    assert math.isnan(shrink(noise[:3], noise_sd=0.1))
    assert math.isnan(shrink(noise, noise_sd=math.nan))


def test_shrunken_values_are_closer_to_the_truth_than_the_searchs():
    """The oracle is the simulated truth: over 200 searches the winner's shrunken value is closer to it."""
    rng, searched, shrunken = np.random.default_rng(1), [], []
    for _ in range(200):
        truth = rng.normal(0, 0.05, 12)
        values = truth + rng.normal(0, 0.1, 12)
        best, share = int(values.argmin()), shrink(values, noise_sd=0.1)
        searched.append((values[best] - truth[best]) ** 2)
        shrunken.append((values.mean() + (1 - share) * (values[best] - values.mean()) - truth[best]) ** 2)
    assert np.mean(shrunken) < 0.5 * np.mean(searched)
