"""docs/reference/configuration.md: every key of a configuration, from the trainer's own models."""

from __future__ import annotations

from ablate.reference import _trainer, markdown
from ablate.reference.fields import shown

_INTRO = """The keys of what a trial trains. A study file has them in `base`, in `search` and in the overrides of arms.
`--set` of `model.train` and `ablate.rerun` takes them as they are, `--set` of `ablate.sweep` with `base.` before them.
The column of a preset holds the preset's values; — means none."""


def page() -> str:
    """The page, in Markdown."""
    blocks = [_INTRO]
    for section, (about, parameters) in _trainer.parameters().items():
        presets = list(parameters[0].values)
        rows = [
            [f"`{one.key}`", one.kind, *(shown(one.values[preset]) for preset in presets), markdown.prose(one.about)]
            for one in parameters
        ]
        headers = ["key", "value", *(f"`{preset}`" for preset in presets), ""]
        blocks += [f"## {section}", markdown.prose(about), markdown.table(headers, rows)]
    return markdown.page("Configuration keys", *blocks)
