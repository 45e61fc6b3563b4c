"""The sections of a study file as pydantic models, and the whole study: typed, frozen, valid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from ablate.spec.distributions import Distribution
from ablate.spec.yaml_marks import Document
from ablate.trainers import Config, Trainer
from ablate.trainers.section import Section, Whole, broken


class Objective(Section):
    """What a study is about: a metric, and which way is better. A list of objectives searches for the Pareto set."""

    metric: str
    """One of the metrics of docs/reference/columns.md that is a single number."""
    mode: Literal["min", "max"]
    """Which way is better."""

    @property
    def sign(self) -> float:
        """1 where less is better, -1 where more is: less `sign * value` is always better."""
        return 1.0 if self.mode == "min" else -1.0


Sampler = Literal["gp", "tpe", "random", "sobol"]


class Confirm(Section):
    """Trains the best trials of the search again on fresh seeds, which neither the search nor the ablation has."""

    best: Whole = Field(default=3, ge=1, le=100)
    """How many of the search's best trials."""
    seeds: Whole = Field(default=5, ge=2, le=100)
    """Fresh seeds of each."""


class Optimizer(Section):
    """The search's sampler and its budget in trials."""

    sampler: Sampler = "gp"
    """`gp`: Optuna's Gaussian process, and TPE from the 257th trial on; `tpe`; `random`; or `sobol`."""
    startup: Whole = Field(default=4, ge=1, le=1_024)
    """The first points of `gp` and `tpe`, which are Sobol's."""
    trials: Whole = Field(default=24, ge=1, le=100_000)
    """Trials of the search. A later run under the same name may raise it."""
    seed: Whole = Field(default=0, ge=0, lt=2**32)
    """Seed of the sampler."""
    seeds_per_trial: Whole = Field(default=1, ge=1, le=100)
    """Seeds on which every point is trained; the search goes by the mean over them (docs/studies.md). `trials` counts
    points, so the search trains `trials` times as many. Fixed once the search has results."""
    confirm: Confirm | None = None
    """Judge the search's winner on fresh seeds (docs/studies.md)."""


class Asha(Section):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): of the trials that have seen `min_tokens`
    times a power of `reduction`, the best in `reduction` continue."""

    min_tokens: Whole = Field(ge=1)
    """The first rung, in tokens. Choose the first budget at which losses rank trials as their last losses do;
    `audit_fraction` measures that."""
    reduction: Whole = Field(default=3, ge=2)
    """One in this many of the trials at a rung continues."""


class EarlyStopping(Section):
    """Stops trials of a search before their budget is used. Needs a single objective; arms of an ablation are never
    stopped."""

    asha: Asha
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934)."""

    @field_validator("asha", mode="before")
    @classmethod
    def _rungs(cls, written: object) -> object:
        if not isinstance(written, dict | Asha):
            raise broken("not a mapping", "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out")
        return written

    audit_fraction: float = Field(default=0.0, ge=0, le=1)
    """Share of the search's trials that are never stopped, so that the report can measure what stopping costs."""


class TuneEachArm(Section):
    """Tunes every arm and the baseline at the same `trials` points of the nuisance parameters `over`."""

    trials: Whole = Field(ge=1, le=1_000)
    """Trials of each arm and of the baseline."""
    over: tuple[str, ...]
    """The nuisance parameters to tune: `train.` keys. Their ranges are those of `search`. A real number above 0 that
    `search` does not name is tuned log-uniformly from an eighth of its base value to eight times it."""

    @field_validator("over", mode="before")
    @classmethod
    def _different(cls, written: object) -> object:
        if isinstance(written, tuple):
            return written
        if not isinstance(written, list) or not written or len(set(map(str, written))) < len(written):
            raise broken("not a list of different keys", "write over: [train.lr]")
        return tuple(written)


class SequentialSeeds(Section):
    """Seeds that are added in blocks until each arm is decided, with the error held over all looks and arms."""

    first: Whole = Field(ge=2, le=1_000)
    """Seeds of the first block, after which the first look is taken."""
    most: Whole = Field(ge=3, le=1_000)
    """Seeds of an arm that is not decided before."""
    step: Whole | None = Field(default=None, ge=1)
    """Seeds of every later block; left out, half of `first`, rounded up."""
    alpha: float = Field(default=0.05, gt=0, le=0.05)
    """The probability, over all looks and arms, that an arm without an effect is decided (docs/studies.md)."""

    @property
    def block(self) -> int:
        """Seeds of every block but the first."""
        return self.step or (self.first + 1) // 2


Match = Literal["tokens", "flops", "wall", "params", "total_params"]


class Ablation(Section):
    """Arms by any mix of designs, each some overrides of the baseline, all on the same seeds."""

    baseline: Literal["base", "best"] = "base"
    """What the arms deviate from: `base`, or `best`, the search's winner, which is trained again on the ablation's
    seeds. The winner is written down when the ablation starts and stays when the search grows. If no trial of the
    search completed, the study stays unfinished and asks for more trials."""
    seeds: Whole = Field(ge=1, le=1_000)
    """Seeds of every arm and of the baseline, disjoint from the search's seed. Too few seeds for the declared test to
    reject are refused, with the number that suffices."""
    sequential: SequentialSeeds | None = None
    """Written as `seeds`: `seeds: {first: 8, most: 40}` adds seeds until each arm is decided (docs/studies.md)."""
    arms: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Name to overrides of the baseline: `no_memory: {model.memory: none}`; or `{reseed: true}`, an A/A arm."""
    leave_one_out: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Component to the overrides that take it out: `ema: {model.ema: off}` makes the arm `without_ema`."""
    add_one_in: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    """Component to the overrides that put it in: `norm: {model.read_norm: rms}` makes the arm `with_norm`."""
    factorial: Mapping[str, list[Any]] = Field(default_factory=dict)
    """Key to its levels. Every cell is an arm, except the cell that is the baseline. Arms are named like
    `knowledge_length-4.ema_decay-0.99`."""
    tune_each_arm: TuneEachArm | None = None
    """Give every arm and the baseline the same tuning before their seeds run (docs/studies.md)."""
    match: Match = "tokens"
    """What all arms have the same amount of (docs/studies.md)."""
    control: str | None = None
    """The positive control: an arm whose gain in the first objective is known to exist. The report says first whether
    the study saw it; where it did not, no verdict of equality is given (docs/studies.md)."""
    exploratory: bool = False
    """Allow a design in which the declared test cannot reject."""


TARGET_ALPHA = 0.01
"""The level of a hypothesis about a fixed target, if the study file gives none."""


class Hypothesis(Section):
    """A claim made before anything is trained: that an arm changes a metric for the better by `min_effect` at least, or
    that its mean reaches the fixed value `target`. A hypothesis has one of the two."""

    claim: str
    """The claim, in words."""
    arm: str
    """The arm that the claim is about. A claim about a `target` may name `baseline` too."""
    metric: str
    """The metric in which the arm is better than the baseline, or reaches the target."""
    min_effect: float | None = Field(default=None, gt=0)
    """The smallest gain over the baseline that confirms the claim, in the metric's unit."""
    target: float | None = None
    """The value that the arm's mean reaches: it is at most this (at least this, where more is better), by a one-sided
    one-sample test."""
    alpha: float = Field(default=TARGET_ALPHA, gt=0, le=0.1)
    """With `target`: the level at which its test rejects."""


class Resources(Section):
    """What one worker of a trial gets, how many workers a trial has, and how long a trial may take."""

    cpu: float = Field(default=1.0, gt=0)
    """CPUs of a worker."""
    gpu: float | Literal["auto"] = "auto"
    """GPUs of a worker: `auto` (the share of a GPU that the trial is predicted to need; nothing on a machine without a
    GPU), 0, a share like 0.5, or whole GPUs (docs/gpus.md)."""
    gpu_memory_gib: float | None = Field(default=None, gt=0)
    """Memory of a GPU that `auto` counts on, instead of the memory that is found. A smaller number leaves room for
    other users."""

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
    """GPU-hours of the whole study. A plan that takes more is refused before anything starts; a sweep stops, resumable,
    when its GPUs were held for so long."""
    mps: Literal["auto", "off"] = "auto"
    """`auto` uses an MPS daemon that already runs; `off` keeps trials from it."""
    workers: Whole = Field(default=1, ge=0)
    """Workers of a trial. 0: the trial trains in the process that Ray Tune starts for it, which starts faster
    (docs/running.md)."""
    max_hours: float | None = Field(default=None, gt=0)
    """Hours of training that a trial may take, over all its attempts. Then it ends as `timeout`."""
    stall_minutes: float | None = Field(default=60.0, gt=0)
    """Minutes without a report, start-up and the final measurements included, after which a trial counts as hung and
    ends as `timeout`. `null`: never."""

    @property
    def processes(self) -> int:
        """The number of processes in which a trial trains."""
        return max(1, self.workers)


class Tracking(Section):
    """Where SwanLab keeps or sends what it sees."""

    swanlab: Literal["offline", "local", "online", "disabled"] = "offline"
    """What happens to SwanLab's runs (docs/running.md)."""


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
