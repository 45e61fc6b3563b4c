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
from ablate.formatting import LARGEST
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
class Rebuilt:
    """A search as the ledger records it: its study on a new journal, the ids of all drawn trials, number -> trial of
    those that did not end, and the ids of those that successive halving told to stop."""

    study: optuna.Study
    storage: JournalStorage
    drawn: frozenset[str]
    unfinished: Mapping[int, Trial]
    stopped: frozenset[str]


def rebuild(spec: StudySpec, ledger: Ledger, *, pruner: optuna.pruners.BasePruner) -> Rebuilt:
    """Rebuild the study from the ledger and replace its journal."""
    rows = {row.trial_id: row for row in ledger.rows() if row.arm == SEARCH}
    replay = _Replay(spec, pruner, rows)
    recorded_draws, problems = draws.recorded(ledger.store)
    for problem in problems:
        _LOG.warning("left out: %s/%s", ledger.place, problem)
    for draw in _every_draw(recorded_draws, rows, keys=tuple(spec.search)):
        replay.draw(draw)
    if len(spec.objectives) == 1:
        for trial_id, tokens, value in _reports(ledger, metric=spec.objectives[0].metric):
            replay.report(trial_id, tokens=tokens, value=value)
    replay.tell_ends()
    study, storage = _write(spec, ledger.path("optuna.journal"), replay.study.get_trials(deepcopy=False))
    drawn = frozenset(rows) | {trial.trial_id for trial in replay.unfinished.values()}
    return Rebuilt(study, storage, drawn, unfinished=replay.unfinished, stopped=frozenset(replay.stopped))


class _Replay:
    """Replays a search's draws, reports and ends to a study in memory."""

    def __init__(self, spec: StudySpec, pruner: optuna.pruners.BasePruner, rows: Mapping[str, TrialRow]) -> None:
        self._spec, self._pruner, self._rows = spec, pruner, rows
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(storage=self._storage, directions=samplers.directions(spec), pruner=pruner)
        self._space = samplers.space(spec.search)
        self._first: dict[str, int] = {}
        """Trial -> the number of its first draw, which is the trained one."""
        self._repeats: dict[int, str] = {}
        """Number of a repeated draw -> its trial."""
        self._audited: set[str] = set()
        self._budgets: dict[str, int | None] = {}
        self.unfinished: dict[int, Trial] = {}
        self.stopped: set[str] = set()

    def draw(self, draw: Draw) -> None:
        """Replay the draw of the next number. A draw that is unknown or outside the space still takes its number."""
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
        budget = self._spec.trainer.description.budget  # only of a searched one is it known that it fits the space
        self._budgets[draw.trial_id] = draw.params[budget] if budget in self._spec.search else self._spec.base.budget
        stopping = self._spec.early_stopping
        fraction, seed = stopping.audit_fraction if stopping else 0.0, self._spec.optimizer.seed
        if row.audited if row else samplers.audited(number, fraction=fraction, seed=seed):
            self._audited.add(draw.trial_id)
        if trial is not None:
            self.unfinished[number] = trial

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
        """Tell Optuna how every trial ended; a repeat gets the end of its first draw."""
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
        """The trial to resume; None where this version of the model gives the values another meaning."""
        try:
            trial = search_trial(self._spec, draw.params)
        except ParameterError:
            return None
        return trial if trial.trial_id == draw.trial_id else None

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


def _every_draw(draws: list[Draw], rows: Mapping[str, TrialRow], *, keys: tuple[str, ...]) -> Iterator[Draw]:
    """A draw for every number. Rows without a recorded draw (of an older study) fill the gaps, oldest first."""
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
