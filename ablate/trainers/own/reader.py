"""Reads the section `trainer:` of a study file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablate.errors import ParameterError, nearest
from ablate.trainers.own import files
from ablate.trainers.own.settings import Settings
from ablate.trainers.own.trainer import OwnTrainer
from ablate.trainers.section import explain

WRITTEN = tuple(name for name in Settings.model_fields if name != "at")
"""What a file may write."""


def read(written: Any, *, folder: Path) -> OwnTrainer:
    """The trainer that the section describes. Imports nothing of the user's. Raises ParameterError, whose key is the
    dotted key in the file, and BadInput where the user's code is not Python."""
    if not isinstance(written, dict):
        hint = "write {function: train:main, parameters: {...}, budget: {...}, metrics: {...}}"
        raise ParameterError("trainer", written, "not a mapping", hint)
    for key in written:
        if key not in WRITTEN:
            raise ParameterError(f"trainer.{key}", written[key], "unknown key", nearest(key, WRITTEN))
    try:
        # os.path keeps symbolic links: the user's own name of the folder.
        settings = Settings.model_validate({**written, "at": os.path.abspath(folder)})  # noqa: PTH100
        files.check(settings)
    except ValidationError as error:
        found = explain(error)
    except ParameterError as error:
        found = error
    else:
        return OwnTrainer(settings)
    key = f"trainer.{found.key}" if found.key else "trainer"
    raise ParameterError(key, found.value, found.rule, found.hint)
