"""From a study to its trials: content-hashed ids, arms on the same seeds, and what a runner pulls trials from."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ablate.spec import designs, matching
from model.api import Config, Verdict, override, value_of

if TYPE_CHECKING:
    from ablate.records.ledger import TrialRow
    from ablate.spec.study_file import StudySpec

SEARCH, BASELINE = "search", "baseline"
"""The two arms that are nobody's to name: a search's trials, and an ablation's control."""

TUNE, CALIBRATE = "tune.", "calibrate."
"""What stands before an arm's name in the rows of the trials that tune it, and of the run that measures its speed."""


@dataclass(frozen=True)
class Trial:
    """One configuration to train once. `params` are the searched or overridden values under dotted keys."""

    trial_id: str
    study: str
    arm: str
    seed: int
    config: Config
    params: Mapping[str, Any]
    audited: bool | None = None
    """Whether a search's trial is left alone by early stopping; None for any other trial."""
    predicted_peak_gib: float | None = None
    """Of the card's memory, before it is corrected by what others like it took; None without a card."""
    gpu_fraction: float | None = None
    """What each of its workers holds of a card, or whole cards; None where nobody gave it any."""


class TrialSource(Protocol):
    """What a runner pulls trials from: it asks until None, passes reports on, and tells every trial's final row."""

    @property
    def total(self) -> int:
        """Trials that are planned, those of earlier runs included."""
        ...

    def ask(self) -> Trial | None:
        """The next trial to start; None when there is nothing to start any more, ever."""
        ...

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """What a trial in progress should do, `value` being the objective after `tokens` (None: not measured)."""
        ...

    def tell(self, row: TrialRow) -> None:
        """A trial's final row, whatever it is."""
        ...


def trial_id(arm: str, config: Config, seed: int) -> str:
    """12 hex digits that name this arm, whole configuration and seed; equal wherever and whenever it is computed."""
    text = json.dumps([arm, json.loads(config.model_dump_json()), seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def search_trial(spec: StudySpec, params: Mapping[str, Any]) -> Trial:
    """The trial of a draw. Raises ConfigError where the drawn values do not go together."""
    return _trial(spec.study, SEARCH, override(spec.base, params), keys=params)


def seeds(spec: StudySpec) -> list[int]:
    """The ablation's seeds, disjoint from the search's: what was tuned on a seed is not judged on it."""
    if spec.ablation is None:
        return []
    first = spec.base.train.seed + 1
    return list(range(first, first + spec.ablation.seeds))


Settled = Mapping[str, Mapping[str, Any]]
"""Arm -> what was settled for it before it trains: its matched budget, its tuned values."""


def is_preparation(arm: str) -> bool:
    """Whether rows of this arm prepare an ablation (tuning, calibration) and are no results of it."""
    return arm.startswith((TUNE, CALIBRATE))


def arms(spec: StudySpec, base: Config) -> dict[str, Mapping[str, Any]]:
    """Arm -> overrides of `base`, the baseline first. Empty without an ablation."""
    if spec.ablation is None:
        return {}
    return {BASELINE: {}, **{arm.name: arm.overrides for arm in designs.expand(spec.ablation, base)}}


def planned(spec: StudySpec) -> int:
    """Trials of the whole study: the search's, then for every arm and the baseline what prepares it and its seeds."""
    searched = spec.optimizer.trials if spec.search else 0
    ablation = spec.ablation
    if ablation is None:
        return searched
    tuned = ablation.tune_each_arm.trials if ablation.tune_each_arm else 0
    calibrated = 1 if ablation.match == "wall" else 0
    return searched + len(arms(spec, spec.base)) * (ablation.seeds + tuned + calibrated)


def budgets(spec: StudySpec, base: Config, *, tokens_per_s: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Arm -> the overrides that give it the study's `match`; nothing where arms have the baseline's tokens as it is.

    `tokens_per_s`: arm -> measured speed, for `match: wall`; an arm without one, or all where the baseline has none,
    is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    assert spec.ablation is not None, "budgets are an ablation's"
    for arm, overrides in arms(spec, base).items():
        if spec.ablation.match == "flops" and arm != BASELINE:
            found[arm] = {"train.tokens": matching.tokens_for_flops(base, override(base, overrides))}
        elif spec.ablation.match != "wall" or (arm == BASELINE and arm in tokens_per_s):
            found[arm] = {}
        elif arm in tokens_per_s and BASELINE in tokens_per_s:
            tokens = matching.tokens_for_speed(
                base, baseline_tokens_per_s=tokens_per_s[BASELINE], arm_tokens_per_s=tokens_per_s[arm]
            )
            found[arm] = {"train.tokens": tokens}
    return found


def calibration_trials(spec: StudySpec, base: Config) -> list[Trial]:
    """A short run of every arm and the baseline, on the search's seed, for their speed."""
    return [
        _trial(
            spec.study,
            CALIBRATE + arm,
            override(base, {**overrides, "train.tokens": matching.calibration_tokens(base)}),
            keys=overrides,
        )
        for arm, overrides in arms(spec, base).items()
    ]


def tuning_trials(spec: StudySpec, base: Config, points: Sequence[Mapping[str, Any]], settled: Settled) -> list[Trial]:
    """The same points for every arm that has a budget in `settled`, on the search's seed, point by point."""
    return [
        _trial(
            spec.study,
            TUNE + arm,
            override(base, {**overrides, **settled[arm], **point}),
            keys={**overrides, **point},
        )
        for point in points
        for arm, overrides in arms(spec, base).items()
        if arm in settled
    ]


def arm_trials(spec: StudySpec, base: Config, settled: Settled | None = None) -> list[Trial]:
    """Every arm and the baseline on the same seeds, seed by seed, so that a killed ablation leaves whole pairs.

    `base` is what the arms deviate from: the study's own base or the search's best configuration. `settled`: what each
    arm got besides; one that is not in it does not train (nothing of its tuning completed). None: nothing was settled.
    Raises ConfigError where an arm does not go with its base.
    """
    own = arms(spec, base)
    settled = {arm: {} for arm in own} if settled is None else settled
    return [
        _trial(
            spec.study,
            arm,
            override(base, {**overrides, **settled[arm], "train.seed": seed}),
            keys=[*overrides, *(key for key in settled[arm] if key != "train.tokens")],
        )
        for seed in seeds(spec)
        for arm, overrides in own.items()
        if arm in settled
    ]


def _trial(study: str, arm: str, config: Config, *, keys: Iterable[str]) -> Trial:
    seed = config.train.seed
    # Values as the configuration holds them: 1 given for a float is 1.0, so equal values are equal in the ledger too.
    params = {key: value_of(config, key) for key in keys}
    return Trial(trial_id(arm, config, seed), study=study, arm=arm, seed=seed, config=config, params=params)


class ArmQueue:
    """A TrialSource of given trials, first to last, without those that are `done` already. Arms are never pruned."""

    def __init__(self, trials: Iterable[Trial], *, done: Set[str]) -> None:
        everything = list(trials)
        self._total = len(everything)
        self._waiting = deque(trial for trial in everything if trial.trial_id not in done)

    @property
    def total(self) -> int:
        """All the trials given, done ones included."""
        return self._total

    def ask(self) -> Trial | None:
        """The next one that is not done."""
        return self._waiting.popleft() if self._waiting else None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:  # noqa: ARG002 - the protocol's
        """Always CONTINUE: an arm that is stopped early cannot be compared."""
        return Verdict.CONTINUE

    def tell(self, row: TrialRow) -> None:
        """Nothing to learn from it."""
