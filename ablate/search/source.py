"""The adaptive search: draws trials from Optuna and tells it the truth about them.

Every draw is in the ledger before anything is trained of it. What Optuna knows at a start is what the ledger says
(`journal.make_anew`): trials that were left running are asked for again, first of all.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ablate.errors import ParameterError
from ablate.records import draws
from ablate.records.draws import Draw
from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.search import journal, learners, samplers
from ablate.search.learners import TRIAL_ID
from ablate.search.samplers import MOST_DRAWS
from ablate.spec.models import StudySpec
from ablate.trainers import Verdict
from ablate.trials.plan import search_trial
from ablate.trials.trial import Trial

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Running:
    """A trial under way: Optuna's number and storage id, where its budget ends (None: in epochs), and whether it is
    never to be stopped."""

    number: int
    storage_id: int
    budget_tokens: int | None
    audited: bool


class Search:
    """The TrialSource of a study's search. See `trials.source.TrialSource`."""

    def __init__(self, spec: StudySpec, ledger: Ledger) -> None:
        self._spec, self._ledger = spec, ledger
        self._pruner = samplers.pruner(spec)
        past = journal.make_anew(spec, ledger, pruner=self._pruner)
        self._study, self._storage = past.study, past.storage
        self._study_id = self._storage.get_study_id_from_name(spec.study)
        # A restarted sampler would repeat its first draws if it began from the same seed.
        before = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = samplers.sampler(spec, seed=spec.optimizer.seed + before)
        self._space = samplers.space(spec.search)
        self._drawn = set(past.drawn)
        self._stopped = set(past.stopped)
        self._running: dict[str, _Running] = {}
        self._again = deque(self._start(trial, number) for number, trial in past.unfinished.items())
        self._exhausted = False

    @property
    def total(self) -> int:
        """Trials that the search will have had at its end; fewer than asked for where the space has no more."""
        return len(self._drawn) if self._exhausted else max(self._spec.optimizer.trials, len(self._drawn))

    def ask(self) -> Trial | None:
        """The next trial: first those that a dead driver left running, then a draw that equals no earlier one."""
        if self._again:
            return self._again.popleft()
        if self._exhausted or len(self._drawn) >= self._spec.optimizer.trials:
            return None
        for _ in range(MOST_DRAWS):
            drawn = self._study.ask(self._space)
            params = samplers.decode(self._spec.search, drawn.params)
            try:
                trial = search_trial(self._spec, params)
            except ParameterError:  # between valid ends lies a value that is not
                draws.record(Draw(drawn.number, "", params), store=self._ledger.store)
                self._study.tell(drawn, state=TrialState.FAIL)
                continue
            draws.record(Draw(drawn.number, trial.trial_id, params), store=self._ledger.store)
            drawn.set_user_attr(TRIAL_ID, trial.trial_id)
            if trial.trial_id not in self._drawn:
                return self._start(trial, drawn.number)
            self._answer(drawn, trial.trial_id)
        self._exhausted = True
        _LOG.warning("search %s ends: %d draws in a row were no new trials", self._spec.study, MOST_DRAWS)
        return None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """Note an intermediate value; STOP where ASHA prunes, and from then on: who died unhearing is told again.

        At the end of its budget a trial is never stopped.
        """
        if value is None or not math.isfinite(value) or len(self._spec.objectives) > 1:
            return Verdict.CONTINUE
        if trial_id not in self._running:  # told already: a late report
            return Verdict.CONTINUE
        running = self._running[trial_id]
        if tokens not in self._storage.get_trial(running.storage_id).intermediate_values:
            self._storage.set_trial_intermediate_value(running.storage_id, tokens, float(value))
        if running.budget_tokens is not None and tokens >= running.budget_tokens:
            return Verdict.CONTINUE
        if running.audited:
            return Verdict.CONTINUE
        if trial_id in self._stopped:
            return Verdict.STOP
        if not self._pruner.prune(self._study, self._storage.get_trial(running.storage_id)):
            return Verdict.CONTINUE
        self._stopped.add(trial_id)
        return Verdict.STOP

    def tell(self, row: TrialRow) -> None:
        """Tell Optuna how a trial ended. What was told already is not told twice."""
        if row.trial_id not in self._running:
            return
        running = self._running.pop(row.trial_id)
        self._tell(running.number, samplers.outcome(row.status, row.metrics, self._spec.objectives))

    # ---- draws

    def _start(self, trial: Trial, number: int) -> Trial:
        stopping, seed = self._spec.early_stopping, self._spec.optimizer.seed
        audited = samplers.audited(number, fraction=stopping.audit_fraction if stopping else 0.0, seed=seed)
        self._drawn.add(trial.trial_id)
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._running[trial.trial_id] = _Running(number, storage_id, trial.config.budget, audited)
        return replace(trial, audited=audited)

    def _answer(self, drawn: optuna.Trial, trial_id: str) -> None:
        """Tell a repeated draw what is known of its first; the liar's FAIL while that one still runs."""
        first = self._first(trial_id)
        if first is None or trial_id in self._running or first.state is TrialState.FAIL:
            self._study.tell(drawn, state=TrialState.FAIL)
            return
        for step, value in first.intermediate_values.items():
            drawn.report(value, step)
        self._tell(drawn.number, (first.state, first.values if first.state is TrialState.COMPLETE else None))

    def _first(self, trial_id: str) -> FrozenTrial | None:
        ended = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return next((trial for trial in ended if learners.id_of(trial) == trial_id), None)

    def _tell(self, number: int, outcome: tuple[TrialState, list[float] | None]) -> None:
        state, values = outcome
        self._study.tell(number, values, state=state)


def preview(spec: StudySpec, *, count: int) -> list[Trial]:
    """The search's first draws, nothing of them written anywhere."""
    study = optuna.create_study(sampler=samplers.sampler(spec, seed=spec.optimizer.seed))
    space = samplers.space(spec.search)

    def draws() -> Any:
        for _ in range(count + MOST_DRAWS):
            try:
                yield search_trial(spec, samplers.decode(spec.search, study.ask(space).params))
            except ParameterError:
                continue

    different = {trial.trial_id: trial for trial in islice(draws(), count)}
    return list(different.values())
