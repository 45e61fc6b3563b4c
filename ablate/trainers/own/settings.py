"""The section `trainer:` of a study file: the user's function or command, what it takes, and what it reports."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ablate.trainers.recorded import flatten
from ablate.trainers.section import Section, Whole, broken

SEED, DATA_SEED, BUDGET, FOLDER = "seed", "data_seed", "budget", "folder"
RESEED = "reseed"
RESERVED = (SEED, DATA_SEED, BUDGET, FOLDER, RESEED, "preset")
"""What the suite sets itself, so no parameter has such a name."""

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")
"""A placeholder of a command: `{lr}`, `{model.dim}`."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAMETER = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern})*")
_FUNCTION = re.compile(rf"{_PARAMETER.pattern}:{_PARAMETER.pattern}")
_SHELL = frozenset(("|", "||", "&&", "&", ";", ">", ">>", "<", "2>&1"))

MEASURED: Mapping[str, tuple[str, Literal["min", "max", ""], str]] = {
    "tokens_per_s": ("/s", "max", "speed between two reports, in units of the budget"),
    "peak_rss_gib": ("GiB", "min", "most that the trial's processes had resident at once, sampled"),
    "peak_gib": ("GiB", "min", "most GPU memory that its processes held, sampled; without a GPU peak_rss_gib"),
    "nvml_used_gib": ("GiB", "", "most GPU memory that its processes held, as the driver says; only with a GPU"),
}
"""What the suite measures of every trial: unit (after the budget's, where it begins with `/`), which way is better, and
what it is. A trainer may report these itself instead."""


class Budget(Section):
    """How long a trial trains."""

    unit: str
    """What is counted: `steps`, `epochs`, `tokens`. Reports give their progress in it."""
    value: Whole = Field(ge=1)
    """The budget of a complete trial. `base: {budget: N}` replaces it."""

    @field_validator("unit")
    @classmethod
    def _is_a_name(cls, unit: str) -> str:
        return _named(unit)


class OwnMetric(Section):
    """A metric that the trainer reports."""

    better: Literal["min", "max"] | None = None
    """Whether less or more is better; left out where neither is."""
    unit: str = Field(default="", max_length=40)
    """For tables, such as `nats/token`."""
    of: Literal["last", "best"] = "last"
    """The trial's value: `last`, the one at the end of the budget, or `best`, the best of all reports."""

    @model_validator(mode="after")
    def _best_has_a_direction(self) -> OwnMetric:
        if self.of == "best" and self.better is None:
            raise broken("`of: best` of a metric of which neither less nor more is better", "add better: min")
        return self


class Reports(Section):
    """Where a command's reports are read: JSON lines of its output (`json`), those of a `file`, or a `pattern`."""

    file: str | None = None
    """A file of JSON lines, relative to the trial's folder."""
    pattern: tuple[str, ...] = ()
    """Regular expressions, tried on every line of output, with a group for the budget's unit and for each metric."""

    @field_validator("pattern", mode="before")
    @classmethod
    def _compiles(cls, written: Any) -> Any:
        patterns = tuple(written) if isinstance(written, list) else (written,)
        for one in patterns:
            try:
                re.compile(one)
            except (re.error, TypeError) as error:
                raise broken(f"not a regular expression ({error})", "see Python's `re`; quote it with '...'") from None
        return patterns


class Settings(Section):
    """The user's trainer. Either `function` or `command`."""

    function: str | None = None
    """`module:function`, importable from the study file's folder. It is called with one `ablate.Trial`."""
    command: tuple[str, ...] = ()
    """A template of arguments, as one text or a list. `{lr}`, `{seed}`, `{data_seed}`, `{budget}` and `{folder}` are
    filled in; no shell reads it. It runs in the study file's folder."""
    parameters: Mapping[str, bool | int | float | str | None] = Field(default_factory=dict)
    """Every parameter with its default. A default's type is the parameter's; one of null takes any value."""
    budget: Budget
    """How long a trial trains, and what counts it."""
    reports: Reports = Reports()
    """Where a command's reports are read. A function reports by `trial.report`."""
    metrics: Mapping[str, OwnMetric]
    """Every metric that it reports. The first one with a direction is the objective, unless the study names another."""
    peak_gib: Literal["measure"] | float = "measure"
    """The peak of GPU memory of a trial, in GiB, by which `gpu: auto` divides a GPU. With `measure` give
    `resources.gpu` a number: nothing is measured before the first trial yet."""
    code: tuple[str, ...] = ("*.py",)
    """Files that decide what is computed, as patterns relative to the study file. Trials of different code are not
    mixed."""
    data: tuple[str, ...] = ()
    """Data files, as patterns relative to the study file. Their content is part of the study's identity."""
    at: str = ""
    """The study file's folder, which the reader fills in."""

    @field_validator("function")
    @classmethod
    def _is_a_function(cls, written: str | None) -> str | None:
        if written is not None and not _FUNCTION.fullmatch(written):
            raise broken("not module:function", "write it like train:main")
        return written

    @field_validator("command", mode="before")
    @classmethod
    def _is_split(cls, written: Any) -> Any:
        if not isinstance(written, str):
            return tuple(written) if isinstance(written, list) else written
        try:
            words = tuple(shlex.split(written))
        except ValueError as error:
            raise broken(f"not a command ({error})", "check its quotes, or write a list") from None
        if shell := sorted(_SHELL.intersection(words)):
            hint = f"write [bash, -c, ...] for `{shell[0]}`, or leave it out"
            raise broken("no shell reads the command", hint)
        return words

    @field_validator("reports", mode="before")
    @classmethod
    def _may_be_a_word(cls, written: Any) -> Any:
        if written == "json":
            return Reports()
        if not isinstance(written, Reports | dict) or (isinstance(written, dict) and len(written) != 1):
            raise broken("not `json`, a file or a pattern", "write json, {file: metrics.jsonl} or {pattern: '...'}")
        return written

    @field_validator("parameters", mode="before")
    @classmethod
    def _are_scalars(cls, written: Any) -> Any:
        if not isinstance(written, Mapping):
            return written
        flat = flatten(written)
        for name, value in flat.items():
            if name in RESERVED:
                raise broken(f"{name}: the suite sets it itself", "give the parameter another name, or leave it out")
            if not _PARAMETER.fullmatch(str(name)):
                raise broken(f"{str(name)[:40]}: not a parameter's name", "use letters, digits and `_`")
            if not isinstance(value, bool | int | float | str | None):
                raise broken(f"{name}: not a number, a text, true or false", "give it such a default")
        return flat

    @field_validator("code", "data", mode="before")
    @classmethod
    def _is_a_list(cls, written: Any) -> Any:
        written = tuple(written) if isinstance(written, list) else written
        for pattern in written if isinstance(written, tuple) else ():
            if isinstance(pattern, str) and (pattern.startswith("/") or ".." in pattern.split("/")):
                raise broken(f"{pattern[:80]}: outside of the study file's folder", "give paths relative to the file")
        return written

    @field_validator("peak_gib")
    @classmethod
    def _is_positive(cls, written: Literal["measure"] | float) -> Literal["measure"] | float:
        if not isinstance(written, str) and not 0 < written < 10_000:
            raise broken("out of range", "give GiB above 0, or `measure`")
        return written

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if bool(self.function) == bool(self.command):
            raise broken("a trainer is a function or a command", "give one of the two")
        if not self.metrics:
            raise broken("no metrics", "declare what is reported, like metrics: {val_loss: {better: min}}")
        for name in self.metrics:
            _named(name)
            if name == self.budget.unit:
                raise broken(f"{name} is the budget's unit and a metric", "give the metric another name")
        if self.function and (self.reports != Reports()):
            raise broken("`reports` is a command's", "leave it out: a function calls trial.report")
        for word in self.command:
            for name in PLACEHOLDER.findall(word):
                if name not in self.parameters and name not in (SEED, DATA_SEED, BUDGET, FOLDER):
                    raise broken(f"the placeholder {{{name}}} names nothing", f"declare {name} in parameters")
        for pattern in self.reports.pattern:
            self._check_groups(re.compile(pattern))
        return self

    def _check_groups(self, pattern: re.Pattern[str]) -> None:
        unit = self.budget.unit
        if unit not in pattern.groupindex:
            raise broken(f"the pattern has no group for the budget: {unit}", rf"add (?P<{unit}>\d+)")
        for group in pattern.groupindex:
            if group not in (unit, *self.metrics):
                raise broken(f"the pattern's group {group} names nothing", f"declare {group} in metrics")


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise broken(f"{name[:40]}: not a name", "use letters, digits and `_`")
    return name
