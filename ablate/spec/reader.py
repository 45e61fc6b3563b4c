"""Turns the tree of a study file into a StudySpec, section by section."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.errors import ParameterError, nearest
from ablate.spec import ablation_reader, distributions, feasibility
from ablate.spec.distributions import Choice, Distribution
from ablate.spec.models import EarlyStopping, Objective, Optimizer, Resources, StudySpec, Tracking
from ablate.spec.tree import NAME, NAME_HINT, Tree
from ablate.spec.yaml_marks import Document
from ablate.trainers import Config, Trainer, check_key

SECTIONS = (
    "study", "question", "trainer", "base", "search", "objective", "optimizer", "early_stopping", "ablation",
    "hypotheses", "targets", "resources", "tracking",
)  # fmt: skip


class Reader:
    """Reads the sections of one document. A ParameterError becomes BadInput at the line of its key."""

    def __init__(self, document: Document, *, folder: Path, trainer: Trainer) -> None:
        self._tree, self._trainer = Tree(document, folder=folder, trainer=trainer), trainer

    def study(self, file: Path) -> StudySpec:
        """Read the whole study. Raises BadInput at the first key that is not valid."""
        for key in self._tree.root:
            if key not in SECTIONS:
                raise self._tree.bad(key, self._tree.root[key], "unknown key", nearest(key, SECTIONS))
        name = self._name()
        base = self._base()
        search = self._search(base)
        objectives = self._objectives(base)
        early_stopping = self._early_stopping(objectives)
        ablation = None
        if self._tree.value("ablation") is not None:
            ablation = ablation_reader.read(self._tree, base=base, search=search, objectives=objectives)
        if not search and ablation is None:
            raise self._tree.bad("search", "missing", "no search and no ablation: nothing to do", "add one of them")
        return StudySpec(
            study=name,
            question=self._question(),
            base=base,
            search=search,
            objectives=objectives,
            optimizer=self._optimizer(search, objectives),
            early_stopping=early_stopping,
            ablation=ablation,
            hypotheses=ablation_reader.hypotheses(self._tree, ablation, base),
            targets=ablation_reader.targets(self._tree),
            resources=self._tree.section("resources", Resources),
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
                "study", name, "a study's name cannot be a path", "give the name alone, and the folder by --results"
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
        has_defaults = bool(self._trainer.description.settings)
        hint = "add `base: {preset: tiny}`"
        written = self._tree.optional("base") if has_defaults else self._tree.mapping("base", hint=hint)
        overrides = self._tree.overrides("base.", written)
        try:
            return self._trainer.resolve(overrides)
        except ParameterError as error:
            # A rule may tie a value of the file to a default; the error names the value of the file.
            blamed = error.key if error.key in overrides else _culprit(self._trainer, overrides)
            raise error.at(self._tree.document.place(f"base.{blamed}")) from None

    def _search(self, base: Config) -> dict[str, Distribution]:
        if self._tree.value("search") is None:
            return {}
        with self._tree.at("search."):
            search: dict[str, Distribution] = {}
            for key, written in self._tree.mapping("search").items():
                check_key(self._trainer, key)
                distribution = distributions.parse(key, written)
                if isinstance(distribution, Choice) and key in self._trainer.path_keys:
                    paths = [self._tree.absolute(f"search.{key}", value) for value in distribution.choices]
                    distribution = Choice(tuple(paths))
                search[key] = distribution
            feasibility.check_search(base, search)
        return search

    def _objectives(self, base: Config) -> tuple[Objective, ...]:
        written = self._tree.value("objective")
        if written is None:
            return (self._default_objective(),)
        several = isinstance(written, list)
        if several and not written:
            raise self._tree.bad("objective", "[]", "empty list", "write {metric: val_loss, mode: min}")
        entries = list(written) if several else [written]
        keys = [f"objective.{index}" for index in range(len(entries))] if several else ["objective"]
        objectives = tuple(self._objective(key, entry) for key, entry in zip(keys, entries, strict=True))
        unmeasured = self._trainer.unmeasured(base)
        for key, objective in zip(keys, objectives, strict=True):
            if objective.metric in unmeasured:
                rule = f"no trial measures it: {unmeasured[objective.metric]}"
                raise self._tree.bad(f"{key}.metric", objective.metric, rule, "choose another metric, such as val_loss")
        metrics = [objective.metric for objective in objectives]
        if len(set(metrics)) < len(metrics):
            raise self._tree.bad("objective", ", ".join(metrics), "a metric twice", "remove one of them")
        return objectives

    def _default_objective(self) -> Objective:
        known = self._trainer.description
        if not known.objective:
            rule = "no metric of the trainer says whether less or more is better"
            raise self._tree.bad("objective", "missing", rule, "write {metric: NAME, mode: min}")
        return Objective(metric=known.objective, mode=known.by_name[known.objective].better or "min")

    def _objective(self, key: str, written: object) -> Objective:
        if not isinstance(written, dict):
            raise self._tree.bad(key, written, "not a mapping", "write {metric: val_loss, mode: min}")
        metric = written.get("metric")
        if metric is not None:
            better = self._trainer.description.by_name[self._tree.metric(f"{key}.metric", metric)].better
            written = {"mode": better, **written} if better else written
        return self._tree.model(key, Objective, written)

    def _optimizer(self, search: Mapping[str, Distribution], objectives: tuple[Objective, ...]) -> Optimizer:
        optimizer = self._tree.section("optimizer", Optimizer)
        if optimizer.confirm is not None and not search:
            rule = "the study has no search"
            raise self._tree.bad("optimizer.confirm", "given", rule, "leave it out, or add a search")
        if optimizer.confirm is not None and len(objectives) > 1:
            rule = "several objectives have no single best trial"
            raise self._tree.bad("optimizer.confirm", "given", rule, "give one objective")
        if optimizer.seeds_per_trial > 1 and self._tree.value("early_stopping") is not None:
            rule = "asha judges a trial by its own values, not by its point's mean"
            hint = "leave out early_stopping, or give seeds_per_trial: 1"
            raise self._tree.bad("optimizer.seeds_per_trial", optimizer.seeds_per_trial, rule, hint)
        return optimizer

    def _early_stopping(self, objectives: tuple[Objective, ...]) -> EarlyStopping | None:
        if self._tree.value("early_stopping") is None:
            return None
        hint = "write {asha: {min_tokens: 50_000, reduction: 3}}, or leave it out"
        stopping = self._tree.model("early_stopping", EarlyStopping, self._tree.mapping("early_stopping", hint=hint))
        if len(objectives) > 1:
            rule = "stops by one objective, and the study has several"
            raise self._tree.bad("early_stopping", "asha", rule, "leave it out")
        return stopping


def _culprit(trainer: Trainer, overrides: Mapping[str, Any]) -> str:
    """The key without which the configuration is valid; `preset` where there is no such key."""
    for key in overrides:
        try:
            trainer.resolve({other: value for other, value in overrides.items() if other != key})
        except ParameterError:
            continue
        return key
    return "preset"
