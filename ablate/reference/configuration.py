"""docs/reference/configuration.md: every key of a configuration, from the trainer's own models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ablate.reference import markdown
from ablate.reference.fields import default, descriptions, kind, shown
from ablate.trainers import token_memory_pages

_INTRO = """The keys of what a trial trains. A study file has them in `base`, in `search` and in the overrides of arms.
`--set` of `model.train` and `ablate.rerun` takes them as they are, `--set` of `ablate.sweep` with `base.` before them.
The column of a preset holds the preset's values; — means none."""


@dataclass(frozen=True)
class Parameter:
    """A key of a configuration. `kind` is what may be written, `values` its value in each preset, as a file has it."""

    key: str
    kind: str
    values: tuple[str, ...]
    about: str


def parameters(section: str) -> Iterator[Parameter]:
    """The keys of a section, in the order of the code."""
    model, presets = token_memory_pages.sections()[section], token_memory_pages.presets().values()
    about = descriptions(model)
    for name, field in model.model_fields.items():
        key = f"{section}.{name}"
        values = tuple(shown({key: default(field), **given}[key]) for given in presets)
        yield Parameter(key, kind(field), values, about[name])


def page() -> str:
    """The page, in Markdown."""
    headers = ["key", "value", *(f"`{preset}`" for preset in token_memory_pages.presets()), ""]
    blocks = [_INTRO]
    for section, model in token_memory_pages.sections().items():
        rows = [[f"`{one.key}`", one.kind, *one.values, markdown.prose(one.about)] for one in parameters(section)]
        blocks += [f"## {section}", markdown.prose(model.__doc__ or ""), markdown.table(headers, rows)]
    return markdown.page("Configuration keys", *blocks)
