"""Rebuilds Optuna's study of a search from the ledger at every start of a driver.

results/STUDY/optuna.journal serves the current run and anyone who watches it; no later run reads it. So a journal that
is deleted, truncated or stale loses nothing: draws, intermediate values, ends and the rungs of successive halving
follow from the ledger. The rungs do because the reports are replayed to the pruner in the order in which they were
first made (as far as the machines' clocks agree).
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ablate.analyze.basis import points
from ablate.analyze.basis.points import Point
from ablate.errors import ParameterError
from ablate.formatting import LARGEST
from ablate.records import draws
from ablate.records.draws import Draw
from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.search import samplers
from ablate.search.learners import TRIAL_ID
from ablate.spec.models import StudySpec
from ablate.trainers import recorded
from ablate.trials.plan import search_trials
from ablate.trials.trial import Trial

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """A point with all its `trials`, and those that have ended."""

    trials: tuple[Trial, ...]
    ends: tuple[TrialRow, ...] = ()

    @property
    def missing(self) -> list[Trial]:
        """The trials that have not ended."""
        ended = {end.trial_id for end in self.ends}
        return [trial for trial in self.trials if trial.trial_id not in ended]


@dataclass(frozen=True)
class Rebuilt:
    """A search as the ledger records it: its study on a new journal, the ids of all drawn points, number -> point of
    those that did not end, and the ids of those that successive halving told to stop. A point has the id of its first
    trial."""

    study: optuna.Study
    storage: JournalStorage
    drawn: frozenset[str]
    unfinished: Mapping[int, Begun]
    stopped: frozenset[str]


def rebuild(spec: StudySpec, ledger: Ledger, *, pruner: optuna.pruners.BasePruner) -> Rebuilt:
    """Rebuild the study from the ledger and replace its journal."""
    ends = points.of(ledger.rows(), seeds=spec.optimizer.seeds_per_trial)
    replay = _Replay(spec, pruner, ends)
    recorded_draws, problems = draws.recorded(ledger.store)
    for problem in problems:
        _LOG.warning("left out: %s/%s", ledger.place, problem)
    for draw in _every_draw(recorded_draws, ends, spec=spec):
        replay.draw(draw)
    if len(spec.objectives) == 1 and spec.optimizer.seeds_per_trial == 1:
        for trial_id, tokens, value in _reports(ledger, metric=spec.objectives[0].metric):
            replay.report(trial_id, tokens=tokens, value=value)
    replay.tell_ends()
    study, storage = _write(spec, ledger.path("optuna.journal"), replay.study.get_trials(deepcopy=False))
    drawn = {point.trial_id for point in ends if point.whole}
    drawn |= {begun.trials[0].trial_id for begun in replay.unfinished.values()}
    return Rebuilt(study, storage, frozenset(drawn), unfinished=replay.unfinished, stopped=frozenset(replay.stopped))


class _Replay:
    """Replays a search's draws, reports and ends to a study in memory."""

    def __init__(self, spec: StudySpec, pruner: optuna.pruners.BasePruner, ends: Sequence[Point[TrialRow]]) -> None:
        self._spec, self._pruner = spec, pruner
        self._ended = {end.trial_id: point for point in ends for end in point.ends}
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, directions=samplers.directions(spec), pruner=pruner)
        self._space = samplers.space(spec.search)
        self._first: dict[str, int] = {}
        """Point -> the number of its first draw, which is the trained one."""
        self._repeats: dict[int, str] = {}
        """Number of a repeated draw -> its point."""
        self._audited: set[str] = set()
        self._budgets: dict[str, int | None] = {}
        self.unfinished: dict[int, Begun] = {}
        self.stopped: set[str] = set()

    def draw(self, draw: Draw) -> None:
        """Replay the draw of the next number. A draw that is unknown or outside the space still takes its number."""
        if not draw.trial_id:
            unfit = self._frozen(draw, state=TrialState.FAIL) if draw.params else None
            self.study.add_trial(unfit or optuna.trial.create_trial(state=TrialState.FAIL))
            return
        number = len(self._storage.get_all_trials(0, deepcopy=False))
        again = draw.trial_id in self._first
        begun = None if again or self._whole(draw.trial_id) else self._begun(draw)
        frozen = self._frozen(draw) if begun or again or self._whole(draw.trial_id) else None
        self.study.add_trial(frozen or optuna.trial.create_trial(state=TrialState.FAIL))
        if frozen is None:
            return
        if again:
            self._repeats[number] = draw.trial_id
            return
        self._first[draw.trial_id] = number
        budget = self._spec.trainer.description.budget  # only of a searched one is it known that it fits the space
        self._budgets[draw.trial_id] = draw.params[budget] if budget in self._spec.search else self._spec.base.budget
        stopping = self._spec.early_stopping
        fraction, seed = stopping.audit_fraction if stopping else 0.0, self._spec.optimizer.seed
        row = self._ended[draw.trial_id].first if draw.trial_id in self._ended else None
        if row.audited if row else samplers.audited(number, fraction=fraction, seed=seed):
            self._audited.add(draw.trial_id)
        if begun is not None:
            self.unfinished[number] = begun

    def report(self, trial_id: str, *, tokens: int, value: float) -> None:
        """Replay a report; the pruner marks the rungs that the trial has reached."""
        if trial_id not in self._first:
            return
        self._storage.set_trial_intermediate_value(self._first[trial_id], tokens, value)
        budget = self._budgets[trial_id]
        if trial_id in self._audited | self.stopped or (budget is not None and tokens >= budget):
            return
        if self._pruner.prune(self.study, self._storage.get_trial(self._first[trial_id])):
            self.stopped.add(trial_id)

    def tell_ends(self) -> None:
        """Tell Optuna how every whole point ended; a repeat gets the end of its first draw."""
        for trial_id, number in self._first.items():
            if self._whole(trial_id):
                state, values = samplers.outcome_of_point(self._ended[trial_id].ends, self._spec.objectives)
                self.study.tell(number, values, state=state)
        for number, trial_id in self._repeats.items():
            first = self._storage.get_trial(self._first[trial_id])
            if first.state not in (TrialState.COMPLETE, TrialState.PRUNED):
                self.study.tell(number, state=TrialState.FAIL)
                continue
            for tokens, value in first.intermediate_values.items():
                self._storage.set_trial_intermediate_value(number, tokens, value)
            values = first.values if first.state is TrialState.COMPLETE else None
            self.study.tell(number, values, state=first.state)

    def _whole(self, trial_id: str) -> bool:
        return trial_id in self._ended and self._ended[trial_id].whole

    def _begun(self, draw: Draw) -> Begun | None:
        """The point to resume; None where this version of the model gives the values another meaning."""
        trials = _trials(self._spec, draw)
        names = {trial.trial_id for trial in trials}
        ends = next((self._ended[name].ends for name in names if name in self._ended), ())
        return Begun(trials, tuple(end for end in ends if end.trial_id in names)) if trials else None

    def _frozen(self, draw: Draw, *, state: TrialState = TrialState.RUNNING) -> FrozenTrial | None:
        """The draw as an Optuna trial; None where it does not fit the search space."""
        try:
            return optuna.trial.create_trial(
                state=state,
                params=samplers.encode(self._spec.search, draw.params),
                distributions=self._space,
                user_attrs={TRIAL_ID: draw.trial_id},
            )
        except (ValueError, KeyError, TypeError) as error:
            _LOG.warning("trial %s does not fit the search space, so the search ignores it: %s", draw.trial_id, error)
            return None


def _trials(spec: StudySpec, draw: Draw) -> tuple[Trial, ...]:
    """The trials of a draw; empty where this version of the model gives the values another meaning."""
    try:
        trials = search_trials(spec, draw.params)
    except ParameterError:
        return ()
    return trials if trials[0].trial_id == draw.trial_id else ()


def _every_draw(draws: list[Draw], ends: Sequence[Point[TrialRow]], *, spec: StudySpec) -> Iterator[Draw]:
    """A draw for every number. Points without a recorded draw (of an older study) fill the gaps, oldest first."""
    known = {draw.number: draw for draw in draws}
    drawn = {draw.trial_id for draw in draws}
    if spec.optimizer.seeds_per_trial > 1:  # of a point's trials the first may be the one that has not ended
        drawn |= {trial.trial_id for draw in draws for trial in _trials(spec, draw)}
    without = [point.first for point in ends if not drawn & {end.trial_id for end in point.ends}]
    waiting = deque(sorted(without, key=lambda row: (row.started_at, row.trial_id)))
    number = 0
    while number <= max(known, default=-1) or waiting:
        if number in known:
            yield known[number]
        elif waiting:
            row = waiting.popleft()
            values = recorded.values(row.config_json)
            yield Draw(number, row.trial_id, {key: values[key] for key in spec.search})
        else:
            yield Draw(number, "", {})
        number += 1


def _reports(ledger: Ledger, *, metric: str) -> list[tuple[str, int, float]]:
    """(trial, tokens, value) of every report with a value, in the order in which they were first made."""
    first: dict[tuple[str, int], tuple[datetime, float]] = {}
    columns = ("trial_id", "tokens_seen", "time", metric)
    for row in ledger.history(columns=columns, repeats=True).to_pylist():
        key, value = (row["trial_id"], row["tokens_seen"]), row[metric]
        # A resumed trial repeats the reports since its last checkpoint; the pruner judged the first ones.
        if value is not None and abs(value) <= LARGEST and (key not in first or row["time"] < first[key][0]):
            first[key] = (row["time"], float(value))
    ordered: list[tuple[datetime, str, int, float]] = []
    for (trial_id, tokens), (time, value) in sorted(first.items()):
        if ordered and ordered[-1][1] == trial_id:
            time = max(time, ordered[-1][0])  # a clock that was set back must not reorder the reports of one trial
        ordered.append((time, trial_id, tokens, value))
    return [(trial_id, tokens, value) for _, trial_id, tokens, value in sorted(ordered)]


def _write(spec: StudySpec, path: Path, trials: list[FrozenTrial]) -> tuple[optuna.Study, JournalStorage]:
    """Write a journal of these trials atomically; returns the study on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    directions: dict[str, Any] = {"study_name": spec.study, "directions": samplers.directions(spec)}
    optuna.create_study(storage=JournalStorage(JournalFileBackend(str(draft))), **directions).add_trials(trials)
    path.with_name(f"{path.name}.lock").unlink(
        missing_ok=True
    )  # left by a killed driver; only one driver runs at a time
    draft.replace(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=spec.study, storage=storage), storage
