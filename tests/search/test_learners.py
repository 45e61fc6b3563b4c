"""Samplers learn from pruned and failed trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from ablate.search import learners
from ablate.search.samplers import SobolFirst

Direction = Literal["minimize", "maximize"]
SPACE: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-5, 1e-1, log=True), "x": FloatDistribution(0.0, 1.0)}
BREAKS = 3e-3
"""Trials with a higher learning rate fail; below it a higher one is better."""


def ended(value: float | None, reports: dict[int, float]) -> FrozenTrial:
    """A trial with these reports; pruned where `value` is None."""
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, intermediate_values=reports)


def test_a_pruned_trial_is_estimated_by_the_median_gain_of_completed_ones():
    completed = [ended(1.0, {100: 3.0}), ended(2.0, {100: 3.0, 200: 2.5}), ended(2.5, {100: 2.6})]
    found = learners.as_completed(ended(None, {50: 9.0, 100: 4.0}), completed)
    assert found.state is TrialState.COMPLETE
    assert found.value == pytest.approx(4.0 - 1.0), "gains from 100 to the end: -2, -1 and -0.1"


@pytest.mark.parametrize(("tokens", "gain"), [(100, -2.0), (150, -1.5), (125, -1.75), (60, -2.0), (300, 0.0)])
def test_the_gain_of_trials_that_report_at_other_tokens_is_interpolated(tokens: int, gain: float):
    """Another batch size reports at other tokens. The first and the last value hold beyond the ends."""
    completed = [ended(1.0, {200: 2.0, 100: 3.0, 250: 1.0})]
    found = learners.as_completed(ended(None, {tokens: 4.0}), completed)
    assert found.value == pytest.approx(4.0 + gain)


def test_without_a_completed_curve_a_pruned_trial_keeps_its_last_value():
    assert learners.as_completed(ended(None, {100: 4.0, 200: 3.5}), [ended(1.0, {})]).value == 3.5


def search(then: BaseSampler, *, directions: Sequence[Direction], trials: int = 16) -> list[bool]:
    """Which of a search's trials failed, without its four Sobol points."""
    study = optuna.create_study(sampler=SobolFirst(SPACE, startup=4, seed=0, then=then), directions=directions)
    found = []
    for _ in range(trials):
        trial = study.ask(SPACE)
        rate, x = trial.params["lr"], trial.params["x"]
        found.append(rate > BREAKS)
        if rate > BREAKS:
            study.tell(trial, state=TrialState.FAIL)
            continue
        loss = 3 - 0.3 * math.log10(rate / 1e-5) + 0.5 * (x - 0.4) ** 2
        study.tell(trial, [loss if direction == "minimize" else -loss for direction in directions])
    return found[4:]


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]], ids="-".join)
def test_the_gaussian_process_avoids_a_region_of_failures(directions: list[Direction]):
    assert sum(search(learners.Gp(seed=0), directions=directions)) <= 4


def test_tpe_avoids_a_region_of_failures():
    assert sum(search(learners.tpe(0), directions=["minimize"], trials=24)) <= 10


def test_worst_is_taken_per_objective():
    directions = optuna.create_study(directions=["minimize", "maximize"]).directions
    assert learners.worst([[1.0, 5.0], [2.0, 7.0]], directions=directions) == [2.0, 5.0]


def test_a_repeat_of_a_running_trial_does_not_count_as_failed():
    """Optuna holds it as failed, because every draw needs an end."""
    study = optuna.create_study()
    for state, name in [
        (TrialState.RUNNING, "a"),
        (TrialState.FAIL, "a"),
        (TrialState.FAIL, "b"),
        (TrialState.FAIL, ""),
    ]:
        params = {"lr": 1e-3, "x": 0.5}
        attributes = {learners.TRIAL_ID: name} if name else {}
        study.add_trial(
            optuna.trial.create_trial(state=state, params=params, distributions=SPACE, user_attrs=attributes)
        )
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))  # a draw without parameters
    assert [trial.number for trial in learners.failed(study)] == [2, 3]
