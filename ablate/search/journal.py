"""Optuna's study of a search, made anew from the ledger at every start of a driver.

results/STUDY/optuna.journal is written for whoever wants to watch it and for the run that is under way; nothing reads
it after that run has died. What is deleted, cut off or stale there is therefore lost to nobody: draws, intermediate
values, ends and the marks of successive halving all follow from the ledger. The marks do because the reports are
played to the pruner again, in the order in which they were first made (as far as the machines' clocks agree).
"""

from __future__ import annotations

import logging
import math
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ablate.errors import ParameterError
from ablate.records import draws
from ablate.records.draws import Draw
from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.search import samplers
from ablate.search.learners import TRIAL_ID
from ablate.spec.designs import SEARCH
from ablate.spec.models import StudySpec
from ablate.trainers import recorded
from ablate.trials.plan import search_trial
from ablate.trials.trial import Trial

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Past:
    """What a search has behind it: its study on a new journal, every trial that was ever drawn, by their numbers those
    that did not end, and those that successive halving had told to stop."""

    study: optuna.Study
    storage: JournalStorage
    drawn: frozenset[str]
    unfinished: Mapping[int, Trial]
    stopped: frozenset[str]


def make_anew(spec: StudySpec, ledger: Ledger, *, pruner: optuna.pruners.BasePruner) -> Past:
    """The study as the ledger tells it, written as the study's journal in the place of whatever stood there."""
    rows = {row.trial_id: row for row in ledger.rows() if row.arm == SEARCH}
    replay = _Replay(spec, pruner, rows)
    for draw in _in_order(draws.recorded(ledger.store), rows, keys=tuple(spec.search)):
        replay.draw(draw)
    if len(spec.objectives) == 1:
        for trial_id, tokens, value in _reports(ledger, metric=spec.objectives[0].metric):
            replay.report(trial_id, tokens=tokens, value=value)
    replay.end()
    study, storage = _write(spec, ledger.path("optuna.journal"), replay.study.get_trials(deepcopy=False))
    drawn = frozenset(rows) | {trial.trial_id for trial in replay.unfinished.values()}
    return Past(study, storage, drawn, unfinished=replay.unfinished, stopped=frozenset(replay.stopped))


class _Replay:
    """A study in memory to which what happened happens again."""

    def __init__(self, spec: StudySpec, pruner: optuna.pruners.BasePruner, rows: Mapping[str, TrialRow]) -> None:
        self._spec, self._pruner, self._rows = spec, pruner, rows
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, directions=samplers.directions(spec), pruner=pruner)
        self._space = samplers.space(spec.search)
        self._first: dict[str, int] = {}
        """Trial -> the number of its draw that was trained."""
        self._repeats: dict[int, str] = {}
        self._audited: set[str] = set()
        self._budgets: dict[str, int | None] = {}
        self.unfinished: dict[int, Trial] = {}
        self.stopped: set[str] = set()

    def draw(self, draw: Draw) -> None:
        """The next number's draw. One that teaches nothing (unknown, out of the space) keeps its number."""
        if not draw.trial_id:
            unfit = self._frozen(draw, state=TrialState.FAIL) if draw.params else None
            self.study.add_trial(unfit or optuna.trial.create_trial(state=TrialState.FAIL))
            return
        number = len(self._storage.get_all_trials(0, deepcopy=False))
        again, row = draw.trial_id in self._first, self._rows.get(draw.trial_id)
        trial = None if row or again else self._trial(draw)
        frozen = self._frozen(draw) if row or again or trial else None
        self.study.add_trial(frozen or optuna.trial.create_trial(state=TrialState.FAIL))
        if frozen is None:
            return
        if again:
            self._repeats[number] = draw.trial_id
            return
        self._first[draw.trial_id] = number
        self._budgets[draw.trial_id] = draw.params.get(self._spec.trainer.description.budget, self._spec.base.budget)
        stopping = self._spec.early_stopping
        fraction, seed = stopping.audit_fraction if stopping else 0.0, self._spec.optimizer.seed
        if row.audited if row else samplers.audited(number, fraction=fraction, seed=seed):
            self._audited.add(draw.trial_id)
        if trial is not None:
            self.unfinished[number] = trial

    def report(self, trial_id: str, *, tokens: int, value: float) -> None:
        """A report as it was made; the pruner marks the rungs that it has reached."""
        if trial_id not in self._first:
            return
        self._storage.set_trial_intermediate_value(self._first[trial_id], tokens, value)
        budget = self._budgets[trial_id]
        if trial_id in self._audited | self.stopped or (budget is not None and tokens >= budget):
            return
        if self._pruner.prune(self.study, self._storage.get_trial(self._first[trial_id])):
            self.stopped.add(trial_id)

    def end(self) -> None:
        """Tell every end, and of a repeat what is known of its first."""
        for trial_id, number in self._first.items():
            if trial_id in self._rows:
                row = self._rows[trial_id]
                state, values = samplers.outcome(row.status, row.metrics, self._spec.objectives)
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

    def _trial(self, draw: Draw) -> Trial | None:
        """The trial to go on with; None where this version of the model understands the values otherwise."""
        try:
            trial = search_trial(self._spec, draw.params)
        except ParameterError:
            return None
        return trial if trial.trial_id == draw.trial_id else None

    def _frozen(self, draw: Draw, *, state: TrialState = TrialState.RUNNING) -> FrozenTrial | None:
        """The draw in Optuna's terms, by default still running."""
        try:
            return optuna.trial.create_trial(
                state=state,
                params=samplers.encode(self._spec.search, draw.params),
                distributions=self._space,
                user_attrs={TRIAL_ID: draw.trial_id},
            )
        except (ValueError, KeyError) as error:
            _LOG.warning("trial %s does not fit the search space and is not learnt from: %s", draw.trial_id, error)
            return None


def _in_order(draws: list[Draw], rows: Mapping[str, TrialRow], *, keys: tuple[str, ...]) -> Iterator[Draw]:
    """A draw for every number. Rows whose draws are not there (an older study's) fill the gaps, by their start."""
    known = {draw.number: draw for draw in draws}
    without = rows.keys() - {draw.trial_id for draw in draws}
    waiting = deque(sorted((rows[name] for name in without), key=lambda row: (row.started_at, row.trial_id)))
    number = 0
    while number <= max(known, default=-1) or waiting:
        if number in known:
            yield known[number]
        elif waiting:
            row = waiting.popleft()
            values = recorded.values(row.config_json)
            yield Draw(number, row.trial_id, {key: values[key] for key in keys})
        else:
            yield Draw(number, "", {})
        number += 1


def _reports(ledger: Ledger, *, metric: str) -> list[tuple[str, int, float]]:
    """(trial, tokens, value) of every report with a value, in the order in which they were first made."""
    first: dict[tuple[str, int], tuple[datetime, float]] = {}
    columns = ("trial_id", "tokens_seen", "time", metric)
    for row in ledger.history(columns=columns, repeats=True).to_pylist():
        key, value = (row["trial_id"], row["tokens_seen"]), row[metric]
        # After a death the steps since the last checkpoint are reported again: the first time is when it was judged.
        if value is not None and math.isfinite(value) and (key not in first or row["time"] < first[key][0]):
            first[key] = (row["time"], float(value))
    ordered: list[tuple[datetime, str, int, float]] = []
    for (trial_id, tokens), (time, value) in sorted(first.items()):
        if ordered and ordered[-1][1] == trial_id:
            time = max(time, ordered[-1][0])  # a clock that was set back does not turn a trial's own order round
        ordered.append((time, trial_id, tokens, value))
    return [(trial_id, tokens, value) for _, trial_id, tokens, value in sorted(ordered)]


def _write(spec: StudySpec, path: Path, trials: list[FrozenTrial]) -> tuple[optuna.Study, JournalStorage]:
    """A journal of these trials, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    directions: dict[str, Any] = {"study_name": spec.study, "directions": samplers.directions(spec)}
    optuna.create_study(storage=JournalStorage(JournalFileBackend(str(draft))), **directions).add_trials(trials)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a driver that was killed: one drives at a time
    draft.replace(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=spec.study, storage=storage), storage
