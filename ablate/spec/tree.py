"""What the readers of a study file share: values by key, models out of mappings, and complaints at the right line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ablate.errors import BadInput, ParameterError, nearest
from ablate.spec import overrides
from ablate.spec.models import Section
from ablate.spec.yaml_marks import Document
from ablate.trainers import Trainer

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
NAME_HINT = "use letters, digits, `_`, `-` and `.`, beginning with none of the last two"

LONGEST_PATH = 2**10
"""Bytes; Linux takes four times as many, folder and all."""

M = TypeVar("M", bound=Section)


class Tree:
    """A document's tree. A ParameterError becomes BadInput at the line of the key that it names."""

    def __init__(self, document: Document, *, folder: Path, trainer: Trainer) -> None:
        self.document, self.root, self._folder, self.trainer = document, document.tree, folder, trainer

    # ---- reading

    def value(self, key: str, tree: dict[str, Any] | None = None) -> Any:
        """A value that may be left out: None, as if `null` were written."""
        tree = self.root if tree is None else tree
        return tree[key] if key in tree else None  # noqa: SIM401 - null and absent are the same here

    def mapping(self, key: str, *, hint: str = "write `key: value` lines under it") -> dict[str, Any]:
        """A section that must be there and be a mapping."""
        written = self.value(key)
        if not isinstance(written, dict):
            raise self.bad(key, "missing" if written is None else written, "not a mapping", hint)
        return written

    def optional(self, key: str) -> dict[str, Any]:
        """A section that may be left out."""
        return {} if self.value(key) is None else self.mapping(key)

    def section(self, key: str, model: type[M]) -> M:
        """A whole optional section as its model."""
        return self.model(key, model, self.optional(key))

    def model(self, key: str, model: type[M], written: dict[str, Any]) -> M:
        """A mapping as a model; complaints stand at the line of the field."""
        self.known(key, written, tuple(model.model_fields))
        try:
            return model.model_validate(written)
        except ValidationError as error:
            found = explain(error)
        raise self.bad(f"{key}.{found.key}", found.value, found.rule, found.hint)

    def known(self, key: str, written: dict[str, Any], allowed: tuple[str, ...]) -> None:
        """Refuse a key that is none of the allowed."""
        for name in written:
            if name not in allowed:
                raise self.bad(f"{key}.{name}", written[name], "unknown key", nearest(name, allowed))

    def metric(self, key: str, metric: object) -> str:
        """The name of a metric that is a single number."""
        numbers = tuple(known.name for known in self.trainer.description.metrics if known.kind != "floats")
        if metric not in numbers:
            raise self.bad(key, metric, "unknown metric", nearest(str(metric), numbers))
        return str(metric)

    def overrides(self, prefix: str, written: dict[str, Any]) -> dict[str, Any]:
        """Overrides as dotted keys with absolute paths, whether they were nested or dotted."""
        flat = overrides.flatten(written)
        return {
            key: self.absolute(prefix + key, value) if key in self.trainer.path_keys else value
            for key, value in flat.items()
        }

    def absolute(self, key: str, value: object) -> Any:
        """A path, relative to the file it stands in; to the current folder where it came by `--set`."""
        if not isinstance(value, str):
            return value
        folder = Path() if self.document.place(key) == overrides.PLACE else self._folder
        if len(value.encode()) > LONGEST_PATH:
            raise self.bad(key, value, f"a path of more than {LONGEST_PATH} bytes", "give a shorter one")
        # os.path: `..` is dropped and symbolic links are kept, and a `~nobody` is a name and no error.
        return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111

    # ---- complaining

    def bad(self, key: str, value: object, rule: str, hint: str) -> BadInput:
        """A complaint at the line of `key`."""
        return BadInput(self.document.place(key), key, value, rule, hint)

    @contextmanager
    def at(self, prefix: str) -> Iterator[None]:
        """Turn a ParameterError about a parameter into BadInput at the line where the file has it."""
        try:
            yield
        except ParameterError as error:
            raise error.at(self.document.place(prefix + error.key)) from None


def explain(error: ValidationError) -> ParameterError:
    """The first of pydantic's complaints in this project's words: dotted key, value, rule and hint."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    context = first.get("ctx", {})
    if first["type"] == "rule":  # one of this package's validators
        return ParameterError(key, _shown(first["input"]), context["rule"], context["hint"])
    rule, hint = _RULES.get(first["type"], (first["msg"], "see docs/reference/study-file.md"))
    bound = next(iter(context.values()), "")
    return ParameterError(key, _shown(first["input"]), rule, hint.format(bound=bound))


_WHOLE = ("not a whole number", "write it like 16 or 1_024")
_REAL = ("not a number", "write it like 0.1 or 1e-4")
_RULES = {
    "missing": ("missing", "give it a value"),
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _REAL,
    "finite_number": ("not finite", "give a finite number"),
    "string_type": ("not a text", "put it in quotes"),
    "bool_type": ("not true or false", "write true or false"),
    "model_type": ("not a mapping", "write `key: value` pairs"),
    "literal_error": ("not one of the allowed values", "use {bound}"),
    "greater_than": ("out of range", "must be greater than {bound}"),
    "greater_than_equal": ("out of range", "must be at least {bound}"),
    "less_than": ("out of range", "must be less than {bound}"),
    "less_than_equal": ("out of range", "must be at most {bound}"),
}
"""Pydantic's type of error -> rule and hint."""


def _shown(value: object) -> str:
    text = "missing" if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
