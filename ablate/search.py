"""The adaptive search: draws trials from Optuna and tells it the truth about them.

Optuna's journal (results/STUDY/optuna.journal) is a memory, the ledger is the record: on a restart trials that were
left running are told or drawn again, and a journal that is missing or broken is made anew from the ledger.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ablate import samplers
from ablate.ledger import Ledger, TrialRow
from ablate.plan import SEARCH, Trial, search_trial
from ablate.samplers import MOST_DRAWS
from ablate.spec_models import Objective, StudySpec
from model.api import ConfigError, Verdict, from_json, value_of

_TRIAL_ID = "trial_id"
"""The attribute of an Optuna trial that holds our id: its own numbers also count repeated draws."""

_LOG = logging.getLogger(__name__)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class _Running:
    """A trial under way: Optuna's number and storage id, where its budget ends (None: in epochs), and whether it is
    never to be stopped."""

    number: int
    storage_id: int
    budget_tokens: int | None
    audited: bool


class Search:
    """The TrialSource of a study's search. See `plan.TrialSource`."""

    def __init__(self, spec: StudySpec, ledger: Ledger) -> None:
        self._spec, self._ledger = spec, ledger
        self._storage = _open_journal(ledger.path("optuna.journal"))
        self._pruner = samplers.pruner(spec)
        self._study = optuna.create_study(
            study_name=spec.study,
            storage=self._storage,
            directions=[_direction(objective) for objective in spec.objectives],
            pruner=self._pruner,
            load_if_exists=True,
        )
        self._study_id = self._storage.get_study_id_from_name(spec.study)
        # A restarted sampler would repeat its first draws if it began from the same seed.
        before = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = samplers.sampler(spec, seed=spec.optimizer.seed + before)
        self._space = samplers.space(spec.search)
        self._drawn: set[str] = set()
        self._running: dict[str, _Running] = {}
        self._again: deque[Trial] = deque()
        self._exhausted = False
        self._catch_up()

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
            try:
                trial = search_trial(self._spec, samplers.decode(self._spec.search, drawn.params))
            except ConfigError:  # between valid ends lies a value that is not
                self._study.tell(drawn, state=TrialState.FAIL)
                continue
            drawn.set_user_attr(_TRIAL_ID, trial.trial_id)
            if trial.trial_id not in self._drawn:
                return self._start(trial, drawn.number)
            self._answer(drawn, trial.trial_id)
        self._exhausted = True
        _LOG.warning("search %s ends: %d draws in a row were no new trials", self._spec.study, MOST_DRAWS)
        return None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:
        """Note an intermediate value; STOP where ASHA prunes. At the end of its budget a trial is never stopped."""
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
        pruned = self._pruner.prune(self._study, self._storage.get_trial(running.storage_id))
        return Verdict.STOP if pruned else Verdict.CONTINUE

    def tell(self, row: TrialRow) -> None:
        """Tell Optuna how a trial ended. What was told already is not told twice."""
        if row.trial_id not in self._running:
            return
        running = self._running.pop(row.trial_id)
        self._tell(running.number, _outcome(row.status, row.metrics, self._spec.objectives))

    # ---- draws

    def _start(self, trial: Trial, number: int) -> Trial:
        stopping, seed = self._spec.early_stopping, self._spec.optimizer.seed
        audited = samplers.audited(number, fraction=stopping.audit_fraction if stopping else 0.0, seed=seed)
        self._drawn.add(trial.trial_id)
        storage_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._running[trial.trial_id] = _Running(number, storage_id, trial.config.train.tokens, audited)
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
        return next((trial for trial in ended if _id(trial) == trial_id), None)

    def _tell(self, number: int, outcome: tuple[TrialState, list[float] | None]) -> None:
        state, values = outcome
        self._study.tell(number, values, state=state)

    # ---- restarts

    def _catch_up(self) -> None:
        """Bring the journal to what the ledger says, and line up what has to be trained again."""
        rows = {row[_TRIAL_ID]: row for row in self._ledger.trials().to_pylist() if row["arm"] == SEARCH}
        for frozen in self._study.get_trials(deepcopy=False):
            trial_id = _id(frozen)
            if trial_id in rows:
                self._drawn.add(trial_id)
            if frozen.state is TrialState.RUNNING:
                self._resume(frozen, rows)
        for trial_id, row in rows.items():
            if trial_id not in self._drawn:
                self._drawn.add(trial_id)
                self._remember(row)

    def _resume(self, frozen: FrozenTrial, rows: Mapping[str, Mapping[str, Any]]) -> None:
        trial_id = _id(frozen)
        if trial_id in rows:
            row = rows[trial_id]
            self._tell(frozen.number, _outcome(row["status"], row, self._spec.objectives))
            return
        if trial_id and trial_id not in self._running:
            trial = search_trial(self._spec, samplers.decode(self._spec.search, frozen.params))
            if trial.trial_id == trial_id:
                self._again.append(self._start(trial, frozen.number))
                return
        # Killed before the draw was noted, a repeat of one that is resumed, or drawn by another version of the model.
        self._study.tell(frozen.number, state=TrialState.FAIL)

    def _remember(self, row: Mapping[str, Any]) -> None:
        """Add a trial of the ledger that the journal does not know."""
        config = from_json(row["config_json"])
        params = {key: value_of(config, key) for key in self._spec.search}
        state, values = _outcome(row["status"], row, self._spec.objectives)
        try:
            trial = optuna.trial.create_trial(
                state=state,
                values=values,
                params=samplers.encode(self._spec.search, params),
                distributions=self._space,
                user_attrs={_TRIAL_ID: row[_TRIAL_ID]},
                intermediate_values=self._intermediate(row[_TRIAL_ID]),
            )
        except ValueError as error:
            _LOG.warning("trial %s does not fit the search space and is not learnt from: %s", row[_TRIAL_ID], error)
            return
        self._study.add_trial(trial)

    def _intermediate(self, trial_id: str) -> dict[int, float]:
        if len(self._spec.objectives) > 1:
            return {}
        reports = self._ledger.history(trial_id).to_pylist()
        (metric,) = (objective.metric for objective in self._spec.objectives)
        return {report["tokens_seen"]: report[metric] for report in reports if _finite(report[metric])}


def preview(spec: StudySpec, *, count: int) -> list[Trial]:
    """The search's first draws, nothing of them written anywhere."""
    study = optuna.create_study(sampler=samplers.sampler(spec, seed=spec.optimizer.seed))
    space = samplers.space(spec.search)

    def draws() -> Any:
        for _ in range(count + MOST_DRAWS):
            try:
                yield search_trial(spec, samplers.decode(spec.search, study.ask(space).params))
            except ConfigError:
                continue

    different = {trial.trial_id: trial for trial in islice(draws(), count)}
    return list(different.values())


def _open_journal(path: Path) -> JournalStorage:
    """The journal; one that cannot be read is set aside under another name, since the ledger holds its trials too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)  # of a driver that was killed: one drives at a time
    _drop_half_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        aside = path.with_name(f"{path.name}.unreadable")
        path.replace(aside)
        _LOG.warning("%s is unreadable (%s): set aside as %s, made anew from the ledger", path, error, aside.name)
        return JournalStorage(JournalFileBackend(str(path)))


def _drop_half_line(path: Path) -> None:
    """Cut off a last line that a killed driver did not finish: the next one would be written right behind it."""
    if not path.exists():
        return
    written = path.read_bytes()
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        with path.open("rb+") as file:
            file.truncate(whole)


def _outcome(
    status: str, metrics: Mapping[str, Any], objectives: tuple[Objective, ...]
) -> tuple[TrialState, list[float] | None]:
    """What Optuna is told: COMPLETE only with every objective measured, PRUNED (it has the values), or FAIL."""
    if status == "pruned":
        return TrialState.PRUNED, None
    if status == "completed":
        names = [objective.metric for objective in objectives]
        values = [metrics[name] for name in names if name in metrics and _finite(metrics[name])]
        if len(values) == len(names):
            return TrialState.COMPLETE, [float(value) for value in values]
    return TrialState.FAIL, None


def _id(trial: FrozenTrial) -> str:
    return trial.user_attrs[_TRIAL_ID] if _TRIAL_ID in trial.user_attrs else ""  # noqa: SIM401


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _direction(objective: Objective) -> Literal["minimize", "maximize"]:
    return "minimize" if objective.mode == "min" else "maximize"
