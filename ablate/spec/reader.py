"""From the tree of a study file to a StudySpec, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablate.errors import BadInput
from ablate.spec import ablation_reader, distributions, feasibility
from ablate.spec.distributions import Distribution
from ablate.spec.models import Asha, EarlyStopping, Objective, Optimizer, Resources, StudySpec, Tracking
from ablate.spec.tree import NAME, NAME_HINT, Tree
from ablate.spec.yaml_marks import Document
from model.api import BY_NAME, PATH_KEYS, Config, ConfigError, check_key, nearest, resolve

SECTIONS = (
    "study",
    "question",
    "base",
    "search",
    "objective",
    "optimizer",
    "early_stopping",
    "ablation",
    "hypotheses",
    "targets",
    "resources",
    "tracking",
)


class Reader:
    """Reads the sections of one document. ConfigErrors become BadInput at the line of the key that they name."""

    def __init__(self, document: Document, *, folder: Path) -> None:
        self._tree = Tree(document, folder=folder)

    def study(self, file: Path) -> StudySpec:
        for key in self._tree.root:
            if key not in SECTIONS:
                raise self._tree.bad(key, self._tree.root[key], "unknown key", nearest(key, SECTIONS))
        name = self._name()
        base = self._base()
        search = self._search(base)
        objectives = self._objectives()
        early_stopping = self._early_stopping(objectives)
        ablation = None
        if self._tree.value("ablation") is not None:
            ablation = ablation_reader.read(self._tree, base=base, search=search, objectives=objectives)
        if not search and ablation is None:
            raise self._tree.bad("search", "missing", "no search and no ablation: nothing to do", "give one of them")
        return StudySpec(
            study=name,
            question=self._question(),
            base=base,
            search=search,
            objectives=objectives,
            optimizer=self._tree.section("optimizer", Optimizer),
            early_stopping=early_stopping,
            ablation=ablation,
            hypotheses=ablation_reader.hypotheses(self._tree, ablation, base),
            targets=ablation_reader.targets(self._tree),
            resources=self._resources(),
            tracking=self._tree.section("tracking", Tracking),
            file=file,
            document=self._tree.document,
        )

    # ---- sections

    def _name(self) -> str:
        name = self._tree.value("study")
        if name is None:
            raise self._tree.bad("study", "missing", "a study needs a name", "add `study: NAME`")
        if not isinstance(name, str):
            raise self._tree.bad("study", name, "not a text", "put it in quotes")
        if "/" in name or "\\" in name:
            raise self._tree.bad(
                "study", name, "a path in a study's name", "give the name alone, and the folder by --results"
            )
        if not NAME.fullmatch(name):
            raise self._tree.bad("study", name, "not a study's name", NAME_HINT)
        if name == "latest":
            raise self._tree.bad("study", name, "reserved: `latest` means the newest study", "choose another name")
        return name

    def _question(self) -> str:
        question = self._tree.value("question")
        if question is not None and not isinstance(question, str):
            raise self._tree.bad("question", question, "not a text", "put it in quotes")
        return question or ""

    def _base(self) -> Config:
        written = self._tree.mapping("base", hint="add `base: {preset: tiny}`")
        overrides = self._tree.overrides("base.", written)
        if "preset" not in overrides:
            raise self._tree.bad("base.preset", "missing", "a study needs a preset", "add `preset: tiny` to base")
        preset = overrides.pop("preset")
        if not isinstance(preset, str):
            raise self._tree.bad("base.preset", preset, "not a text", "write `preset: tiny`")
        try:
            return resolve(preset, overrides)
        except ConfigError as error:
            # A rule may tie a value of the file to one of the preset: the line to look at is the file's.
            blamed = error.key if error.key in overrides else _culprit(preset, overrides)
            place = self._tree.document.place(f"base.{blamed}")
            raise BadInput(place, error.key, error.value, error.rule, error.hint) from None

    def _search(self, base: Config) -> dict[str, Distribution]:
        if self._tree.value("search") is None:
            return {}
        with self._tree.at("search."):
            search: dict[str, Distribution] = {}
            for key, written in self._tree.mapping("search").items():
                check_key(key)
                distribution = distributions.parse(key, written)
                if isinstance(distribution, distributions.Choice) and key in PATH_KEYS:
                    paths = [self._tree.absolute(f"search.{key}", value) for value in distribution.choices]
                    distribution = distributions.Choice(tuple(paths))
                search[key] = distribution
            feasibility.check_search(base, search)
        return search

    def _objectives(self) -> tuple[Objective, ...]:
        written = self._tree.value("objective")
        if written is None:
            return (Objective(metric="val_loss", mode="min"),)
        several = isinstance(written, list)
        if several and not written:
            raise self._tree.bad("objective", "[]", "empty list", "write {metric: val_loss, mode: min}")
        entries = list(written) if several else [written]
        keys = [f"objective.{index}" for index in range(len(entries))] if several else ["objective"]
        objectives = tuple(self._objective(key, entry) for key, entry in zip(keys, entries, strict=True))
        metrics = [objective.metric for objective in objectives]
        if len(set(metrics)) < len(metrics):
            raise self._tree.bad("objective", ", ".join(metrics), "a metric twice", "remove one of them")
        return objectives

    def _objective(self, key: str, written: object) -> Objective:
        if not isinstance(written, dict):
            raise self._tree.bad(key, written, "not a mapping", "write {metric: val_loss, mode: min}")
        metric = written.get("metric")
        if metric is not None:
            better = BY_NAME[self._tree.metric(f"{key}.metric", metric)].better
            written = {"mode": better, **written} if better else written
        return self._tree.model(key, Objective, written)

    def _early_stopping(self, objectives: tuple[Objective, ...]) -> EarlyStopping | None:
        if self._tree.value("early_stopping") is None:
            return None
        hint = "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out"
        written = self._tree.mapping("early_stopping", hint=hint)
        self._tree.known("early_stopping", written, tuple(EarlyStopping.model_fields))
        asha = self._tree.value("asha", written)
        if not isinstance(asha, dict):
            value = "missing" if asha is None else asha
            raise self._tree.bad("early_stopping.asha", value, "not a mapping", hint)
        if len(objectives) > 1:
            rule = "stops by one objective, and there are several"
            raise self._tree.bad("early_stopping", "asha", rule, "leave it out")
        rungs = self._tree.model("early_stopping.asha", Asha, asha)
        return self._tree.model("early_stopping", EarlyStopping, {**written, "asha": rungs})

    def _resources(self) -> Resources:
        written = self._tree.optional("resources")
        gpu = self._tree.value("gpu", written)
        if gpu is not None and gpu != "auto":
            hint = "use auto, 0, a fraction like 0.5, or a whole number"
            if isinstance(gpu, bool) or not isinstance(gpu, (int, float)):
                raise self._tree.bad("resources.gpu", gpu, "not a number", hint)
            if gpu < 0 or (gpu > 1 and not float(gpu).is_integer()):
                raise self._tree.bad("resources.gpu", gpu, "not a share of a card, nor whole cards", hint)
        return self._tree.model("resources", Resources, written)


def _culprit(preset: str, overrides: dict[str, Any]) -> str:
    """The override without which the configuration is valid; `preset` where no single one is to blame."""
    for key in overrides:
        try:
            resolve(preset, {other: value for other, value in overrides.items() if other != key})
        except ConfigError:
            continue
        return key
    return "preset"
