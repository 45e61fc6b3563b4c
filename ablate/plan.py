"""From a study to its trials: content-hashed ids, arms on the same seeds, and what a runner pulls trials from."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from model.api import Config, Verdict, override, value_of

if TYPE_CHECKING:
    from ablate.ledger import TrialRow
    from ablate.spec import StudySpec

SEARCH, BASELINE = "search", "baseline"
"""The two arms that are nobody's to name: a search's trials, and an ablation's control."""


@dataclass(frozen=True)
class Trial:
    """One configuration to train once. `params` are the searched or overridden values under dotted keys."""

    trial_id: str
    study: str
    arm: str
    seed: int
    config: Config
    params: Mapping[str, Any]


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


def arm_trials(spec: StudySpec, base: Config) -> list[Trial]:
    """Every arm and the baseline on the same seeds, seed by seed, so that a killed ablation leaves whole pairs.

    `base` is what the arms deviate from: the study's own base or the search's best configuration. Raises ConfigError
    where an arm does not go with it.
    """
    if spec.ablation is None:
        return []
    arms: dict[str, Mapping[str, Any]] = {BASELINE: {}, **spec.ablation.arms}
    return [
        _trial(spec.study, arm, override(base, {**overrides, "train.seed": seed}), keys=overrides)
        for seed in seeds(spec)
        for arm, overrides in arms.items()
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
