"""The best trial, slices, importances, the Pareto set and the audit of a search."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.analyze.basis.frames import records, rows
from ablate.analyze.search.best import best, pareto_ids
from ablate.analyze.search.importance import NEEDED, importances
from ablate.analyze.search.rungs import at_common_budget, audit
from ablate.analyze.search.slices import slice_of
from ablate.analyze.search.space import Dimension
from ablate.spec.models import Objective
from tests.oracles import inference as oracle

LOSS = Objective(metric="val_loss", mode="min")
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


def test_best_completed_trial_and_its_edges():
    found = best(TRIALS, objective=LOSS, space=[COEF, LENGTH])
    assert found is not None
    assert (found.trial_id, found.value, found.completed) == ("b", 2.5, 4), "b before e: equal values, first id"
    assert found.params == {"train.balance_loss_coef": 0.9, "model.knowledge_length": 4}
    assert found.edges == {"train.balance_loss_coef": "upper", "model.knowledge_length": "first"}
    assert (found.median, found.worst) == (pytest.approx(2.65), 3.0)
    most = best(TRIALS, objective=Objective(metric="val_loss", mode="max"), space=[])
    assert most is not None
    assert most.trial_id == "a"


def test_best_is_none_without_completed_trials():
    assert best(rows(TRIALS, TRIALS["status"] != "completed"), objective=LOSS, space=[COEF]) is None


def test_slice_counts_all_trials_and_averages_completed_ones():
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
    most = slice_of(TRIALS, dimension=LENGTH, objective=Objective(metric="val_loss", mode="max")).groups[0]
    assert most.best == 3.0


def _random(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    coef, length = np.exp(rng.uniform(np.log(0.01), 0, count)), rng.choice([4, 8, 16], count)
    loss = np.log(coef) ** 2 + rng.normal(0, 0.01, count)
    ids = [f"t{index}" for index in range(count)]
    return table(*zip(ids, ["completed"] * count, loss, coef, length, strict=True))


def test_importances_need_thirty_trials():
    found = importances(_random(NEEDED - 2), space=[COEF, LENGTH], objective=LOSS)
    assert (found.shares, found.completed, found.missing) == ((), NEEDED - 2, 2)


def test_importances_accept_values_at_the_ends_of_ranges():
    decay = Dimension("model.ema_decay", "one_minus_loguniform", 0.3, 0.999)
    freq = Dimension("model.ema_update_freq", "logint", 1, 50)
    trials = _random(NEEDED)
    trials[decay.column] = np.linspace(0.3, 0.999, NEEDED)
    trials[freq.column] = np.linspace(1, 50, NEEDED).round()
    found = importances(trials, space=[decay, freq, COEF], objective=Objective(metric="val_loss", mode="max"))
    assert {share.key for share in found.shares} == {decay.key, freq.key, COEF.key}


def test_pareto_set_leaves_out_beaten_pruned_and_unmeasured_trials():
    trials = pd.DataFrame(
        {
            "trial_id": ["cheap", "good", "beaten", "twin", "pruned", "unmeasured"],
            "status": ["completed"] * 4 + ["pruned", "completed"],
            "val_loss": [3.0, 2.0, 3.0, 2.0, 0.1, 0.1],
            "fact_accuracy": [0.9, 0.2, 0.8, 0.2, 1.0, None],
        }
    )
    objectives = [LOSS, Objective(metric="fact_accuracy", mode="max")]
    assert pareto_ids(trials, objectives=objectives) == ("good", "twin", "cheap")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_importances_equal_optunas():
    from optuna import create_study, distributions, importance, logging, trial

    logging.set_verbosity(logging.ERROR)
    rng, count = np.random.default_rng(7), 80
    space = [
        Dimension("lr", "loguniform", 1e-4, 1e-1),
        Dimension("freq", "logint", 1, 50),
        Dimension("heads", "int", 1, 9),
        Dimension("length", "choice", math.nan, math.nan, (4, 8, 16)),
        Dimension("decay", "one_minus_loguniform", 0.3, 0.999),
    ]
    columns = {
        "lr": np.exp(rng.uniform(np.log(1e-4), np.log(1e-1), count)),
        "freq": rng.integers(1, 51, count),
        "heads": rng.integers(1, 10, count),
        "length": rng.choice([4, 8, 16], count),
        "decay": 1 - np.exp(rng.uniform(np.log(0.001), np.log(0.7), count)),
    }
    loss = (np.log10(columns["lr"]) + 2.5) ** 2 + 0.01 * columns["heads"] + rng.normal(0, 0.01, count)
    trials = pd.DataFrame({f"param.{key}": values for key, values in columns.items()}).assign(
        trial_id=[f"t{i}" for i in range(count)], status="completed", val_loss=loss
    )
    theirs = {
        "lr": distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "freq": distributions.IntDistribution(1, 50, log=True),
        "heads": distributions.IntDistribution(1, 9),
        "length": distributions.CategoricalDistribution((4, 8, 16)),
        "decay": distributions.FloatDistribution(0.001, 0.7, log=True),
    }
    study = create_study()
    for index in range(count):
        params = {key: values[index].item() for key, values in columns.items()}
        params["decay"] = min(max(1 - params["decay"], 0.001), 0.7)
        study.add_trial(trial.create_trial(params=params, distributions=theirs, value=float(loss[index])))
    expected = importance.get_param_importances(study, evaluator=importance.PedAnovaImportanceEvaluator())
    found = importances(trials, space=space, objective=LOSS)
    assert {entry.key: entry.value for entry in found.shares} == pytest.approx(expected, rel=1e-6)
    assert [entry.key for entry in found.shares] == list(expected)
    assert all(entry.low <= entry.high for entry in found.shares)
    first = found.shares[0]
    assert first.key == "lr"
    assert first.low <= first.value <= first.high
    assert first.low > found.shares[-1].high, "what matters is told from what does not"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=12))
def test_pareto_set_equals_pairwise_comparison(points: list[tuple[int, int, int]]):
    names = [f"t{index:02}" for index in range(len(points))]
    trials = pd.DataFrame(points, columns=pd.Index(["a", "b", "c"])).assign(trial_id=names, status="completed")
    found = pareto_ids(
        trials,
        objectives=[
            Objective(metric="a", mode="min"),
            Objective(metric="b", mode="min"),
            Objective(metric="c", mode="min"),
        ],
    )
    assert set(found) == {name for name, on in zip(names, oracle.pareto(points), strict=True) if on}


def _audited_search() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng, lines, reports = np.random.default_rng(1), [], []
    for index in range(30):
        audited, final = index % 3 == 0, float(rng.normal(3, 0.1))
        early, pruned = final + 1 + float(rng.normal(0, 0.1)), index % 3 == 1
        lines.append({"trial_id": f"t{index:02}", "status": "pruned" if pruned else "completed", "audited": audited,
                     "val_loss": early if pruned else final, "budget_tokens": 900})  # fmt: skip
        reports += [{"trial_id": f"t{index:02}", "tokens_seen": 100, "val_loss": early}]
        reports += [] if pruned else [{"trial_id": f"t{index:02}", "tokens_seen": 900, "val_loss": final}]
    return pd.DataFrame(lines), pd.DataFrame(reports)


def test_audit_equals_its_oracle():
    search, history = _audited_search()
    (rung, late) = audit(search, history, objective=LOSS, min_tokens=100, reduction=3)
    early = dict(zip(history["trial_id"], history["val_loss"], strict=True))
    early |= {row["trial_id"]: row["val_loss"] for row in records(rows(history, history["tokens_seen"] == 100))}
    own = search[search["audited"]]
    final = dict(zip(own["trial_id"], own["val_loss"], strict=True))
    rho, stopped, regret = oracle.audit_rung(early, final, reduction=3)
    assert (rung.tokens, rung.n, rung.stopped) == (100, 10, stopped)
    assert (rung.spearman, rung.regret) == (pytest.approx(rho), pytest.approx(regret))
    assert rung.low < rung.spearman < rung.high
    assert (late.tokens, late.spearman) == (300, pytest.approx(1.0)), "judged at the next report, which is the last"
    assert audit(search.assign(audited=False), history, objective=LOSS, min_tokens=100, reduction=3) == []


def test_common_budget_is_the_largest_that_all_trials_reached():
    search, history = _audited_search()
    found = at_common_budget(search, history, objective=LOSS)
    assert found is not None
    assert found.tokens == 100
    assert len(found.values) == 30
    done = rows(search, search["status"] == "completed")
    whole = at_common_budget(done, history, objective=LOSS)
    assert whole is not None
    assert whole.tokens == 900
    assert whole.values == pytest.approx(dict(zip(done["trial_id"], done["val_loss"], strict=True)))
