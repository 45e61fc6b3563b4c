"""What a study is, once its file has been read: typed, frozen, valid."""

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
"""A whole number, however it is written: `5e4` too."""


def broken(rule: str, hint: str) -> PydanticCustomError:
    """What a validator raises: the rule that the value breaks, and what to do."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "hint": hint})


class Section(BaseModel):
    """A part of a study file: frozen, closed, strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Objective(Section):
    """What a study is about: a metric and which way is good."""

    metric: str
    mode: Literal["min", "max"]

    @property
    def sign(self) -> float:
        """1 where less is better, -1 where more is: `sign * value` is always to be minimised."""
        return 1.0 if self.mode == "min" else -1.0


Sampler = Literal["gp", "tpe", "random", "sobol"]


class Optimizer(Section):
    """The search's sampler and its budget in trials; the first `startup` points are Sobol's."""

    sampler: Sampler = "gp"
    startup: Whole = Field(default=4, ge=1, le=1_024)
    trials: Whole = Field(default=24, ge=1, le=100_000)
    seed: Whole = Field(default=0, ge=0, lt=2**32)


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): of the trials that have seen `min_tokens`
    times a power of `reduction`, the best in `reduction` go on."""

    min_tokens: Whole = Field(ge=1)
    reduction: Whole = Field(default=3, ge=2)


class EarlyStopping(Section):
    """Of the search's trials `audit_fraction` are never stopped, so that what stopping costs can be measured."""

    asha: Asha

    @field_validator("asha", mode="before")
    @classmethod
    def _rungs(cls, written: object) -> object:
        if not isinstance(written, dict | Asha):
            raise broken("not a mapping", "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out")
        return written

    audit_fraction: float = Field(default=0.0, ge=0, le=1)


class TuneEachArm(Section):
    """Every arm and the baseline get the same `trials` points over the nuisance parameters `over`."""

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
    """Arms by any mix of designs, each some overrides of the baseline, all on the same seeds; `designs.expand` lists
    them. `best`: the search's winner. An arm that is `{reseed: true}` is the baseline on other random streams."""

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
    """What is claimed before anything is trained: that `arm` changes `metric` for the better by `min_effect` at least
    (in the metric's unit)."""

    claim: str
    arm: str
    metric: str
    min_effect: float = Field(gt=0)


class Resources(Section):
    """What one worker of a trial gets, and how many workers a trial has; 0: it trains in the process that Tune starts
    for it, with what a worker would get, and in that of an earlier trial where that one ended well. `gpu: auto` is the
    share of a card that the trial is predicted to need, of a card of `gpu_memory_gib` or of the one that is found."""

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
            raise broken("not a share of a GPU, nor whole GPUs", hint)
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
        """In how many processes a trial trains."""
        return max(1, self.workers)


class Tracking(Section):
    """Where SwanLab sends what it sees."""

    swanlab: Literal["offline", "local", "online", "disabled"] = "offline"


@dataclass(frozen=True)
class StudySpec:
    """A study, whole and valid."""

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
    """Metric -> the value that the user hopes to reach."""
    resources: Resources
    tracking: Tracking
    file: Path
    document: Document = field(repr=False, compare=False)
    """Where each key was written, for what can be found out only later (a missing file)."""

    @property
    def trainer(self) -> Trainer:
        """What is studied."""
        return self.base.trainer
