"""docs/reference/study-file.md: every section and key of a study file, from the models that validate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args, get_origin

from pydantic.fields import FieldInfo

from ablate.reference import markdown
from ablate.reference.fields import default, descriptions, kind, shown
from ablate.spec.distributions import KINDS
from ablate.spec.models import Ablation, EarlyStopping, Hypothesis, Objective, Optimizer, Resources, Tracking
from ablate.spec.reader import SECTIONS
from ablate.spec.yaml_marks import DEPTH, SIZE
from ablate.trainers.own.settings import Settings
from ablate.trainers.section import Section

_INTRO = f"""A study file is YAML: at most {SIZE // 2**10} KiB and {DEPTH} levels deep, without tags, aliases or
objects. Numbers are numbers however they are written (`1e-4`, `50_000`), up to 2^53. `--set KEY=VALUE` of
`ablate.sweep` sets any of its keys. [docs/studies.md](../studies.md) has a whole example, and what its parts do
together."""

_SECTIONS = {
    "study": ("needed", "the study's name, and the name of its folder: letters, digits, `_`, `-` and `.`"),
    "question": ("—", "what the study asks; the report prints it"),
    "base": (
        "needed",
        "the configuration that trials start from: `preset` (`tiny`: two CPU cores, seconds a trial; `seed-1.4.6`: one"
        " RTX 4090), and [configuration keys](configuration.md) that override it, nested (`data: {corpus: facts}`) or"
        " dotted (`data.corpus: facts`). Paths are relative to the file, those of `--set` to the current folder",
    ),
    "trainer": ("the token memory", "[your own function or command](#trainer) instead; `base` then needs no preset"),
    "search": ("—", "key to [distribution](#distributions). A study has a `search`, an `ablation`, or both"),
    "objective": ("val_loss, min", "[what is searched for](#objective)"),
    "optimizer": ("—", "[how the search draws its trials](#optimizer)"),
    "early_stopping": ("—", "[which trials of a search stop early](#early_stopping)"),
    "ablation": ("—", "[arms that are compared with a baseline](#ablation)"),
    "hypotheses": ("—", "a list of [claims about arms](#hypotheses)"),
    "targets": ("—", "metric to the value that you hope to reach; the experiment record compares them"),
    "resources": ("—", "[what a trial gets](#resources)"),
    "tracking": ("—", "[whether SwanLab records the trials](#tracking)"),
}
"""Section -> default and description, of every section that the reader knows."""

MODELS: dict[str, type[Section]] = {
    "trainer": Settings,
    "objective": Objective,
    "optimizer": Optimizer,
    "early_stopping": EarlyStopping,
    "ablation": Ablation,
    "hypotheses": Hypothesis,
    "resources": Resources,
    "tracking": Tracking,
}
_WRITTEN = {"ablation.sequential": "ablation.seeds"}
"""A field that the reader fills, and the key under which a file has it."""

_FILLED = ("trainer.at",)
"""Fields that no file has."""

_DEFAULTS = {"objective.mode": "the metric's own"}
"""Defaults that the reader finds out and no model has."""


def page() -> str:
    """The page, in Markdown."""
    sections = markdown.table(["section", "default", ""], [[f"`{name}`", *_SECTIONS[name]] for name in SECTIONS])
    blocks = [block for name, model in MODELS.items() for block in _section(name, model)]
    draws = markdown.table(["distribution", "draws"], [[f"`{_example(name)}`", draws] for name, draws in KINDS.items()])
    return markdown.page("The study file", _INTRO, sections, *blocks, "## Distributions", draws)


def fields(name: str, model: type[Section]) -> Iterator[tuple[str, str, FieldInfo, str]]:
    """Every key below `name`: the dotted key, what may be written, the field, its description."""
    about = descriptions(model)
    for key, field in model.model_fields.items():
        if f"{name}.{key}" in _FILLED:
            continue
        inner, dotted = _section_in(field.annotation), f"{name}.{key}"
        dotted = _WRITTEN.get(dotted, dotted)
        yield dotted, "mapping" if inner else kind(field), field, about[key]
        if inner:
            yield from fields(f"{dotted}.NAME" if get_origin(field.annotation) is Mapping else dotted, inner)


def _section(name: str, model: type[Section]) -> list[str]:
    rows = [
        [f"`{key}`", written, _default(key, field), markdown.prose(about)]
        for key, written, field, about in fields(name, model)
    ]
    return [f"## {name}", markdown.prose(model.__doc__ or ""), markdown.table(["key", "value", "default", ""], rows)]


def _default(key: str, field: FieldInfo) -> str:
    if key in _DEFAULTS:
        return _DEFAULTS[key]
    return "needed" if field.is_required() else shown(default(field))


def _section_in(annotation: object) -> type[Section] | None:
    """The model that a field holds, as itself or `X | None`."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            return one
    return None


def _example(distribution: str) -> str:
    return f"{{{distribution}: {'[a, b, c]' if distribution == 'choice' else '[low, high]'}}}"
