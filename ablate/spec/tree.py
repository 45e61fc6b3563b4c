"""Shared by the readers of a study file: values by key, mappings as models, and errors at the right line."""

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
from ablate.spec.yaml_marks import Document
from ablate.trainers import Trainer
from ablate.trainers.section import Section, explain

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
NAME_HINT = "use letters, digits, `_`, `-` and `.`, and begin with a letter, a digit or `_`"

LONGEST_PATH = 2**10
"""Bytes; Linux allows four times as many for the whole path."""

M = TypeVar("M", bound=Section)


class Tree:
    """Reads a document's tree. A ParameterError becomes BadInput at the line of its key."""

    def __init__(self, document: Document, *, folder: Path, trainer: Trainer) -> None:
        self.document, self.root, self._folder, self.trainer = document, document.tree, folder, trainer

    # ---- reading

    def value(self, key: str, tree: dict[str, Any] | None = None) -> Any:
        """A value that may be left out; None for that and for `null`."""
        tree = self.root if tree is None else tree
        return tree[key] if key in tree else None  # noqa: SIM401 - null and absent are the same here

    def mapping(self, key: str, *, hint: str = "write `key: value` lines under it") -> dict[str, Any]:
        """A required section, a mapping."""
        written = self.value(key)
        if not isinstance(written, dict):
            raise self.bad(key, "missing" if written is None else written, "not a mapping", hint)
        return written

    def optional(self, key: str) -> dict[str, Any]:
        """An optional section; empty where it is left out."""
        return {} if self.value(key) is None else self.mapping(key)

    def section(self, key: str, model: type[M]) -> M:
        """An optional section as its model."""
        return self.model(key, model, self.optional(key))

    def model(self, key: str, model: type[M], written: dict[str, Any]) -> M:
        """A mapping as a model. Raises BadInput at the line of the field at fault."""
        self.known(key, written, tuple(model.model_fields))
        try:
            return model.model_validate(written)
        except ValidationError as error:
            found = explain(error)
        raise self.bad(f"{key}.{found.key}", found.value, found.rule, found.hint)

    def known(self, key: str, written: dict[str, Any], allowed: tuple[str, ...]) -> None:
        """Raise BadInput for a key that is not allowed."""
        for name in written:
            if name not in allowed:
                raise self.bad(f"{key}.{name}", written[name], "unknown key", nearest(name, allowed))

    def metric(self, key: str, metric: object) -> str:
        """The metric's name. Raises BadInput unless it is a metric that is a single number."""
        numbers = tuple(known.name for known in self.trainer.description.metrics if known.kind != "floats")
        if metric not in numbers:
            raise self.bad(key, metric, "unknown metric", nearest(str(metric), numbers))
        return str(metric)

    def overrides(self, prefix: str, written: dict[str, Any]) -> dict[str, Any]:
        """Nested or dotted overrides as dotted keys, paths made absolute."""
        flat = overrides.flatten(written)
        return {
            key: self.absolute(prefix + key, value) if key in self.trainer.path_keys else value
            for key, value in flat.items()
        }

    def absolute(self, key: str, value: object) -> Any:
        """A path made absolute: relative to the study file, or to the current folder where it came by `--set`."""
        if not isinstance(value, str):
            return value
        folder = Path() if self.document.place(key) == overrides.PLACE else self._folder
        if len(value.encode()) > LONGEST_PATH:
            raise self.bad(key, value, f"a path of more than {LONGEST_PATH} bytes", "give a shorter one")
        # os.path drops `..`, keeps symbolic links, and takes an unknown `~name` as it is.
        return os.path.abspath(folder / os.path.expanduser(value))  # noqa: PTH100, PTH111

    # ---- errors

    def bad(self, key: str, value: object, rule: str, hint: str) -> BadInput:
        """An error at the line of `key`."""
        return BadInput(self.document.place(key), key, value, rule, hint)

    @contextmanager
    def at(self, prefix: str) -> Iterator[None]:
        """Turn a ParameterError into BadInput at the line of its key; `prefix` leads to the key in the file."""
        try:
            yield
        except ParameterError as error:
            raise error.at(self.document.place(prefix + error.key)) from None
