"""A study's results in memory: its trials and histories as tables, and what was asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from ablate import escape, formatting
from ablate.analyze.basis.frames import of_arm, rows, texts
from ablate.analyze.search.space import Dimension
from ablate.records.interim_looks import Look
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.records.schema import PARAM, history_schema
from ablate.spec.designs import BASELINE, Arm, is_preparation
from ablate.spec.models import Objective
from ablate.study import completion, study_json
from ablate.study.completion import Completion
from ablate.study.study_json import SpaceFile, StudyFile, TuningFile
from ablate.trainers import Description, recorded


@dataclass(frozen=True, repr=False)
class StudyData:
    """A study and its results. `started`: ids of the trials that have a history, ended or not. `looks`: interim looks
    at its results. `problems`: `path: reason` for every unreadable file, which the tables lack."""

    path: Place
    study: dict[str, Any]
    facts: StudyFile
    trials_arrow: pa.Table
    history_arrow: pa.Table
    started: tuple[str, ...]
    looks: tuple[Look, ...]
    problems: tuple[str, ...]

    def __repr__(self) -> str:
        """What a notebook shows: the study, how its trials ended, and where to look."""
        ends = Counter(texts(self.every_trial, "status"))
        how = ", ".join(f"{count} {status}" for status, count in ends.most_common())
        ended = f"{ends.total():,} of {self.planned:,} trials have ended" + (f" ({how})" if how else "")
        asked = escape.one_line(self.facts.question, limit=160)
        reports = self.history_arrow.num_rows
        lines = [
            f"study {escape.one_line(self.facts.study)}: {ended}",
            *([asked] if asked else []),
            f".trials: {formatting.count(len(self.trials), 'row')}, .history: {formatting.count(reports, 'report')}",
        ]
        return "\n".join(lines)

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row for every trial that has ended, with a column for every searched parameter. Trials that only prepare
        the ablation are in `preparation`."""
        return rows(self.every_trial, ~self._prepares)

    @property
    def preparation(self) -> pd.DataFrame:
        """The trials that tuned the arms (`tune.ARM`) or measured their speed (`calibrate.ARM`). They are no
        results."""
        return rows(self.every_trial, self._prepares)

    @cached_property
    def every_trial(self) -> pd.DataFrame:
        """`trials` and `preparation` together."""
        trials = self.trials_arrow.to_pandas()
        columns = [dimension.column for dimension in self.space if dimension.column not in trials]
        return trials.assign(**dict.fromkeys(columns, float("nan")))

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row for every report of every trial."""
        return self.history_arrow.to_pandas()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the study optimises. The first objective is the primary one."""
        return self.facts.spec.objectives

    @property
    def space(self) -> tuple[Dimension, ...]:
        """The searched parameters."""
        return tuple(_dimension(entry) for entry in self.facts.space)

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """Name -> arm, without the baseline; empty without an ablation."""
        return {arm.name: arm for arm in self.facts.all_arms} if self.facts.spec.ablation else {}

    @cached_property
    def trainer(self) -> Description:
        """The trainer of the study's trials."""
        return Ledger(self.path).trainer

    @property
    def curve_metric(self) -> str:
        """The metric whose learning curves a report draws."""
        return self.trainer.curve or self.objectives[0].metric

    @property
    def measures_memory(self) -> bool:
        """Whether the trainer measures what a memory's content is worth, and a corpus's n-gram floors."""
        return "bank_use_nats" in self.trainer.by_name

    @cached_property
    def baseline(self) -> Mapping[str, Any]:
        """What the arms deviate from, as dotted keys: the configuration that the baseline ran; before its first run,
        the study's base."""
        ran = texts(of_arm(self.trials, BASELINE), "config_json")
        return recorded.values(ran[0]) if ran else self.facts.spec.base

    @property
    def tuned(self) -> TuningFile | None:
        """How the arms and the baseline are tuned before their seeds run; None where they are not."""
        ablation = self.facts.spec.ablation
        return ablation.tune_each_arm if ablation else None

    @property
    def tuned_values(self) -> dict[str, dict[str, Any]]:
        """Arm or baseline -> its tuned values, which all its runs have; empty where arms are not tuned. Intervals over
        the seeds are conditional on this one tuning."""
        over = self.tuned.over if self.tuned else ()
        runs = {arm: texts(of_arm(self.trials, arm), "config_json") for arm in (BASELINE, *self.arms)} if over else {}
        configs = {arm: recorded.values(found[0]) for arm, found in runs.items() if found}
        return {arm: {key: config[key] for key in over} for arm, config in configs.items()}

    @property
    def settled_keys(self) -> tuple[str, ...]:
        """Keys in which arms differ without overriding them: the tuned keys, and the budget where arms are matched by
        FLOPs or time."""
        ablation = self.facts.spec.ablation
        matched = (self.trainer.budget,) if ablation and ablation.match in ("flops", "wall") else ()
        return (*(self.tuned.over if self.tuned else ()), *matched)

    @property
    def planned(self) -> int:
        """How many trials the study plans: those of the search, and for every arm and the baseline its seeds and the
        trials that prepare it."""
        return self.completion.planned

    @cached_property
    def completion(self) -> Completion:
        """Which of the planned trials have ended."""
        compared = [*(entry.metric for entry in self.objectives), *(one.metric for one in self.facts.spec.hypotheses)]
        metrics = [name for name in dict.fromkeys(compared) if name in self.trials_arrow.column_names]
        params = [name for name in self.trials_arrow.column_names if name.startswith(PARAM)]
        ends = self.trials_arrow.select(["trial_id", "arm", "seed", "status", *params, *metrics]).to_pylist()
        return completion.of(self.facts, [_End.of(end, metrics=metrics) for end in ends])

    @property
    def _prepares(self) -> Any:
        return self.every_trial["arm"].astype(str).map(is_preparation).astype(bool)

    def reports(self, trial_id: str) -> pd.DataFrame:
        """Every report of one trial, with every column, whichever columns `history` has."""
        return Ledger(self.path).history(trial_id).to_pandas()

    def log(self, trial_id: str, *, attempt: int) -> str:
        """The traceback and the last output of a failed attempt; "" where there is no log."""
        return Ledger(self.path).log(trial_id, attempt=attempt)

    def samples(self, trial_id: str) -> list[dict[str, Any]]:
        """A trial's samples of text: `prompt`, `continuation`, `ended`; empty where it has none."""
        return Ledger(self.path).samples(escape.file_name(trial_id))


@dataclass(frozen=True)
class _End:
    trial_id: str
    arm: str
    seed: int
    status: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @classmethod
    def of(cls, cells: Mapping[str, Any], *, metrics: Sequence[str]) -> _End:
        own = {name: cells[name] for name in ("trial_id", "arm", "seed", "status")}
        params = {name: value for name, value in cells.items() if name.startswith(PARAM) and value is not None}
        return cls(**own, params=params, metrics={name: cells[name] for name in metrics})


REPORTED = ("trial_id", "attempt", "step", "tokens_seen", "budget_tokens", "wall_s", "time")
"""Columns of the history that a report needs, besides the objectives and val_loss. All columns can take gigabytes."""


def read(study_dir: Place, *, whole: bool = True) -> StudyData:
    """Read results/STUDY. `whole=False` reads only the columns of the history that a report needs. Raises BadInput
    where study.json is missing or is not a study's."""
    ledger = Ledger(study_dir)
    study = ledger.read_study()
    facts = study_json.parse(study, place=study_dir)
    asked = dict.fromkeys([*REPORTED, ledger.trainer.curve, *(entry.metric for entry in facts.spec.objectives)])
    known = history_schema(ledger.metrics).names
    columns = None if whole else [name for name in asked if name in known]
    found, (looks, unread) = ledger.tables(columns=columns), ledger.looks()
    return StudyData(
        path=study_dir,
        study=study,
        facts=facts,
        trials_arrow=found.trials,
        history_arrow=found.history,
        started=tuple(sorted(ledger.started_ids())),
        looks=tuple(looks),
        problems=(*found.problems, *unread),
    )


def _dimension(entry: SpaceFile) -> Dimension:
    low, high = (float("nan") if bound is None else bound for bound in (entry.low, entry.high))
    return Dimension(key=entry.key, kind=entry.kind, low=low, high=high, choices=tuple(entry.choices or ()))
