"""The sections of a study file as pydantic models, and the whole study: typed, frozen, valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from ablate.spec.distributions import Distribution
from ablate.spec.yaml_marks import LARGEST, Document
from ablate.trainers import Config, Trainer


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number in any notation, `5e4` too."""


def broken(rule: str, hint: str) -> PydanticCustomError:
    """The error that a validator raises: the broken rule, and a hint."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "hint": hint})


class Section(BaseModel):
    """A section of a study file: frozen, without unknown keys, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Objective(Section):
    """A metric that the study minimises or maximises."""

    metric: str
    mode: Literal["min", "max"]

    @property
    def sign(self) -> float:
        """1 where less is better, -1 where more is: less `sign * value` is always better."""
        return 1.0 if self.mode == "min" else -1.0


Sampler = Literal["gp", "tpe", "random", "sobol"]


class Optimizer(Section):
    """The search's sampler and number of trials; the first `startup` points are Sobol points."""

    sampler: Sampler = "gp"
    startup: Whole = Field(default=4, ge=1, le=1_024)
    trials: Whole = Field(default=24, ge=1, le=100_000)
    seed: Whole = Field(default=0, ge=0, lt=2**32)


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934). Rungs are at `min_tokens` times the powers of
    `reduction`; at each rung the best 1 / `reduction` of the trials continue."""

    min_tokens: Whole = Field(ge=1)
    reduction: Whole = Field(default=3, ge=2)


class EarlyStopping(Section):
    """Stops unpromising trials of the search. A share `audit_fraction` of them is never stopped, which measures what
    early stopping costs."""

    asha: Asha

    @field_validator("asha", mode="before")
    @classmethod
    def _rungs(cls, written: object) -> object:
        if not isinstance(written, dict | Asha):
            raise broken("not a mapping", "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out")
        return written

    audit_fraction: float = Field(default=0.0, ge=0, le=1)


class TuneEachArm(Section):
    """Tunes every arm and the baseline at the same `trials` points of the nuisance parameters `over`."""

    trials: Whole = Field(ge=1, le=1_000)
    over: tuple[str, ...]

    @field_validator("over", mode="before")
    @classmethod
    def _different(cls, written: object) -> object:
        if isinstance(written, tuple):
            return written
        if not isinstance(written, list) or not written or len(set(map(str, written))) < len(written):
            raise broken("not a list of different keys", "write over: [train.lr]")
        return tuple(written)


Match = Literal["tokens", "flops", "wall", "params"]


class Ablation(Section):
    """Arms of any mix of designs, all on the same seeds; each overrides the baseline. `designs.expand` lists them.

    `baseline: best` is the search's winner. The arm `{reseed: true}` is the baseline with other random streams.
    """

    baseline: Literal["base", "best"] = "base"
    seeds: Whole = Field(ge=1, le=1_000)
    arms: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    leave_one_out: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Component -> the overrides that take it out."""
    add_one_in: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Component -> the overrides that put it in."""
    factorial: Mapping[str, list[Any]] = Field(default_factory=dict)
    """Key -> its levels; an arm for every cell."""
    tune_each_arm: TuneEachArm | None = None
    match: Match = "tokens"
    """What all arms have the same of."""
    exploratory: bool = False
    """Whether a design is let through in which the declared test cannot reject."""


class Hypothesis(Section):
    """A claim made before training: `arm` improves `metric` by at least `min_effect`, in the metric's unit."""

    claim: str
    arm: str
    metric: str
    min_effect: float = Field(gt=0)


class Resources(Section):
    """What each worker of a trial gets, and how many workers a trial has.

    `workers: 0`: the trial trains in the process that Tune starts for it, with the resources of one worker; the process
    of an earlier trial is reused where that one ended well. `gpu: auto`: the share of a GPU that the trial is predicted
    to need; the GPU has `gpu_memory_gib`, or the memory that is found.
    """

    cpu: float = Field(default=1.0, gt=0)
    gpu: float | Literal["auto"] = "auto"
    gpu_memory_gib: float | None = Field(default=None, gt=0)

    @field_validator("gpu", mode="before")
    @classmethod
    def _share(cls, written: object) -> object:
        hint = "use auto, 0, a fraction like 0.5, or a whole number"
        if written == "auto":
            return written
        if isinstance(written, bool) or not isinstance(written, (int, float)):
            raise broken("not a number", hint)
        if written < 0 or (written > 1 and not float(written).is_integer()):
            raise broken("neither a share of a GPU nor a whole number of GPUs", hint)
        return float(written)

    max_gpu_hours: float | None = Field(default=None, gt=0)
    """Card-hours of the whole study: a plan over it is refused, and a sweep stops when they are spent."""
    mps: Literal["auto", "off"] = "auto"
    workers: Whole = Field(default=1, ge=0)
    max_hours: float | None = Field(default=None, gt=0)
    """Of training, over all attempts of a trial."""
    stall_minutes: float | None = Field(default=60.0, gt=0)
    """Without a report, start-up and the final measure included."""

    @property
    def processes(self) -> int:
        """The number of processes in which a trial trains."""
        return max(1, self.workers)


class Tracking(Section):
    """Where SwanLab sends its records."""

    swanlab: Literal["offline", "local", "online", "disabled"] = "offline"


@dataclass(frozen=True)
class StudySpec:
    """A whole, valid study."""

    study: str
    question: str
    base: Config
    search: Mapping[str, Distribution]
    objectives: tuple[Objective, ...]
    optimizer: Optimizer
    early_stopping: EarlyStopping | None
    ablation: Ablation | None
    hypotheses: tuple[Hypothesis, ...]
    targets: Mapping[str, float]
    """Metric -> the value that the user wants to reach."""
    resources: Resources
    tracking: Tracking
    file: Path
    document: Document = field(repr=False, compare=False)
    """Where each key was written, for errors that are found later (a missing file)."""

    @property
    def trainer(self) -> Trainer:
        """The trainer that is studied."""
        return self.base.trainer
