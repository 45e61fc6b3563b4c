"""The door to a trainer: the `Trainer` protocol, its implementations by name, and what readers need to know of one.

Importing this package imports no trainer; `load` imports one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ablate.errors import BadInput, ParameterError, nearest
from ablate.trainers.protocol import STOP_S, Config, Cost, Description, Metric, Report, Result, Train, Trainer, Verdict

__all__ = [
    "DEFAULT", "STOP_S", "Config", "Cost", "Description", "Metric", "Report", "Result", "Train", "Trainer", "Verdict",
    "check_key", "is_imported", "load", "read",
]  # fmt: skip

DEFAULT = "token_memory"

TRAINERS = {DEFAULT: "ablate.trainers.token_memory:TokenMemory", "own": "ablate.trainers.own.trainer:OwnTrainer"}
"""Name -> module:class. A name that is not in this table must itself be `module:class`."""


def load(name: str = DEFAULT, settings: Mapping[str, Any] | None = None) -> Trainer:
    """Import the trainer of this name; `settings` are those of its description."""
    module, _, attribute = TRAINERS.get(name, name).partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except ImportError:
        _check_place_of_model()
        raise
    return cast(Trainer, found.of(settings) if settings else found())


def _check_place_of_model() -> None:
    """Raise BadInput where a user's `model` stands in the place of the package that the token memory is."""
    found, own = importlib.util.find_spec("model"), Path(__file__).parents[2] / "model"
    if found is not None and found.origin is not None and own.is_dir() and own not in Path(found.origin).parents:
        rule = "the token memory's package has this name too, and this one is found first"
        raise BadInput(found.origin, "", "", rule, "run the command in another folder, or rename it")


def read(written: Any, *, folder: Path) -> Trainer:
    """The trainer that the section `trainer:` of a study file in `folder` describes. Raises ParameterError."""
    return importlib.import_module("ablate.trainers.own.reader").read(written, folder=folder)


def is_imported(name: str) -> bool:
    """Whether the trainer's module is imported already, so that `load` is fast."""
    return TRAINERS.get(name, name).partition(":")[0] in sys.modules


def check_key(trainer: Trainer, key: str) -> None:
    """Raise ParameterError, which names the nearest key, unless the trainer has this parameter."""
    if key not in trainer.keys:
        raise ParameterError(key, "unknown key", "no such parameter", nearest(key, trainer.keys))
