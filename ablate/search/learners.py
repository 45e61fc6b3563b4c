"""The samplers that learn from how trials ended: Optuna's Gaussian process and TPE, which here learn from failures too.

A trial that failed is told to Optuna as just that, and its samplers leave it out. Where the most promising of what they
do not know lies in a corner in which trials fail, they would draw from there again and again, to the search's end.
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
"""The Gaussian process draws the trials below this number: a draw takes half a second by then, and grows cubically."""

TRIAL_ID = "trial_id"
"""The attribute of an Optuna trial that holds our id: its own numbers also count repeated draws."""

# It would tell the user of a package that makes the Gaussian process's draws faster, by a fifth of half a second.
optuna.logging.get_logger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)


class Tpe(TPESampler):
    """Optuna's TPE, to which trials that failed are bad ones."""

    def _build_parzen_estimator(
        self,
        study: optuna.Study,
        search_space: dict[str, BaseDistribution],
        trials: list[FrozenTrial],
        handle_below: bool,
    ) -> Any:
        if not handle_below:
            trials = sorted([*trials, *failed(study)], key=attrgetter("number"))  # the older weigh less
        return super()._build_parzen_estimator(study, search_space, trials, handle_below)


def tpe(seed: int) -> TPESampler:
    """TPE over all parameters together; below one ended trial it draws nothing."""
    return Tpe(n_startup_trials=1, multivariate=True, constant_liar=True, seed=seed)


class Gp(GPSampler):
    """Optuna's Gaussian process with expected improvement, which also learns from trials that were pruned or failed,
    never draws a point again, and leaves the field to TPE where so many trials are known that fitting it takes long.

    A pruned trial is taken to have ended where it stood, moved by the median of what completed ones still gained from
    there; one that failed, to be as bad as the worst that completed. Without that their neighbourhood would stay
    unknown, and would be drawn again and again.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__(n_startup_trials=1, seed=seed)
        self._tpe = tpe(seed)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point that no trial had yet; nothing below one completed trial, or where the best one was had already."""
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
                as_completed(trial, completed_trials) if trial.intermediate_values else _with(bad, trial)
                for trial in pruned
            ),
            *(_with(bad, trial) for trial in failed(study)),
        ]
        return super()._sample_relative_impl(study, known, running_trials, search_space)


def failed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that failed, and draws whose values did not go together. Not a repeat of a trial that still runs,
    which Optuna was told as failed too."""
    trials = study.get_trials(deepcopy=False)
    alive = {id_of(trial) for trial in trials if trial.state is not TrialState.FAIL} - {""}
    return [trial for trial in trials if trial.state is TrialState.FAIL and trial.params and id_of(trial) not in alive]


def worst(values: Sequence[Sequence[float]], *, directions: Sequence[StudyDirection]) -> list[float]:
    """The worst value of every objective, over trials that completed: each a list in the order of `directions`."""
    return [
        (max if direction is StudyDirection.MINIMIZE else min)(column)
        for direction, column in zip(directions, zip(*values, strict=True), strict=True)
    ]


def as_completed(pruned: FrozenTrial, completed: Sequence[FrozenTrial]) -> FrozenTrial:
    """A trial that was pruned at a report, with the value that it might have ended with: its last one, and the median
    of what completed trials gained from the same tokens to their end. Between two of its reports a trial is taken to
    have been on a straight line, before its first where that was; trials of other batch sizes report at other tokens.
    """
    step = pruned.last_step
    assert step is not None, "it reported"
    gains = [
        trial.value - _at(step, trial.intermediate_values)
        for trial in completed
        if trial.value is not None and trial.intermediate_values
    ]
    return _with([pruned.intermediate_values[step] + (median(gains) if gains else 0.0)], pruned)


def _at(tokens: int, reports: Mapping[int, float]) -> float:
    """The value at so many tokens, between a trial's reports or outside of them."""
    at_R = sorted(reports)
    return float(np.interp(tokens, at_R, [reports[at] for at in at_R]))


def _with(values: Sequence[float], trial: FrozenTrial) -> FrozenTrial:
    """A completed trial with these values where another stood."""
    return optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, values=values)


def id_of(trial: FrozenTrial) -> str:
    """Our id of an Optuna trial; "" where it never got one."""
    return trial.user_attrs[TRIAL_ID] if TRIAL_ID in trial.user_attrs else ""  # noqa: SIM401
