"""Samplers that learn from results: Optuna's Gaussian process and TPE, extended to learn from failed trials.

Optuna's own samplers ignore failed trials. If the most promising unknown region is one in which trials fail, they draw
from it again and again until the search ends.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

GP_TRIALS = 256
"""The Gaussian process draws the trials below this number. A draw then takes half a second, and the time grows with the
cube of the trials."""

TRIAL_ID = "trial_id"
"""The attribute of an Optuna trial that holds our id; Optuna's numbers also count repeated draws."""

# Silences advice to install a package that makes a draw a tenth of a second faster.
optuna.logging.get_logger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)


class Tpe(TPESampler):
    """Optuna's TPE, which counts failed trials among the bad ones."""

    def _build_parzen_estimator(
        self,
        study: optuna.Study,
        search_space: dict[str, BaseDistribution],
        trials: list[FrozenTrial],
        handle_below: bool,
    ) -> Any:
        if not handle_below:
            trials = sorted([*trials, *failed(study)], key=attrgetter("number"))  # older trials weigh less
        return super()._build_parzen_estimator(study, search_space, trials, handle_below)


def tpe(seed: int) -> TPESampler:
    """TPE over all parameters jointly; before the first ended trial it draws nothing."""
    return Tpe(n_startup_trials=1, multivariate=True, constant_liar=True, seed=seed)


class Gp(GPSampler):
    """Optuna's Gaussian process with expected improvement, which also learns from pruned and failed trials, never draws
    a point twice, and hands over to TPE after GP_TRIALS trials, when fitting takes long.

    A pruned trial counts with its last value plus the median of what completed trials gained from there. A failed trial
    counts as the worst completed one. Without that their neighbourhood stays unknown and is drawn again and again.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__(n_startup_trials=1, seed=seed)
        self._tpe = tpe(seed)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A new point; empty before the first completed trial, or where the best point was drawn already."""
        if trial.number >= GP_TRIALS:
            return self._tpe.sample_relative(study, trial, search_space)
        drawn = super().sample_relative(study, trial, search_space)
        known = (each.params for each in study.get_trials(deepcopy=False) if each.number != trial.number)
        return {} if drawn in known else drawn

    def _sample_relative_impl(
        self,
        study: optuna.Study,
        completed_trials: list[FrozenTrial],
        running_trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        bad = worst([trial.values for trial in completed_trials], directions=study.directions)
        known = [
            *completed_trials,
            *(
                as_completed(trial, completed_trials) if trial.intermediate_values else _completed_with(bad, trial)
                for trial in pruned
            ),
            *(_completed_with(bad, trial) for trial in failed(study)),
        ]
        return super()._sample_relative_impl(study, known, running_trials, search_space)


def failed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that failed, and draws of invalid configurations. A repeat of a running trial, which Optuna also holds
    as failed, is left out."""
    trials = study.get_trials(deepcopy=False)
    alive = {id_of(trial) for trial in trials if trial.state is not TrialState.FAIL} - {""}
    return [trial for trial in trials if trial.state is TrialState.FAIL and trial.params and id_of(trial) not in alive]


def worst(values: Sequence[Sequence[float]], *, directions: Sequence[StudyDirection]) -> list[float]:
    """The worst value of every objective over completed trials; `values`: trial x objective, as in `directions`."""
    return [
        (max if direction is StudyDirection.MINIMIZE else min)(column)
        for direction, column in zip(directions, zip(*values, strict=True), strict=True)
    ]


def as_completed(pruned: FrozenTrial, completed: Sequence[FrozenTrial]) -> FrozenTrial:
    """A pruned trial with an estimate of its final value: its last value plus the median of what completed trials
    gained from the same tokens to their end.

    Trials of other batch sizes report at other tokens, so a trial's value is interpolated linearly between its reports,
    and held constant before the first and after the last.
    """
    step = pruned.last_step
    assert step is not None, "a trial is pruned at a report"
    gains = [
        trial.value - _value_at(step, trial.intermediate_values)
        for trial in completed
        if trial.value is not None and trial.intermediate_values
    ]
    return _completed_with([pruned.intermediate_values[step] + (median(gains) if gains else 0.0)], pruned)


def _value_at(tokens: int, reports: Mapping[int, float]) -> float:
    """A trial's value at `tokens`, interpolated between its reports (tokens -> value)."""
    at_R = sorted(reports)
    return float(np.interp(tokens, at_R, [reports[at] for at in at_R]))


def _completed_with(values: Sequence[float], trial: FrozenTrial) -> FrozenTrial:
    """A completed trial with these values, at the point of `trial`."""
    return optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, values=values)


def id_of(trial: FrozenTrial) -> str:
    """Our id of an Optuna trial; "" where it has none."""
    return trial.user_attrs[TRIAL_ID] if TRIAL_ID in trial.user_attrs else ""  # noqa: SIM401
