"""Translates a study's search into Optuna's terms: distributions, samplers, the pruner, and how trials ended."""

from __future__ import annotations

import hashlib
import math
import random
import statistics
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from ablate.formatting import LARGEST
from ablate.records.rows import TrialRow
from ablate.search.learners import Gp, tpe
from ablate.spec.distributions import Choice, Distribution, Range
from ablate.spec.models import Objective, StudySpec

EVERY_TRIAL = 2**31
"""More trials than a study may have: all points are Sobol points."""

MAX_DRAWS = 50
"""The space counts as exhausted after so many draws in a row without a new trial."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space(search: Mapping[str, Distribution]) -> dict[str, BaseDistribution]:
    """Optuna's name of a parameter -> Optuna's distribution."""
    return {name(key, distribution): _to_optuna(distribution) for key, distribution in search.items()}


def name(key: str, distribution: Distribution) -> str:
    """A parameter's name in Optuna's storage, which holds 1 - x for `one_minus_loguniform`."""
    return f"1-{key}" if distribution.kind == "one_minus_loguniform" else key


def decode(search: Mapping[str, Distribution], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """A draw as parameters: dotted key -> value."""
    return {key: _decode(distribution, drawn[name(key, distribution)]) for key, distribution in search.items()}


def encode(search: Mapping[str, Distribution], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a draw: the inverse of `decode`."""
    return {name(key, distribution): _encode(distribution, params[key]) for key, distribution in search.items()}


def sampler(spec: StudySpec, *, seed: int) -> BaseSampler:
    """The study's sampler. `seed` seeds its random draws; the Sobol sequence keeps the study's seed across restarts."""
    known = space(spec.search)
    optimizer = spec.optimizer
    match optimizer.sampler:
        case "random":
            return RandomSampler(seed=seed)
        case "sobol":
            then: BaseSampler = RandomSampler(seed=seed)
            return SobolFirst(known, startup=EVERY_TRIAL, seed=optimizer.seed, then=then)
        case "gp":
            then = Gp(seed=seed)
        case "tpe":
            then = tpe(seed)
    return SobolFirst(known, startup=optimizer.startup, seed=optimizer.seed, then=then)


def pruner(spec: StudySpec) -> optuna.pruners.BasePruner:
    """Asynchronous successive halving (ASHA) over tokens, which never waits for a rung to fill; or no pruning."""
    if spec.early_stopping is None:
        return optuna.pruners.NopPruner()
    asha = spec.early_stopping.asha
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=asha.min_tokens, reduction_factor=asha.reduction)


def audited(number: int, *, fraction: float, seed: int) -> bool:
    """Whether early stopping ignores the search's trial of this number (from 0).

    One trial of every block of 1 / fraction trials is audited, drawn by the random stream `audit/BLOCK`. So the share
    holds from the first trials on, the choice does not correlate with the Sobol points, and a restart repeats it.
    """
    if not fraction:
        return False
    share = Fraction(fraction).limit_denominator(10_000)
    block = math.floor(number * share)
    first, end = (math.ceil(edge / share) for edge in (block, block + 1))
    return number == first + random.Random(_stream(seed, f"audit/{block}")).randrange(end - first)


def _stream(seed: int, name: str) -> int:
    """The seed of a random stream; it depends only on the stream's name and the study's seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def sobol_points(search: Mapping[str, Distribution], *, count: int, seed: int) -> list[dict[str, Any]]:
    """`count` different points of the space, Sobol points first; fewer where the space has fewer. Deterministic."""
    known = space(search)
    study = optuna.create_study(
        sampler=SobolFirst(known, startup=EVERY_TRIAL, seed=seed, then=RandomSampler(seed=seed))
    )
    found: list[dict[str, Any]] = []
    for _ in range(count * MAX_DRAWS):
        if len(found) == count:
            break
        point = decode(search, study.ask(known).params)
        if point not in found:
            found.append(point)
    return found


def directions(spec: StudySpec) -> list[Literal["minimize", "maximize"]]:
    """Optuna's direction of each objective."""
    return ["minimize" if objective.mode == "min" else "maximize" for objective in spec.objectives]


def outcome(
    status: str, metrics: Mapping[str, Any], objectives: Sequence[Objective]
) -> tuple[TrialState, list[float] | None]:
    """A trial's end in Optuna's terms: COMPLETE only if every objective was measured, PRUNED (Optuna has the
    intermediate values), or FAIL."""
    if status == "pruned":
        return TrialState.PRUNED, None
    if status == "completed":
        names = [objective.metric for objective in objectives]
        values = [float(metrics[name]) for name in names if name in metrics and metrics[name] is not None]
        if len(values) == len(names) and all(abs(value) <= LARGEST for value in values):
            return TrialState.COMPLETE, values
    return TrialState.FAIL, None


def outcome_of_point(
    ends: Sequence[TrialRow], objectives: Sequence[Objective]
) -> tuple[TrialState, list[float] | None]:
    """The end of a point in Optuna's terms: of one trial its own, of several the mean of each objective. FAIL where one
    of several did not complete, so that no mean hides it."""
    outcomes = [outcome(end.status, end.metrics, objectives) for end in ends]
    if len(outcomes) == 1:
        return outcomes[0]
    measured = [values for state, values in outcomes if state is TrialState.COMPLETE and values is not None]
    if len(measured) < len(outcomes):
        return TrialState.FAIL, None
    return TrialState.COMPLETE, [statistics.fmean(values) for values in zip(*measured, strict=True)]


class SobolFirst(BaseSampler):
    """Scrambled Sobol points for the first `startup` draws, then another sampler.

    Random start-up points leave holes, which matter in a small search. The study file gives the space, so the first
    draw is a Sobol point too; Optuna's own Sobol sampler learns the space from the first draw.
    """

    def __init__(self, known: Mapping[str, BaseDistribution], *, startup: int, seed: int, then: BaseSampler) -> None:
        self._space, self._startup, self._then = dict(known), startup, then
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ExperimentalWarning
            )  # the interface is experimental; constraints.txt pins it
            self._sobol = _Sobol(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """The whole space."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A point of the whole space."""
        self._sobol.index = trial.number
        if trial.number < self._startup:
            return self._sobol.sample_relative(study, trial, search_space)
        drawn = self._then.sample_relative(study, trial, search_space)
        return drawn or self._sobol.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Not called in practice: every parameter is part of the relative space."""
        return self._then.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass the end of a trial on to the other sampler."""
        self._then.after_trial(study, trial, state, values)


class _Sobol(QMCSampler):
    """A Sobol sequence that draws the point number `index`. Optuna counts points in its storage; in a rebuilt study it
    would start again from the first point, and MAX_DRAWS repeats look like an exhausted space."""

    index = 0

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:  # noqa: ARG002
        return self.index


def _to_optuna(distribution: Distribution) -> BaseDistribution:
    if isinstance(distribution, Choice):
        return CategoricalDistribution(distribution.choices)
    if distribution.kind == "one_minus_loguniform":
        low, high = _one_minus(distribution)
        return FloatDistribution(low, high, log=True)
    if distribution.whole:
        return IntDistribution(int(distribution.low), int(distribution.high), log=distribution.log)
    return FloatDistribution(distribution.low, distribution.high, log=distribution.log)


def _decode(distribution: Distribution, drawn: Any) -> Any:
    if distribution.kind == "one_minus_loguniform":
        assert isinstance(distribution, Range)
        return min(max(1 - drawn, distribution.low), distribution.high)  # 1 - (1 - x) may miss a bound by rounding
    return drawn


def _encode(distribution: Distribution, value: Any) -> Any:
    if distribution.kind == "one_minus_loguniform":
        assert isinstance(distribution, Range)
        low, high = _one_minus(distribution)
        return min(max(1 - value, low), high)
    return value


def _one_minus(distribution: Range) -> tuple[float, float]:
    """The bounds of 1 - x."""
    return 1 - distribution.high, 1 - distribution.low
