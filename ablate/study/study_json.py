"""study.json, typed: what a study was asked, as its readers need it. Importing this loads neither torch nor a trainer.

Keys that a later version adds are ignored; what a study of an earlier version does not say has the value that it had
then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ablate.analyze.search.space import Value
from ablate.errors import BadInput
from ablate.records.locations import Place
from ablate.spec.designs import Arm, Design
from ablate.spec.models import Objective
from ablate.trials import plan


class _Part(BaseModel):
    """A part of study.json. Keys that a later version adds are none of this one's business."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OptimizerFile(_Part):
    trials: int
    sampler: str
    seed: int


class TuningFile(_Part):
    trials: int
    over: tuple[str, ...]


class AblationFile(_Part):
    """What a study of an earlier version does not say has the value that it had then."""

    baseline: str
    seeds: int
    arms: dict[str, dict[str, Any]] = {}
    leave_one_out: dict[str, dict[str, Any]] = {}
    add_one_in: dict[str, dict[str, Any]] = {}
    factorial: dict[str, list[Any]] = {}
    tune_each_arm: TuningFile | None = None
    match: str = "tokens"
    exploratory: bool = False


class HypothesisFile(_Part):
    claim: str
    arm: str
    metric: str
    min_effect: float
    declared_at: str | None = None  # with the study


class AshaFile(_Part):
    min_tokens: int
    reduction: int


class StoppingFile(_Part):
    asha: AshaFile
    audit_fraction: float = 0.0


class ResourcesFile(_Part):
    workers: int = 1


class TrackingFile(_Part):
    swanlab: Literal["offline", "local", "online", "disabled"] = "offline"


class SpecFile(_Part):
    base: dict[str, Any]
    search: dict[str, Any] = {}
    objectives: tuple[Objective, ...]
    optimizer: OptimizerFile
    early_stopping: StoppingFile | None = None
    ablation: AblationFile | None = None
    hypotheses: tuple[HypothesisFile, ...] = ()
    targets: dict[str, float] = {}
    resources: ResourcesFile = ResourcesFile()
    tracking: TrackingFile = TrackingFile()


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


class ArmFile(_Part):
    name: str
    overrides: dict[str, Any]
    design: Design
    levels: dict[str, Any] = {}


class StudyFile(_Part):
    """study.json."""

    study: str
    question: str
    spec: SpecFile
    space: tuple[SpaceFile, ...]
    arms: tuple[ArmFile, ...] | None = None
    """None in a study of the first version, whose ablations had named arms alone."""
    started_at: str
    finished_at: str | None
    command: str
    provenance: ProvenanceFile

    @property
    def planned(self) -> int:
        """How many trials the study is to have; see `trials.plan.planned`."""
        searched, ablation = self.spec.optimizer.trials if self.spec.search else 0, self.spec.ablation
        if ablation is None:
            return searched
        tuned = ablation.tune_each_arm.trials if ablation.tune_each_arm else 0
        arms = len(self.all_arms)
        return plan.count(searched=searched, arms=arms, seeds=ablation.seeds, tuned=tuned, match=ablation.match)

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The arms but the baseline."""
        if self.arms is not None:
            return tuple(Arm(arm.name, arm.overrides, arm.design, arm.levels) for arm in self.arms)
        named = self.spec.ablation.arms if self.spec.ablation else {}
        return tuple(Arm(name, overrides, "arm", {}) for name, overrides in named.items())


def parse(study: Mapping[str, Any], *, place: Place) -> StudyFile:
    """study.json, typed. Raises BadInput where it is no study's."""
    try:
        return StudyFile.model_validate(study)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = "restore the file, or run the sweep again under another name"
        raise BadInput(str(place / "study.json"), key, first["input"], first["msg"], hint) from None
