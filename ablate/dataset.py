"""A study's results in memory: study.json typed, trials and histories as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from ablate.analyze.best import Objective
from ablate.analyze.space import Dimension, Value
from ablate.errors import BadInput
from ablate.ledger import Ledger


class _Part(BaseModel):
    """A part of study.json. Keys that a later version adds are none of this one's business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ObjectiveFile(_Part):
    metric: str
    mode: str


class OptimizerFile(_Part):
    trials: int
    sampler: str
    seed: int


class AblationFile(_Part):
    baseline: str
    seeds: int
    arms: dict[str, dict[str, Any]]


class SpecFile(_Part):
    base: dict[str, Any]
    objectives: tuple[ObjectiveFile, ...]
    optimizer: OptimizerFile
    early_stopping: dict[str, Any] | None = None
    ablation: AblationFile | None = None


class SpaceFile(_Part):
    key: str
    kind: str
    low: float | None = None
    high: float | None = None
    choices: list[Value] | None = None


class ProvenanceFile(_Part):
    git_commit: str | None
    git_dirty: bool | None
    python: str
    platform: str
    host: str
    device: str
    versions: dict[str, str | None]
    data_hash: str


class StudyFile(_Part):
    """study.json."""

    study: str
    question: str
    spec: SpecFile
    space: tuple[SpaceFile, ...]
    started_at: str
    finished_at: str | None
    command: str
    provenance: ProvenanceFile


@dataclass(frozen=True)
class StudyData:
    """A study as it was read. `trials` has a row for every trial that ended, `history` a row for every report of every
    trial's current attempt; `started` are the ids of trials that have a history, ended or not;
    `problems` says, as `path: reason`, which files could not be read and are not in the tables."""

    path: Path
    study: dict[str, Any]
    facts: StudyFile
    trials_arrow: pa.Table
    history_arrow: pa.Table
    started: tuple[str, ...]
    problems: tuple[str, ...]

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row for every trial that ended, with a column for every searched parameter."""
        trials = self.trials_arrow.to_pandas()
        columns = [dimension.column for dimension in self.space if dimension.column not in trials]
        return trials.assign(**dict.fromkeys(columns, float("nan")))

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row for every report."""
        return self.history_arrow.to_pandas()

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the study optimises; the first is the primary one."""
        return tuple(Objective(entry.metric, entry.mode) for entry in self.facts.spec.objectives)

    @property
    def space(self) -> tuple[Dimension, ...]:
        """The searched parameters."""
        return tuple(_dimension(entry) for entry in self.facts.space)

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """Each arm's overrides of the baseline; empty where the study has no ablation."""
        return self.facts.spec.ablation.arms if self.facts.spec.ablation else {}

    @property
    def planned(self) -> int:
        """How many trials the study is to have: its search's, and every arm and the baseline on every seed."""
        ablation = self.facts.spec.ablation
        search = self.facts.spec.optimizer.trials if self.facts.space else 0
        return search + (ablation.seeds * (len(ablation.arms) + 1) if ablation else 0)

    def samples(self, trial_id: str) -> list[dict[str, Any]]:
        """What a trial wrote: `prompt`, `continuation`, `ended`; empty where it kept none."""
        path = self.path / "samples" / f"{trial_id}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def read(study_dir: Path) -> StudyData:
    """Read results/STUDY. Raises BadInput where study.json is missing or is no study's."""
    ledger = Ledger(study_dir)
    study = ledger.read_study()
    try:
        facts = StudyFile.model_validate(study)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        cure = "restore the file, or run the sweep again under another name"
        raise BadInput(str(study_dir / "study.json"), key, first["input"], first["msg"], cure) from None
    return StudyData(
        path=study_dir,
        study=study,
        facts=facts,
        trials_arrow=ledger.trials(),
        history_arrow=ledger.history(),
        started=tuple(sorted(ledger.started_ids())),
        problems=tuple(ledger.problems()),
    )


def _dimension(entry: SpaceFile) -> Dimension:
    low, high = (float("nan") if bound is None else bound for bound in (entry.low, entry.high))
    return Dimension(key=entry.key, kind=entry.kind, low=low, high=high, choices=tuple(entry.choices or ()))
