"""What the generated reference shows of the built-in trainer: the sections of its configuration, its presets and its
commands. Only the reference imports this: it loads all of `model`."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from model import train
from model.api import PRESETS, Config
from model.bank import __main__ as bank


def sections() -> Mapping[str, type[BaseModel]]:
    """Section -> the model of its keys, in the order of the code."""
    holders = {name: field.annotation for name, field in Config.model_fields.items()}
    return {name: kind for name, kind in holders.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def presets() -> Mapping[str, Mapping[str, Any]]:
    """Preset -> the values that it gives, by dotted key."""
    return PRESETS


def parsers() -> Mapping[str, ArgumentParser]:
    """Module -> the command line of `python -m MODULE`."""
    return {"model.train": train.parser(), "model.bank": bank.parser()}
