"""From the tree of a study file to a StudySpec, section by section."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ablate import distributions, domain, settings
from ablate.distributions import Distribution
from ablate.errors import BadInput
from ablate.plan import BASELINE, SEARCH
from ablate.spec_models import Ablation, Asha, Objective, Optimizer, Resources, Section, StudySpec, Tracking
from ablate.yaml_marks import Document
from model.api import (
    BY_NAME,
    METRICS,
    PATH_KEYS,
    Config,
    ConfigError,
    check_key,
    explain,
    nearest,
    resolve,
)

SECTIONS = (
    "study",
    "question",
    "base",
    "search",
    "objective",
    "optimizer",
    "early_stopping",
    "ablation",
    "resources",
    "tracking",
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_NAME_CURE = "use letters, digits, `_`, `-` and `.`, beginning with none of the last two"

M = TypeVar("M", bound=Section)


class Reader:
    """Reads the sections of one document. ConfigErrors become BadInput at the line of the key that they name."""

    def __init__(self, document: Document, *, folder: Path) -> None:
        self._document, self._tree, self._folder = document, document.tree, folder

    def study(self, file: Path) -> StudySpec:
        for key in self._tree:
            if key not in SECTIONS:
                raise self._bad(key, self._tree[key], "unknown key", nearest(key, SECTIONS))
        name = self._name()
        base = self._base()
        search = self._search(base)
        objectives = self._objectives()
        early_stopping = self._early_stopping(objectives)
        ablation = self._ablation(base, search, objectives)
        if not search and ablation is None:
            raise self._bad("search", "missing", "no search and no ablation: nothing to do", "give one of them")
        return StudySpec(
            study=name,
            question=self._question(),
            base=base,
            search=search,
            objectives=objectives,
            optimizer=self._section("optimizer", Optimizer),
            early_stopping=early_stopping,
            ablation=ablation,
            resources=self._resources(),
            tracking=self._section("tracking", Tracking),
            file=file,
            document=self._document,
        )

    # ---- sections

    def _name(self) -> str:
        name = self._value("study")
        if name is None:
            raise self._bad("study", "missing", "a study needs a name", "add `study: NAME`")
        if not isinstance(name, str):
            raise self._bad("study", name, "not a text", "put it in quotes")
        if "/" in name or "\\" in name:
            raise self._bad(
                "study", name, "a path in a study's name", "give the name alone, and the folder by --results"
            )
        if not _NAME.fullmatch(name):
            raise self._bad("study", name, "not a study's name", _NAME_CURE)
        if name == "latest":
            raise self._bad("study", name, "reserved: `latest` means the newest study", "choose another name")
        return name

    def _question(self) -> str:
        question = self._value("question")
        if question is not None and not isinstance(question, str):
            raise self._bad("question", question, "not a text", "put it in quotes")
        return question or ""

    def _base(self) -> Config:
        written = self._mapping("base", cure="add `base: {preset: tiny}`")
        overrides = self._overrides("base.", written)
        if "preset" not in overrides:
            raise self._bad("base.preset", "missing", "a study needs a preset", "add `preset: tiny` to base")
        preset = overrides.pop("preset")
        if not isinstance(preset, str):
            raise self._bad("base.preset", preset, "not a text", "write `preset: tiny`")
        try:
            return resolve(preset, overrides)
        except ConfigError as error:
            # A rule may tie a value of the file to one of the preset: the line to look at is the file's.
            blamed = error.key if error.key in overrides else _culprit(preset, overrides)
            place = self._document.place(f"base.{blamed}")
            raise BadInput(place, error.key, error.value, error.rule, error.cure) from None

    def _search(self, base: Config) -> dict[str, Distribution]:
        if self._value("search") is None:
            return {}
        with self._at("search."):
            search: dict[str, Distribution] = {}
            for key, written in self._mapping("search").items():
                check_key(key)
                distribution = distributions.parse(key, written)
                if isinstance(distribution, distributions.Choice) and key in PATH_KEYS:
                    paths = [self._absolute(f"search.{key}", value) for value in distribution.choices]
                    distribution = distributions.Choice(tuple(paths))
                search[key] = distribution
            domain.check_search(base, search)
        return search

    def _objectives(self) -> tuple[Objective, ...]:
        written = self._value("objective")
        if written is None:
            return (Objective(metric="val_loss", mode="min"),)
        several = isinstance(written, list)
        if several and not written:
            raise self._bad("objective", "[]", "empty list", "write {metric: val_loss, mode: min}")
        entries = list(written) if several else [written]
        keys = [f"objective.{index}" for index in range(len(entries))] if several else ["objective"]
        objectives = tuple(self._objective(key, entry) for key, entry in zip(keys, entries, strict=True))
        metrics = [objective.metric for objective in objectives]
        if len(set(metrics)) < len(metrics):
            raise self._bad("objective", ", ".join(metrics), "a metric twice", "remove one of them")
        return objectives

    def _objective(self, key: str, written: object) -> Objective:
        if not isinstance(written, dict):
            raise self._bad(key, written, "not a mapping", "write {metric: val_loss, mode: min}")
        metric = written.get("metric")
        numbers = tuple(m.name for m in METRICS if m.kind != "floats")
        if "metric" in written and metric not in numbers:
            raise self._bad(f"{key}.metric", metric, "unknown metric", nearest(str(metric), numbers))
        if metric in numbers and "mode" not in written and BY_NAME[metric].better:
            written = {**written, "mode": BY_NAME[metric].better}
        return self._model(key, Objective, written)

    def _early_stopping(self, objectives: tuple[Objective, ...]) -> Asha | None:
        written = self._value("early_stopping")
        if written is None:
            return None
        cure = "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out"
        written = self._mapping("early_stopping", cure=cure)
        for key in written:
            if key != "asha":
                raise self._bad(f"early_stopping.{key}", written[key], "unknown key", nearest(key, ("asha",)))
        if not isinstance(written.get("asha"), dict):
            raise self._bad("early_stopping.asha", written.get("asha", "missing"), "not a mapping", cure)
        if len(objectives) > 1:
            raise self._bad("early_stopping", "asha", "stops by one objective, and there are several", "leave it out")
        return self._model("early_stopping.asha", Asha, written["asha"])

    def _ablation(self, base: Config, search: domain.Search, objectives: tuple[Objective, ...]) -> Ablation | None:
        written = self._value("ablation")
        if written is None:
            return None
        written = self._mapping("ablation")
        arms = self._value("arms", written)
        if not isinstance(arms, dict) or not arms:
            cure = "name at least one: `arms: {no_memory: {model.memory: none}}`"
            raise self._bad("ablation.arms", "empty" if arms == {} else arms, "no arms", cure)
        overrides = {name: self._arm(name, arm) for name, arm in arms.items()}
        ablation = self._model("ablation", Ablation, {**written, "arms": overrides})
        if ablation.baseline == "best" and not search:
            raise self._bad("ablation.baseline", "best", "there is no search to be best of", "use base, or add one")
        if ablation.baseline == "best" and len(objectives) > 1:
            raise self._bad("ablation.baseline", "best", "several objectives have no one best trial", "use base")
        open_values = search if ablation.baseline == "best" else {}
        for name, arm in overrides.items():
            with self._at(f"ablation.arms.{name}."):
                domain.check_arm(base, arm, search=open_values)
        with self._at("ablation.arms."):
            domain.check_different(base, overrides, search=open_values)
        return ablation

    def _arm(self, name: str, written: object) -> dict[str, Any]:
        key = f"ablation.arms.{name}"
        if name in (SEARCH, BASELINE):
            raise self._bad(key, "arm", "a reserved name: the study's own arms are called so", "choose another name")
        if not _NAME.fullmatch(name):
            raise self._bad(key, "arm", "not an arm's name", _NAME_CURE)
        if not isinstance(written, dict):
            raise self._bad(key, written, "not a mapping", "write {model.memory: none}")
        overrides = self._overrides(f"{key}.", written)
        with self._at(f"{key}."):
            for parameter in overrides:
                check_key(parameter)
                if parameter == "train.seed":
                    raise ConfigError(parameter, overrides[parameter], "every arm has the same seeds", "remove it")
        return overrides

    def _resources(self) -> Resources:
        written = self._optional("resources")
        gpu = self._value("gpu", written)
        if gpu is not None and gpu != "auto":
            cure = "use auto, 0, a fraction like 0.5, or a whole number"
            if isinstance(gpu, bool) or not isinstance(gpu, (int, float)):
                raise self._bad("resources.gpu", gpu, "not a number", cure)
            if gpu < 0 or (gpu > 1 and not float(gpu).is_integer()):
                raise self._bad("resources.gpu", gpu, "not a share of a card, nor whole cards", cure)
        return self._model("resources", Resources, written)

    # ---- reading

    def _value(self, key: str, tree: dict[str, Any] | None = None) -> Any:
        """A value that may be left out: None, as if `null` were written."""
        tree = self._tree if tree is None else tree
        return tree[key] if key in tree else None  # noqa: SIM401 - null and absent are the same here

    def _mapping(self, key: str, *, cure: str = "write `key: value` lines under it") -> dict[str, Any]:
        written = self._value(key)
        if not isinstance(written, dict):
            raise self._bad(key, "missing" if written is None else written, "not a mapping", cure)
        return written

    def _optional(self, key: str) -> dict[str, Any]:
        return {} if self._value(key) is None else self._mapping(key)

    def _section(self, key: str, model: type[M]) -> M:
        return self._model(key, model, self._optional(key))

    def _model(self, key: str, model: type[M], written: dict[str, Any]) -> M:
        for name in written:
            if name not in model.model_fields:
                cure = nearest(name, list(model.model_fields))
                raise self._bad(f"{key}.{name}", written[name], "unknown key", cure)
        try:
            return model.model_validate(written)
        except ValidationError as error:
            found = explain(error)
        raise self._bad(f"{key}.{found.key}", found.value, found.rule, found.cure)

    def _overrides(self, prefix: str, written: dict[str, Any]) -> dict[str, Any]:
        """Overrides as dotted keys with absolute paths, whether they were nested or dotted."""
        flat = settings.flatten(written)
        return {key: self._absolute(prefix + key, value) if key in PATH_KEYS else value for key, value in flat.items()}

    def _absolute(self, key: str, value: object) -> Any:
        """A path, relative to the file it stands in; to the current folder where it came by `--set`."""
        if not isinstance(value, str):
            return value
        folder = Path() if self._document.place(key) == settings.PLACE else self._folder
        return os.path.abspath(folder / Path(value).expanduser())  # noqa: PTH100 - drops `..`, keeps symbolic links

    # ---- complaining

    def _bad(self, key: str, value: object, rule: str, cure: str) -> BadInput:
        return BadInput(self._document.place(key), key, value, rule, cure)

    @contextmanager
    def _at(self, prefix: str) -> Iterator[None]:
        """Turn a ConfigError about a parameter into BadInput at the line where the file has it."""
        try:
            yield
        except ConfigError as error:
            place = self._document.place(prefix + error.key)
            raise BadInput(place, error.key, error.value, error.rule, error.cure) from None


def _culprit(preset: str, overrides: dict[str, Any]) -> str:
    """The override without which the configuration is valid; `preset` where no single one is to blame."""
    for key in overrides:
        try:
            resolve(preset, {other: value for other, value in overrides.items() if other != key})
        except ConfigError:
            continue
        return key
    return "preset"
