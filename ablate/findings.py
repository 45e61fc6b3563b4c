"""Everything a report says, computed once from a study's tables, before a word of it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ablate.analyze.best import Best, Objective, best
from ablate.analyze.cost import Cost, costs
from ablate.analyze.curves import Band, Curve, bands, curves
from ablate.analyze.failures import Failure, failures
from ablate.analyze.floors import Floors, floors
from ablate.analyze.frames import completed, floats, of_arm, texts
from ablate.analyze.importance import Importances, importances
from ablate.analyze.memory import BankUse, bank_use
from ablate.analyze.mixing import Mixed, mixed
from ablate.analyze.paired import BASELINE, SEARCH, Effect, effects
from ablate.analyze.pareto import pareto_ids
from ablate.analyze.progress import Progress, progress
from ablate.analyze.slices import Slice, slice_of
from ablate.analyze.stats import Interval, t_interval
from ablate.dataset import StudyData
from model.api import BY_NAME, from_json


@dataclass(frozen=True)
class PerObjective:
    """What one objective gives: the search's side (`best` is None where nothing completed) and the ablation's.

    `slices` follow the order of the study's space; `baseline` is over all of the baseline's completed runs.
    """

    objective: Objective
    best: Best | None
    slices: tuple[Slice, ...]
    importances: Importances
    effects: tuple[Effect, ...]
    baseline: Interval

    @property
    def unit(self) -> str:
        """Of the metric, with a space before it: ` nats/token`, or nothing."""
        unit = BY_NAME[self.objective.metric].unit
        return f" {unit}" if unit else ""

    @property
    def label(self) -> str:
        """The metric with its unit, for an axis or a column."""
        return f"{self.objective.metric} ({self.unit.strip()})" if self.unit else self.objective.metric


@dataclass(frozen=True)
class Findings:
    """A study's analysis. `search` are the search's ended trials; `pareto` is empty for a single objective."""

    data: StudyData
    search: pd.DataFrame
    progress: Progress
    per_objective: tuple[PerObjective, ...]
    pareto: tuple[str, ...]
    bank_use: tuple[BankUse, ...]
    floors: tuple[Floors, ...]
    failures: tuple[Failure, ...]
    costs: tuple[Cost, ...]
    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]
    mixed: tuple[Mixed, ...]

    @property
    def primary(self) -> PerObjective:
        """The first objective: the one that decides which trial is best."""
        return self.per_objective[0]

    @property
    def odd_ids(self) -> frozenset[str]:
        """Trials that differ from the majority of their comparison: marked wherever they are named."""
        return frozenset(trial_id for entry in self.mixed for trial_id in entry.odd)

    def memory_of(self, arm: str) -> str:
        """What stands in the memory's place in an arm whose trials have ended (`token`, `none`, ...)."""
        config = of_arm(self.data.trials, arm)["config_json"].iloc[0]
        return from_json(str(config)).model.memory

    def bank_of(self, group: str) -> BankUse | None:
        """The bank's use in an arm, or in the `best` trial."""
        return next((entry for entry in self.bank_use if entry.group == group), None)

    def floors_of(self, group: str) -> Floors | None:
        """The floors beside an arm, or beside the `best` trial."""
        return next((entry for entry in self.floors if entry.group == group), None)


def analyse(data: StudyData) -> Findings:
    """Every analysis of a study. Pure: the same tables give the same findings."""
    trials, history, arms = data.trials, data.history, tuple(data.arms)
    search = of_arm(trials, SEARCH)
    primary = data.objectives[0]
    return Findings(
        data=data,
        search=search,
        progress=progress(data.every_trial, history, planned=data.planned, started=data.started),
        per_objective=tuple(_per_objective(data, search, objective) for objective in data.objectives),
        pareto=pareto_ids(search, objectives=data.objectives) if len(data.objectives) > 1 else (),
        bank_use=tuple(bank_use(trials, objective=primary, declared=arms)),
        floors=tuple(floors(trials, objective=primary, declared=arms)),
        failures=tuple(failures(data.every_trial)),
        costs=tuple(costs(trials, declared=arms)),
        curves=tuple(curves(history, statuses=_search_statuses(data, search))),
        bands=tuple(bands(history, trials, declared=arms)),
        mixed=tuple(mixed(trials, varied=[*_varied(data), *data.settled_keys])),
    )


def _per_objective(data: StudyData, search: pd.DataFrame, objective: Objective) -> PerObjective:
    trials = data.trials
    baseline = completed(of_arm(trials, BASELINE))
    return PerObjective(
        objective=objective,
        best=best(search, objective=objective, space=data.space),
        slices=tuple(slice_of(search, dimension=dimension, objective=objective) for dimension in data.space),
        importances=importances(search, space=data.space, objective=objective),
        effects=tuple(effects(trials, objective=objective, declared=tuple(data.arms))),
        baseline=t_interval(floats(baseline, objective.metric)),
    )


def _search_statuses(data: StudyData, search: pd.DataFrame) -> Mapping[str, str]:
    """Search trials, ended ones and those under way. The history of a trial without a row does not say its arm; while
    a search is unfinished, its trials are the ones that run: arms start after it."""
    ended = dict(zip(texts(search, "trial_id"), texts(search, "status"), strict=True))
    final = set(texts(data.every_trial, "trial_id"))
    optimizer = data.facts.spec.optimizer
    still_open = [trial_id for trial_id in data.started if trial_id not in final]
    under_way = still_open if data.facts.space and len(ended) < optimizer.trials else []
    return {**ended, **dict.fromkeys(under_way, "running")}


def _varied(data: StudyData) -> list[str]:
    return [*(entry.key for entry in data.space), *(key for arm in data.arms.values() for key in arm.overrides)]
