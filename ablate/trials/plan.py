"""Turns a study into trials: the arms on the same seeds, and the trials that prepare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.spec import designs, distributions, matching, spending
from ablate.spec.designs import BASELINE, CALIBRATE, CONFIRM, SEARCH, TUNE
from ablate.spec.models import StudySpec
from ablate.spec.spending import Looks
from ablate.trainers import Config
from ablate.trials.trial import Trial, make


def search_trial(spec: StudySpec, params: Mapping[str, Any]) -> Trial:
    """The trial of a draw on the search's first seed, which names the point. Raises ParameterError where the drawn
    values make no valid configuration."""
    return make(spec.study, SEARCH, spec.base.override(params), keys=params)


def search_trials(spec: StudySpec, params: Mapping[str, Any]) -> tuple[Trial, ...]:
    """The trials of a draw, one for each of the search's seeds, the first seed's first. Raises ParameterError as
    `search_trial` does."""
    first, key = search_trial(spec, params), spec.trainer.description.seed
    others = (first.config.override({key: seed}) for seed in search_seeds(spec)[1:])
    return (first, *(make(spec.study, SEARCH, config, keys=params) for config in others))


def search_seeds(spec: StudySpec) -> list[int]:
    """The seeds of every point of the search: the base's, then those after the seeds that may confirm it."""
    first = spec.base.seed + FURTHER
    return [spec.base.seed, *range(first, first + spec.optimizer.seeds_per_trial - 1)]


def seeds(spec: StudySpec) -> list[int]:
    """The ablation's seeds. They exclude the search's seed, so that nothing is judged on the seed it was tuned on."""
    if spec.ablation is None:
        return []
    first = spec.base.seed + 1
    return list(range(first, first + spec.ablation.seeds))


def looks(spec: StudySpec) -> Looks | None:
    """The looks at sequential seeds; None where the number of seeds is fixed."""
    declared = spec.ablation.sequential if spec.ablation else None
    if declared is None:
        return None
    sizes = spending.sizes(first=declared.first, most=declared.most, step=declared.block)
    return Looks(sizes, declared.alpha, spec.base.seed + 1)


Settled = Mapping[str, Mapping[str, Any]]
"""Arm -> what was settled for it before it trains: matched budget and tuned values."""


def arms(spec: StudySpec, base: Config) -> dict[str, Mapping[str, Any]]:
    """Arm -> overrides of `base`, the baseline first. Empty without an ablation."""
    if spec.ablation is None:
        return {}
    return {BASELINE: {}, **{arm.name: arm.overrides for arm in designs.expand(spec.ablation, base)}}


def searched_points(spec: StudySpec) -> int:
    """The number of points that the search tries: no more than its space has."""
    return int(min(spec.optimizer.trials, distributions.points(spec.search))) if spec.search else 0


def searched_trials(spec: StudySpec) -> int:
    """The number of trials of the search: one for each point and seed."""
    return searched_points(spec) * spec.optimizer.seeds_per_trial


FRESH = 1_001
"""The first seed that confirms the search, counted from the search's: an ablation's seeds end before."""

FURTHER = 1_101
"""The search's second seed, counted from its first: those that confirm it, 100 at most, end before."""


def confirmations(spec: StudySpec) -> int:
    """The number of trials that confirm the search; fewer where fewer of its points have a value."""
    confirm = spec.optimizer.confirm
    return min(confirm.best, searched_points(spec)) * confirm.seeds if confirm else 0


def confirm_trials(spec: StudySpec, best: Mapping[str, Config]) -> list[Trial]:
    """The search's best trials (id -> configuration, in their order) on fresh seeds, ordered by seed."""
    assert spec.optimizer.confirm is not None
    first, key = spec.base.seed + FRESH, spec.trainer.description.seed
    return [
        make(spec.study, CONFIRM + name, config.override({key: seed}), keys=spec.search)
        for seed in range(first, first + spec.optimizer.confirm.seeds)
        for name, config in best.items()
    ]


def planned(spec: StudySpec) -> int:
    """The number of trials of the whole study: search, its confirmation, calibration, tuning and arms."""
    searched, ablation = searched_trials(spec), spec.ablation
    searched += confirmations(spec)
    if ablation is None:
        return searched
    tuned = ablation.tune_each_arm.trials if ablation.tune_each_arm else 0
    others = len(arms(spec, spec.base)) - 1
    return count(searched=searched, arms=others, seeds=ablation.seeds, tuned=tuned, match=ablation.match)


def count(*, searched: int, arms: int, seeds: int, tuned: int, match: str) -> int:
    """The number of trials of a study with an ablation: `searched`, plus for each of the `arms` and the baseline
    `seeds`, `tuned`, and one calibration where arms are matched by time."""
    return searched + (arms + 1) * (seeds + tuned + (1 if match == "wall" else 0))


def budgets(spec: StudySpec, base: Config, *, tokens_per_s: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Arm -> the overrides that match its budget to the baseline's; empty where it keeps the baseline's budget.

    `tokens_per_s`: arm -> measured speed, for `match: wall`. An arm without a speed is left out; without the baseline's
    speed all arms are.
    """
    found: dict[str, dict[str, Any]] = {}
    key = spec.trainer.description.budget
    assert spec.ablation is not None, "budgets are an ablation's"
    for arm, overrides in arms(spec, base).items():
        if spec.ablation.match == "flops" and arm != BASELINE:
            found[arm] = {key: matching.budget_for_flops(base, base.override(overrides))}
        elif spec.ablation.match != "wall" or (arm == BASELINE and arm in tokens_per_s):
            found[arm] = {}
        elif arm in tokens_per_s and BASELINE in tokens_per_s:
            own, control = tokens_per_s[arm], tokens_per_s[BASELINE]
            found[arm] = {key: matching.budget_for_speed(base, baseline_tokens_per_s=control, arm_tokens_per_s=own)}
    return found


def calibration_trials(spec: StudySpec, base: Config) -> list[Trial]:
    """A short trial of every arm and the baseline on the search's seed, which measures its speed."""
    short = {spec.trainer.description.budget: matching.calibration_budget(base)}
    return [
        make(spec.study, CALIBRATE + arm, base.override({**overrides, **short}), keys=overrides)
        for arm, overrides in arms(spec, base).items()
    ]


def tuning_trials(spec: StudySpec, base: Config, points: Sequence[Mapping[str, Any]], settled: Settled) -> list[Trial]:
    """The tuning trials: the same points for every arm in `settled`, on the search's seed, ordered by point."""
    return [
        make(spec.study, TUNE + arm, base.override({**overrides, **settled[arm], **point}), keys={**overrides, **point})
        for point in points
        for arm, overrides in arms(spec, base).items()
        if arm in settled
    ]


def arm_trials(spec: StudySpec, base: Config, settled: Settled | None = None) -> list[Trial]:
    """The ablation's trials: every arm and the baseline on the same seeds, ordered by seed, so that a killed ablation
    leaves whole pairs.

    `base` is the baseline's configuration: the study's base or the search's best. `settled`: what each arm overrides
    besides; an arm that is not in it does not train (none of its tuning trials completed). None: nothing is settled.
    Raises ParameterError where an arm is not valid on its base.
    """
    own, trainer = arms(spec, base), spec.trainer.description
    settled = {arm: {} for arm in own} if settled is None else settled
    return [
        make(
            spec.study,
            arm,
            base.override({**overrides, **settled[arm], trainer.seed: seed}),
            keys=[*overrides, *(key for key in settled[arm] if key != trainer.budget)],
        )
        for seed in seeds(spec)
        for arm, overrides in own.items()
        if arm in settled
    ]
