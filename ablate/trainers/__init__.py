"""The door to a trainer: the `Trainer` protocol, its implementations by name, and what readers of results need of one.

Importing this imports no trainer; `load` does.
"""

from __future__ import annotations

import importlib
import sys
from typing import cast

from ablate.errors import ParameterError, nearest
from ablate.trainers.protocol import (
    Config,
    Cost,
    Description,
    Metric,
    Report,
    Result,
    Train,
    Trainer,
    Verdict,
)

__all__ = [
    "DEFAULT", "Config", "Cost", "Description", "Metric", "Report", "Result", "Train", "Trainer", "Verdict",
    "check_key", "is_imported", "load",
]  # fmt: skip

DEFAULT = "token_memory"

TRAINERS = {DEFAULT: "ablate.trainers.token_memory:TokenMemory"}
"""Name -> module:class. A name that is no key here is a module:class itself."""


def load(name: str = DEFAULT) -> Trainer:
    """The trainer of this name; imports it."""
    module, _, attribute = TRAINERS.get(name, name).partition(":")
    return cast(Trainer, getattr(importlib.import_module(module), attribute)())


def is_imported(name: str) -> bool:
    """Whether the trainer's module is loaded already, so that `load` costs nothing."""
    return TRAINERS.get(name, name).partition(":")[0] in sys.modules


def check_key(trainer: Trainer, key: str) -> None:
    """Raise ParameterError, with the nearest right key, unless the trainer has this parameter."""
    if key not in trainer.keys:
        raise ParameterError(key, "unknown key", "no such parameter", nearest(key, trainer.keys))
