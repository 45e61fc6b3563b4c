"""study.json: what was asked of a study. `describe` writes it from a study file, `parse` reads it as typed values.

Importing this loads neither torch nor a trainer. `parse` ignores keys that a later version adds, and a key that an
earlier version does not have gets the value that was in force then.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ablate import escape
from ablate.analyze.search.space import Value
from ablate.errors import BadInput, ParameterError
from ablate.records import provenance
from ablate.records.locations import Place
from ablate.records.schema import SCHEMA_VERSION
from ablate.spec import designs, distributions, tuning
from ablate.spec.designs import Arm, Design
from ablate.spec.distributions import Choice
from ablate.spec.models import TARGET_ALPHA, Objective, StudySpec
from ablate.spec.spending import Looks
from ablate.trainers import recorded
from ablate.trials import plan

# ---- writing


def describe(spec: StudySpec, *, data_hash: str) -> dict[str, Any]:
    """study.json without its times: the resolved study, its identity, and where it comes from."""
    return {
        "study": spec.study,
        "question": spec.question,
        "spec": _spec(spec),
        "space": [
            {"key": key, "kind": distribution.kind, **_bounds(distribution)}
            for key, distribution in spec.search.items()
        ],
        "arms": [asdict(arm) for arm in designs.expand(spec.ablation, spec.base)] if spec.ablation else [],
        "identity": _identity(spec, data_hash=data_hash),
        "schema_version": SCHEMA_VERSION,
        "trainer": recorded.as_json(spec.trainer.description),
        "command": provenance.command(),
        "provenance": provenance.collect(data_hash=data_hash, code_hash=spec.trainer.code_hash or None),
    }


def _spec(spec: StudySpec) -> dict[str, Any]:
    """The resolved study: the base as dotted keys, the search as it was written."""
    return {
        "base": dict(spec.base.values),
        "search": {key: distributions.as_written(distribution) for key, distribution in spec.search.items()},
        "objectives": [objective.model_dump() for objective in spec.objectives],
        "optimizer": spec.optimizer.model_dump(exclude_none=True),
        "early_stopping": spec.early_stopping.model_dump() if spec.early_stopping else None,
        "ablation": _ablation(spec),
        # Without what is not given: a hypothesis of a study of before there were targets stays as it was declared.
        "hypotheses": [hypothesis.model_dump(exclude_defaults=True) for hypothesis in spec.hypotheses],
        "targets": dict(spec.targets),
        "resources": spec.resources.model_dump(),
        "tracking": spec.tracking.model_dump(),
    }


def _ablation(spec: StudySpec) -> dict[str, Any] | None:
    """The ablation, with the resolved space in which its arms are tuned."""
    if spec.ablation is None:
        return None
    tune = spec.ablation.tune_each_arm
    space = tuning.space(tune, spec.base, spec.search) if tune else {}
    resolved = {key: distributions.as_written(distribution) for key, distribution in space.items()}
    looks = plan.looks(spec)
    sequential = {"looks": json.loads(json.dumps(asdict(looks)))} if looks else {}
    written = spec.ablation.model_dump(mode="json", exclude={"sequential"})
    return {**written, **sequential, "tuning_space": resolved}


def _identity(spec: StudySpec, *, data_hash: str) -> str:
    """Hash of the base (with its budget) and the data: what may not change under a study's name."""
    text = json.dumps([spec.base.identity(), data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bounds(distribution: distributions.Distribution) -> dict[str, Any]:
    if isinstance(distribution, Choice):
        return {"low": None, "high": None, "choices": list(distribution.choices)}
    low, high = distribution.ends
    return {"low": low, "high": high, "choices": None}


# ---- reading


class _Part(BaseModel):
    """A part of study.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ConfirmFile(_Part):
    best: int
    seeds: int


class OptimizerFile(_Part):
    trials: int
    sampler: str
    seed: int
    seeds_per_trial: int = 1
    confirm: ConfirmFile | None = None


class TuningFile(_Part):
    trials: int
    over: tuple[str, ...]


class AblationFile(_Part):
    baseline: str
    seeds: int
    arms: dict[str, dict[str, Any]] = {}
    leave_one_out: dict[str, dict[str, Any]] = {}
    add_one_in: dict[str, dict[str, Any]] = {}
    factorial: dict[str, list[Any]] = {}
    tune_each_arm: TuningFile | None = None
    match: str = "tokens"
    control: str | None = None
    exploratory: bool = False
    looks: Looks | None = None
    """Where seeds are sequential; `seeds` is then the most that an arm gets."""


class HypothesisFile(_Part):
    claim: str
    arm: str
    metric: str
    min_effect: float | None = None
    target: float | None = None
    alpha: float = TARGET_ALPHA
    declared_at: str | None = None
    """None: with the study."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> HypothesisFile:
        if (self.min_effect is None) == (self.target is None):
            raise ValueError("a hypothesis has min_effect or target")
        return self


class AshaFile(_Part):
    min_tokens: int = Field(ge=1)
    reduction: int = Field(ge=2)


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
    objectives: tuple[Objective, ...] = Field(min_length=1)
    optimizer: OptimizerFile
    early_stopping: StoppingFile | None = None
    ablation: AblationFile | None = None
    hypotheses: tuple[HypothesisFile, ...] = ()
    targets: dict[str, float] = {}
    resources: ResourcesFile = ResourcesFile()
    tracking: TrackingFile = TrackingFile()


class SpaceFile(_Part):
    key: str
    kind: Literal["one_minus_loguniform", "loguniform", "uniform", "logint", "int", "choice"]
    low: float | None = None
    high: float | None = None
    choices: list[Value] | None = None

    @model_validator(mode="after")
    def _is_a_distribution(self) -> SpaceFile:
        """A report takes logarithms of the bounds, which a study file's rules allow."""
        written = self.choices if self.kind == "choice" else [self.low, self.high]
        try:
            distributions.parse(self.key, {self.kind: written})
        except ParameterError as error:
            raise ValueError(error.rule) from None
        return self

    @property
    def size(self) -> float:
        """The number of different values; infinite for real numbers."""
        if self.choices is not None:
            return len(self.choices)
        if self.kind not in ("int", "logint") or self.low is None or self.high is None:
            return math.inf
        return self.high - self.low + 1


class ProvenanceFile(_Part):
    git_commit: str | None
    git_dirty: bool | None
    python: str
    platform: str
    host: str
    device: str
    versions: dict[str, str | None]
    data_hash: str
    code_hash: str | None = None


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
    """None in a study of the first version: its ablations have only named arms."""
    started_at: str
    finished_at: str | None
    winner: str | None = None
    """The search's trial that the arms deviate from, once it is fixed."""
    exhausted: int | None = None
    """How many points the search has, where its space gave no more."""
    command: str
    provenance: ProvenanceFile

    def __repr__(self) -> str:
        """One line: a notebook shows it."""
        return f"<study.json of {escape.one_line(self.study)}, started {self.started_at}>"

    @property
    def points(self) -> int:
        """How many points the search has at its end: no more than its space has."""
        if not self.spec.search:
            return 0
        points = math.prod(entry.size for entry in self.space) if self.exhausted is None else self.exhausted
        return int(min(self.spec.optimizer.trials, points))

    @property
    def searched(self) -> int:
        """How many trials the search has at its end: one for each point and seed."""
        return self.points * self.spec.optimizer.seeds_per_trial

    @property
    def planned(self) -> int:
        """How many trials the study plans; see `trials.plan.planned`."""
        searched, ablation, confirm = self.searched, self.spec.ablation, self.spec.optimizer.confirm
        searched += min(confirm.best, self.points) * confirm.seeds if confirm else 0
        if ablation is None:
            return searched
        tuned = ablation.tune_each_arm.trials if ablation.tune_each_arm else 0
        arms = len(self.all_arms)
        return plan.count(searched=searched, arms=arms, seeds=ablation.seeds, tuned=tuned, match=ablation.match)

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The arms without the baseline."""
        if self.arms is not None:
            return tuple(Arm(arm.name, arm.overrides, arm.design, arm.levels) for arm in self.arms)
        named = self.spec.ablation.arms if self.spec.ablation else {}
        return tuple(Arm(name, overrides, "arm", {}) for name, overrides in named.items())


def parse(study: Mapping[str, Any], *, place: Place) -> StudyFile:
    """study.json as typed values. Raises BadInput where it is not a study's."""
    shown, hint = str(place / "study.json"), "restore the file, or run the sweep again under another name"
    try:
        found = StudyFile.model_validate(study)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(shown, key, first["input"], first["msg"], hint) from None
    try:
        recorded.described(study)
    except ValueError as error:
        raise BadInput(shown, "trainer", "", f"not a trainer ({error})", hint) from None
    return found
