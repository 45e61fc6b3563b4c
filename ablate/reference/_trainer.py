"""What the reference needs of the trainer, as plain data: its parameters and its commands."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from ablate.reference.fields import default, descriptions, kind
from model import train
from model.api import PRESETS, Config
from model.bank import inspect


@dataclass(frozen=True)
class Parameter:
    """A key of a configuration. `kind` is what may be written, `values` its value in each preset (None: left out)."""

    key: str
    kind: str
    values: Mapping[str, object]
    about: str


def parameters() -> Mapping[str, tuple[str, tuple[Parameter, ...]]]:
    """Section -> what it is about, and its parameters in the order of the code."""
    sections: dict[str, tuple[str, tuple[Parameter, ...]]] = {}
    for section, holder in Config.model_fields.items():
        model = holder.annotation
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue  # `preset`
        found, about = [], descriptions(model)
        for name, field in model.model_fields.items():
            key = f"{section}.{name}"
            values = {preset: {key: default(field), **given}[key] for preset, given in PRESETS.items()}
            found.append(Parameter(key, kind(field), values, about[name]))
        sections[section] = (model.__doc__ or "", tuple(found))
    return sections


def parsers() -> Mapping[str, ArgumentParser]:
    """Module -> the command line of `python -m MODULE`."""
    return {"model.train": train.parser(), "model.bank": inspect.parser()}
