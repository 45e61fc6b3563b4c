"""The adaptive search: draws trials from Optuna and tells it how they ended.

Every draw is written to the ledger before its trial trains. At a start Optuna's study is rebuilt from the ledger
(`journal.rebuild`), and trials that did not end come first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ablate.errors import ParameterError
from ablate.formatting import LARGEST
from ablate.records import draws
from ablate.records.draws import Draw
from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.search import journal, learners, samplers
from ablate.search.journal import Begun
from ablate.search.learners import TRIAL_ID
from ablate.search.samplers import MAX_DRAWS
from ablate.spec.models import StudySpec
from ablate.trainers import Verdict
from ablate.trials.plan import search_trials, searched_points
from ablate.trials.trial import Trial


@dataclass(frozen=True)
class _Running:
    """The point of a running trial: Optuna's number and storage id, its budget (None: in epochs), whether early
    stopping ignores it, and those of its trials that have ended."""

    number: int
    storage_id: int
    budget_tokens: int | None
    audited: bool
    ends: list[TrialRow]


class Search:
    """The TrialSource of a study's search."""

    def __init__(self, spec: StudySpec, ledger: Ledger) -> None:
        self._spec, self._ledger = spec, ledger
        self._pruner = samplers.pruner(spec)
        rebuilt = journal.rebuild(spec, ledger, pruner=self._pruner)
        self._study, self._storage = rebuilt.study, rebuilt.storage
        self._study_id = self._storage.get_study_id_from_name(spec.study)
        # A restarted sampler with the same seed would repeat its first draws.
        before = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = samplers.sampler(spec, seed=spec.optimizer.seed + before)
        self._space = samplers.space(spec.search)
        self._drawn = set(rebuilt.drawn)
        self._stopped = set(rebuilt.stopped)
        self._running: dict[str, _Running] = {}
        self._waiting = deque[Trial]()
        for number, begun in rebuilt.unfinished.items():
            self._begin(begun, number)
        self.exhausted = False
        """Whether the space gives no more points, though not every point of it may be known to be drawn."""

    @property
    def points(self) -> int:
        """The number of points at the search's end; fewer than `optimizer.trials` where the space is exhausted."""
        return len(self._drawn) if self.exhausted else max(searched_points(self._spec), len(self._drawn))

    @property
    def total(self) -> int:
        """The number of trials at the search's end: one for each point and seed."""
        return self.points * self._spec.optimizer.seeds_per_trial

    def ask(self) -> Trial | None:
        """The next trial: first those that a dead driver left running, then the seeds of a point, then new draws."""
        if self._waiting:
            return self._waiting.popleft()
        if self.exhausted or len(self._drawn) >= searched_points(self._spec):
            return None
        for _ in range(MAX_DRAWS):
            drawn = self._study.ask(self._space)
            params = samplers.decode(self._spec.search, drawn.params)
            try:
                trials = search_trials(self._spec, params)
            except ParameterError:  # a value between valid ends may be invalid
                draws.record(Draw(drawn.number, "", params), store=self._ledger.store)
                self._study.tell(drawn, state=TrialState.FAIL)
                continue
            name = trials[0].trial_id
            draws.record(Draw(drawn.number, name, params), store=self._ledger.store)
            drawn.set_user_attr(TRIAL_ID, name)
            if name not in self._drawn:
                self._begin(Begun(trials), drawn.number)
                return self._waiting.popleft()
            self._tell_repeat(drawn, name)
        self.exhausted = True
        return None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """Record an intermediate value; STOP where ASHA prunes the trial. A point of several seeds has no intermediate
        values, and is never stopped.

        Every later report of the trial gets STOP too, because it may have died before the first STOP reached it. A
        trial at the end of its budget is never stopped.
        """
        ended = trial_id not in self._running  # and this report is late
        several = len(self._spec.objectives) > 1 or self._spec.optimizer.seeds_per_trial > 1
        if ended or several or value is None or not abs(value) <= LARGEST:
            return Verdict.CONTINUE
        running = self._running[trial_id]
        if tokens not in self._storage.get_trial(running.storage_id).intermediate_values:
            self._storage.set_trial_intermediate_value(running.storage_id, tokens, float(value))
        if running.audited or (running.budget_tokens is not None and tokens >= running.budget_tokens):
            return Verdict.CONTINUE
        if trial_id not in self._stopped:
            if not self._pruner.prune(self._study, self._storage.get_trial(running.storage_id)):
                return Verdict.CONTINUE
            self._stopped.add(trial_id)
        return Verdict.STOP

    def tell(self, row: TrialRow) -> None:
        """Tell Optuna how a point ended, once all its trials have. A second row of the same trial is ignored."""
        if row.trial_id not in self._running:
            return
        running = self._running.pop(row.trial_id)
        running.ends.append(row)
        if len(running.ends) == self._spec.optimizer.seeds_per_trial:
            self._tell(running.number, samplers.outcome_of_point(running.ends, self._spec.objectives))

    # ---- draws

    def _begin(self, begun: Begun, number: int) -> None:
        """Queue the trials of a point that have not ended."""
        stopping, seed = self._spec.early_stopping, self._spec.optimizer.seed
        audited = samplers.audited(number, fraction=stopping.audit_fraction if stopping else 0.0, seed=seed)
        self._drawn.add(begun.trials[0].trial_id)
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        running = _Running(number, storage_id, begun.trials[0].config.budget, audited, list(begun.ends))
        for trial in begun.missing:
            self._running[trial.trial_id] = running
            self._waiting.append(replace(trial, audited=audited))

    def _tell_repeat(self, drawn: optuna.Trial, trial_id: str) -> None:
        """Give a repeated draw the end of its first draw; FAIL while that trial runs, because Optuna wants an end."""
        first = self._ended(trial_id)
        if first is None or trial_id in self._running or first.state is TrialState.FAIL:
            self._study.tell(drawn, state=TrialState.FAIL)
            return
        for step, value in first.intermediate_values.items():
            drawn.report(value, step)
        self._tell(drawn.number, (first.state, first.values if first.state is TrialState.COMPLETE else None))

    def _ended(self, trial_id: str) -> FrozenTrial | None:
        ended = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return next((trial for trial in ended if learners.id_of(trial) == trial_id), None)

    def _tell(self, number: int, outcome: tuple[TrialState, list[float] | None]) -> None:
        state, values = outcome
        self._study.tell(number, values, state=state)


def preview(spec: StudySpec, *, count: int) -> list[Trial]:
    """The trials of the search's first `count` draws; writes nothing."""
    study = optuna.create_study(sampler=samplers.sampler(spec, seed=spec.optimizer.seed))
    space = samplers.space(spec.search)

    def draws() -> Any:
        for _ in range(count + MAX_DRAWS):
            try:
                yield search_trials(spec, samplers.decode(spec.search, study.ask(space).params))
            except ParameterError:
                continue

    different = {trial.trial_id: trial for trials in islice(draws(), count) for trial in trials}
    return list(different.values())
