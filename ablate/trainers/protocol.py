"""What the rest of `ablate` knows of any trainer: one protocol, and the plain values that pass through it.

A trainer turns a configuration (every parameter with a value) into metrics. It says which parameters there are, which
of them is the seed and which the budget, what it measures, what a configuration costs, and it trains one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["float", "int", "floats"]
Better = Literal["min", "max", ""]


@dataclass(frozen=True)
class Metric:
    """A measured quantity. `kind` is its storage type, `better` which way is good ("" where neither is)."""

    name: str
    kind: Kind
    unit: str
    better: Better
    about: str


@dataclass(frozen=True)
class Description:
    """What a reader of results needs to know of the trainer that made them. study.json keeps it, so that a report is
    written where the trainer is not installed.

    `seed`, `budget`: the parameters that are the seed and the budget (in `budget_unit`). `budget_keys`: all that say
    how long a trial trains. `reseed`: the parameter that gives the same trial other random streams, for A/A arms; None
    where there is none. `data_keys`, `size_keys`: keys, or beginnings of keys, that change the data that a trial reads,
    and the budget that it ends with. `curve`: the metric whose learning curves a report draws; "" for the objective.
    `headlines`: the metrics that a trial's record shows first. `sections`: beginning of a key -> title, for pages that
    list a configuration.
    """

    name: str
    metrics: tuple[Metric, ...]
    seed: str
    budget: str
    budget_unit: str = "steps"
    budget_keys: tuple[str, ...] = ()
    reseed: str | None = None
    data_keys: tuple[str, ...] = ()
    size_keys: tuple[str, ...] = ()
    curve: str = ""
    headlines: tuple[str, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, Metric]:
        """Name -> metric."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def maximised(self) -> frozenset[str]:
        """The metrics of which more is better."""
        return frozenset(metric.name for metric in self.metrics if metric.better == "max")

    def unit(self, metric: str) -> str:
        """The unit of a metric; "" where it has none, or is not one of this trainer's."""
        return self.by_name[metric].unit if metric in self.by_name else ""


@dataclass(frozen=True)
class Cost:
    """What a configuration costs, by formula. `peak_gib`: GiB of memory of one process. `flops_per_token`: forward and
    backward, for a unit of the budget. `budget`: units of the budget; None where it is not known before data is read.
    """

    active_parameters: int
    flops_per_token: float
    peak_gib: float
    budget: int | None


class Verdict(StrEnum):
    """What the listener of a report wants next."""

    CONTINUE = "continue"
    STOP = "stop"  # the search has seen enough: measure nothing more, return
    INTERRUPT = "interrupt"  # write a checkpoint to resume from, return


@dataclass(frozen=True)
class Report:
    """Progress of a run, a row of its history.

    `losses`: training loss of every step since the last report. `metrics`: those that were measured for this report.
    `note`: what the user should know, once.
    """

    step: int
    tokens_seen: int
    budget_tokens: int
    wall_s: float
    lr: float
    losses: list[float]
    metrics: Mapping[str, float | int | list[float]]
    note: str = ""


@dataclass(frozen=True)
class Result:
    """How a run ended. `verdict` is CONTINUE for a run that used its whole budget; `metrics` are the last that were
    measured of each."""

    verdict: Verdict
    step: int
    tokens_seen: int
    budget_tokens: int
    data_hash: str
    device: str
    metrics: Mapping[str, float | int | list[float]]
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Config:
    """One run of a trainer, whole: dotted key -> value, each as the trainer holds it."""

    trainer: Trainer
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def override(self, overrides: Mapping[str, Any]) -> Config:
        """This configuration with other values, validated whole. Raises ParameterError."""
        return self.trainer.override(self, overrides)

    @property
    def seed(self) -> int:
        """The value of the parameter that is the seed."""
        return self.values[self.trainer.description.seed]

    @property
    def budget(self) -> int | None:
        """The value of the parameter that is the budget; None where the budget is given in another way."""
        return self.values[self.trainer.description.budget]

    @property
    def cost(self) -> Cost:
        """What it costs, by the trainer's formula."""
        return self.trainer.cost(self)

    def chosen(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of these keys."""
        return {key: self.values[key] for key in keys}

    def tree(self) -> dict[str, Any]:
        """As JSON has it: `model.dim` is `{"model": {"dim": ...}}`. A trial's id is a hash of this."""
        tree: dict[str, Any] = {}
        for key, value in self.values.items():
            *sections, name = key.split(".")
            inner = tree
            for section in sections:
                inner = inner.setdefault(section, {})
            inner[name] = value
        return tree

    def to_json(self) -> str:
        """`tree` as text: a row's `config_json`."""
        return json.dumps(self.tree(), ensure_ascii=False, separators=(",", ":"))


class Train(Protocol):
    """The shape of `Trainer.train`."""

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """Train `config`, calling `report`; see `Trainer.train`."""
        ...


class Trainer(Protocol):
    """What can be studied. Implementations are small, frozen and picklable: they travel to workers in a Config.

    What is wrong with a value is a ParameterError, what is wrong with a file a BadInput at its line.
    """

    @property
    def description(self) -> Description:
        """What readers of its results need to know."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Every parameter, as a dotted key."""
        ...

    @property
    def path_keys(self) -> tuple[str, ...]:
        """The parameters that are paths of files."""
        ...

    @property
    def environment_keys(self) -> tuple[str, ...]:
        """The parameters on which `check_environment` depends."""
        ...

    @property
    def tuned_by_default(self) -> tuple[str, ...]:
        """What `tune_each_arm` tunes where the study file does not say."""
        ...

    # ---- configurations

    def resolve(self, written: Mapping[str, Any]) -> Config:
        """The configuration that a study file's `base` writes, as dotted keys."""
        ...

    def override(self, config: Config, overrides: Mapping[str, Any]) -> Config:
        """`config` with other values, validated whole."""
        ...

    def read(self, config_json: str) -> Config:
        """The configuration that `Config.to_json` wrote. Raises ParameterError where it is no longer valid."""
        ...

    def check_nuisance(self, key: str) -> None:
        """Raise ParameterError unless the parameter may be tuned for every arm: of the training, and not its seed,
        budget or what is reported."""
        ...

    # ---- what it needs

    def check_data(self, config: Config) -> str:
        """Read every data file once; the hash of what was read, part of a study's identity."""
        ...

    def missing_files(self, config: Config) -> list[tuple[str, str]]:
        """(key, path) of every file that the configuration names and that is not there."""
        ...

    def check_environment(self, config: Config, *, workers: int) -> None:
        """Raise ParameterError where a trial of so many workers (0: it trains in the process that starts it) needs a
        package that is not installed, a launcher, or a batch that its processes can share."""
        ...

    def needs_process_group(self, config: Config) -> bool:
        """Whether even a single worker must join a process group."""
        ...

    # ---- what it costs

    def cost(self, config: Config) -> Cost:
        """By formula, at once."""
        ...

    def peak_gib(self, config: Config, *, ranks: int) -> float:
        """GiB of a GPU that one of so many processes takes at most, predicted; may take seconds."""
        ...

    def memory_class(self, config: Config) -> tuple[str, ...]:
        """Configurations of one class are mispredicted alike."""
        ...

    def calibration_budget(self, config: Config, *, reports: int) -> int:
        """The budget after which a run has made so many reports."""
        ...

    @property
    def context_gib(self) -> float:
        """GiB of a GPU that a process takes beside what its allocator reserves."""
        ...

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """Environment variables for a process that shares a GPU; none where the user has set them."""
        ...

    # ---- training

    def train(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """Train one configuration, whole, in this process.

        `report` is called on every rank at every report; rank 0's answer counts. Resumes from a checkpoint that is in
        `checkpoint_dir`. Raises whatever goes wrong; `failure_kind` classifies it.
        """
        ...

    def hold_to_share(self, share: float) -> None:
        """Let this process take `share` of its GPU's memory and no more."""
        ...

    def failure_kind(self, error: BaseException) -> Literal["oom", "nan", "error"]:
        """What kind of end an exception from `train` is."""
        ...

    # ---- what it left

    def checkpoint_text(self, checkpoint_dir: Path, *, top: int) -> list[dict[str, Any]]:
        """What the newest checkpoint's memory holds, as text, most used first. Raises ParameterError or BadInput, whose
        rule says why it cannot be shown."""
        ...
