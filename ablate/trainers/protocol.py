"""The protocol of a trainer, and the plain values that pass through it. The rest of `ablate` knows trainers by it only.

A trainer turns a configuration (a value for every parameter) into metrics. It lists its parameters, says which one is
the seed and which one the budget, what it measures, and what a configuration costs. It trains a configuration.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

STOP_S = 8.0
"""Seconds that an interrupted run has to write a checkpoint and return, where it does not ask for more."""

Kind = Literal["float", "int", "floats"]
Better = Literal["min", "max", ""]


@dataclass(frozen=True)
class Metric:
    """A measured quantity. `kind`: its storage type. `better`: whether less (`min`) or more (`max`) is better; "" where
    neither is."""

    name: str
    kind: Kind
    unit: str
    better: Better
    about: str


@dataclass(frozen=True, repr=False)
class Description:
    """What a reader of results needs to know of the trainer that made them. study.json keeps it, so that a report can
    be written where the trainer is not installed.

    `seed`, `budget`: the parameters that are the seed and the budget (in `budget_unit`). `budget_keys`: all parameters
    that set how long a trial trains. `reseed`: the parameter that gives the same trial other random streams, for A/A
    arms; None where there is none. `data_keys`: keys, or prefixes of keys, that change the data that a trial reads.
    `size_keys`: the same for the budget that it ends with. `curve`: the metric whose learning curves a
    report draws; "" for the objective. `later_keys`: parameters that came after the trainer's first release -> the
    value that trials had before; a value equal to it is left out of what identifies a trial or a study. `headlines`:
    the metrics that a trial's record shows first. `objective`: the metric that a study searches for unless it names
    another; "" where it must name one. `sections`: prefix of a key -> title, for pages that list a
    configuration. `most_epochs`: passes over the training data beyond which a study is warned. `settings`: what makes a
    trainer of this name the study's, as a study file's `trainer:` says it; empty where the name is enough.
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
    later_keys: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)
    most_epochs: float = 4.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    objective: str = ""

    def __repr__(self) -> str:
        """One line: a notebook shows it."""
        return f"<trainer {self.name}: {len(self.metrics)} metrics, seed {self.seed}, budget {self.budget}>"

    @cached_property
    def by_name(self) -> dict[str, Metric]:
        """Name -> metric."""
        return {metric.name: metric for metric in self.metrics}

    @property
    def maximised(self) -> frozenset[str]:
        """The metrics for which more is better."""
        return frozenset(metric.name for metric in self.metrics if metric.better == "max")

    def unit(self, metric: str) -> str:
        """The unit of a metric; "" where it has none or the trainer lacks the metric."""
        return self.by_name[metric].unit if metric in self.by_name else ""


@dataclass(frozen=True)
class Cost:
    """What a configuration costs, by formula. `peak_gib`: peak memory of one process, in GiB. `flops_per_token`: FLOPs
    of forward and backward for one unit of the budget. `budget`: in units; None where it depends on data that is not
    read. `parameters`: all trained ones, those that are not active too. Where the trainer does not say, None.
    """

    active_parameters: int | None
    flops_per_token: float | None
    peak_gib: float
    budget: int | None
    parameters: int | None = None


class Verdict(StrEnum):
    """What a run has to do after a report."""

    CONTINUE = "continue"
    STOP = "stop"  # the search needs no more: return, without further measurements
    INTERRUPT = "interrupt"  # write a checkpoint to resume from, then return


@dataclass(frozen=True)
class Report:
    """The progress of a run: one row of its history.

    `losses`: training loss of every step since the last report; empty where the trainer does not say. `lr`: None where
    it does not say. `metrics`: those measured for this report. `note`: a message for the user, shown once.
    """

    step: int
    tokens_seen: int
    budget_tokens: int
    wall_s: float
    lr: float | None
    losses: list[float]
    metrics: Mapping[str, float | int | list[float]]
    note: str = ""


@dataclass(frozen=True)
class Result:
    """How a run ended. `verdict` is CONTINUE for a run that used its whole budget. `metrics`: the last value of each.
    `data_digest`: of the data that the run itself saw, in its order; "" where it does not say."""

    verdict: Verdict
    step: int
    tokens_seen: int
    budget_tokens: int
    data_hash: str
    device: str
    metrics: Mapping[str, float | int | list[float]]
    samples: list[dict[str, Any]] = field(default_factory=list)
    data_digest: str = ""


@dataclass(frozen=True)
class Config:
    """A complete configuration. `values`: dotted key -> value, as the trainer holds it, for every parameter."""

    trainer: Trainer
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def override(self, overrides: Mapping[str, Any]) -> Config:
        """This configuration with other values, validated as a whole. Raises ParameterError."""
        return self.trainer.override(self, overrides)

    @property
    def seed(self) -> int:
        """The value of the parameter that is the seed."""
        return self.values[self.trainer.description.seed]

    @property
    def budget(self) -> int | None:
        """The value of the parameter that is the budget; None where another parameter sets it."""
        return self.values[self.trainer.description.budget]

    @property
    def cost(self) -> Cost:
        """What the configuration costs, by the trainer's formula."""
        return self.trainer.cost(self)

    def chosen(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of these keys."""
        return {key: self.values[key] for key in keys}

    def tree(self) -> dict[str, Any]:
        """Nested, as in JSON: `model.dim` is `{"model": {"dim": ...}}`."""
        return _nested(self.values)

    def identity(self) -> dict[str, Any]:
        """`tree` without later keys that have the value of earlier trials: a trial's id is a hash of it. So a new
        parameter gives no recorded trial another id."""
        later = self.trainer.description.later_keys
        return _nested({key: value for key, value in self.values.items() if key not in later or value != later[key]})

    def to_json(self) -> str:
        """`tree` as JSON text: the `config_json` of a trial's row."""
        return json.dumps(self.tree(), ensure_ascii=False, separators=(",", ":"))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return tree


class Train(Protocol):
    """The signature of `Trainer.train`."""

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """Train `config` and call `report`; see `Trainer.train`."""
        ...


class Trainer(Protocol):
    """Something that can be studied. Implementations are small, frozen and picklable: a Config carries one to workers.

    A wrong value raises ParameterError, a wrong file raises BadInput with its line.
    """

    @property
    def description(self) -> Description:
        """What readers of its results need to know of it."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """All parameters, as dotted keys."""
        ...

    @property
    def path_keys(self) -> tuple[str, ...]:
        """The parameters whose values are paths of files."""
        ...

    @property
    def environment_keys(self) -> tuple[str, ...]:
        """The parameters that `check_environment` depends on."""
        ...

    @property
    def tuned_by_default(self) -> tuple[str, ...]:
        """The parameters that `tune_each_arm` tunes by default."""
        ...

    @property
    def code_hash(self) -> str:
        """A hash of the code that decides what `train` computes: trials of two hashes are not compared. "" where it is
        not known, and commits are compared instead."""
        ...

    # ---- configurations

    def resolve(self, written: Mapping[str, Any]) -> Config:
        """The configuration of a study file's `base` (dotted key -> value as written)."""
        ...

    def override(self, config: Config, overrides: Mapping[str, Any]) -> Config:
        """`config` with other values, validated as a whole."""
        ...

    def read(self, config_json: str) -> Config:
        """Read what `Config.to_json` wrote. Raises ParameterError where it is no longer valid."""
        ...

    def inert_keys(self, config: Config) -> Mapping[str, str]:
        """The parameters that change nothing in this configuration -> why (`model.memory is none`). To search one of
        them is to compare equal runs."""
        ...

    def unmeasured(self, config: Config) -> Mapping[str, str]:
        """The metrics that no run of this configuration measures -> why (`data.corpus is pydoc`)."""
        ...

    def check_nuisance(self, key: str) -> None:
        """Raise ParameterError unless arms may be tuned by this parameter. The seed, the budget and the parameters of
        reporting may not be tuned."""
        ...

    # ---- what it needs

    def check_data(self, config: Config) -> str:
        """Read every data file once. Returns the hash of the data, which is part of a study's identity."""
        ...

    def missing_files(self, config: Config) -> list[tuple[str, str]]:
        """(key, path) of every file that the configuration names and that does not exist."""
        ...

    def check_environment(self, config: Config, *, workers: int) -> None:
        """Raise ParameterError where a trial with so many workers (0: it trains in the process that starts it) cannot
        run: a package is not installed, a launcher is missing, or the batch does not divide among its processes."""
        ...

    def needs_process_group(self, config: Config) -> bool:
        """Whether even one worker must join a process group."""
        ...

    # ---- what it costs

    def cost(self, config: Config) -> Cost:
        """The cost by formula; fast."""
        ...

    def epoch(self, config: Config) -> int | None:
        """Units of the budget in one pass over the training data. May read data that the trainer makes itself, but no
        file, which may be large or gone; None where it does not know. A report asks only where trials have not recorded
        the metric `epoch_tokens`."""
        ...

    def peak_gib(self, config: Config, *, ranks: int) -> float:
        """Predicted peak memory on the GPU of one of `ranks` processes, in GiB. May take seconds."""
        ...

    def memory_class(self, config: Config) -> tuple[str, ...]:
        """The class of a configuration. Predictions of `peak_gib` have about the same error within a class."""
        ...

    def calibration_budget(self, config: Config, *, reports: int) -> int:
        """The budget with which a run makes so many reports."""
        ...

    @property
    def context_gib(self) -> float:
        """GPU memory that a process takes outside of its allocator, in GiB."""
        ...

    @property
    def process_gib(self) -> float:
        """Host memory that a process takes before it trains, in GiB: on a CPU a part of its peak."""
        ...

    @property
    def worker_environment(self) -> Mapping[str, str]:
        """Environment variables for a process that shares a GPU; empty where the user has set them."""
        ...

    # ---- training

    def train(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """Train one configuration in this process, to its end.

        Calls `report` on every rank at every report; rank 0's verdict counts. Resumes from the checkpoint in
        `checkpoint_dir`, if there is one. Raises any exception of the run; `failure_kind` classifies it.
        """
        ...

    @property
    def stop_s(self) -> float:
        """Seconds that an interrupted run may take to write a checkpoint and return."""
        ...

    def hold_to_share(self, share: float) -> None:
        """Limit this process to `share` (0 to 1) of its GPU's memory."""
        ...

    def failure_kind(self, error: BaseException) -> Literal["oom", "nan", "error"]:
        """The kind of failure that an exception of `train` is."""
        ...

    # ---- what a run leaves behind

    def output(self, checkpoint_dir: Path) -> str:
        """What the last run printed; "" where it printed to the streams of this process."""
        ...

    def checkpoint_text(self, checkpoint_dir: Path, *, top: int) -> list[dict[str, Any]]:
        """The `top` most used entries of the newest checkpoint's memory, as text. Raises ParameterError or BadInput,
        whose rule says why there are none to show."""
        ...
