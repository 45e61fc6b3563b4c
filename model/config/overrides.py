"""Presets and dotted overrides become a `Config`: frozen and validated, or an error with key, value, rule and hint."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from model.config.presets import PRESETS
from model.config.rules import check_rules
from model.config.settings import (
    LARGEST,
    LATER_KEYS,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    ModelConfig,
    Section,
    TrainConfig,
)

_SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "data": DataConfig,
    "eval": EvalConfig,
}

KEYS: tuple[str, ...] = tuple(f"{section}.{name}" for section, kind in _SECTIONS.items() for name in kind.model_fields)
"""Every dotted key that an override may name."""

PATH_KEYS = ("data.train", "data.val", "data.knowledge", "data.tokenizer")
"""The keys whose values are paths."""


def nearest(word: str, allowed: tuple[str, ...] | list[str]) -> str:
    """`did you mean X?`, or the whole list where no allowed word is similar."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(allowed)}"


def resolve(preset: str, overrides: Mapping[str, Any]) -> Config:
    """Merge a preset with dotted overrides and validate the whole.

    Raises ConfigError for an unknown preset or key, a wrong type, or a value that breaks a rule.
    """
    if preset not in PRESETS:
        raise ConfigError("preset", preset, "unknown preset", nearest(str(preset), list(PRESETS)))
    for key, value in overrides.items():
        check_key(key)
        if isinstance(value, bool):  # pydantic would read true as 1
            hint = "give a number, or a word like on or off"
            raise ConfigError(key, str(value).lower(), "neither a number nor a text", hint)
    merged = {**PRESETS[preset], **overrides}
    # The user's budget replaces the preset's, in tokens or in epochs.
    if "train.tokens" in overrides and "train.epochs" not in overrides:
        merged.pop("train.epochs", None)
    if "train.epochs" in overrides and "train.tokens" not in overrides:
        merged.pop("train.tokens", None)
    tree: dict[str, Any] = {"preset": preset, **{section: {} for section in _SECTIONS}}
    for key, value in merged.items():
        section, name = key.split(".", 1)
        tree[section][name] = value
    config = _validate(tree)
    check_rules(config)
    return config


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """`config` with dotted overrides, validated whole. A budget in tokens replaces one in epochs, and the other way.

    Raises ConfigError as `resolve` does.
    """
    kept = read_overrides(config)
    if "train.tokens" in overrides or "train.epochs" in overrides:
        kept["train.tokens"] = kept["train.epochs"] = None
    return resolve(config.preset, {**kept, **overrides})


def check_key(key: str) -> None:
    """Raise ConfigError, with the nearest right key, unless `key` may be overridden."""
    if key not in KEYS:
        raise ConfigError(key, "unknown key", "no such parameter", nearest(key, list(KEYS)))


def from_json(text: str) -> Config:
    """The configuration that `Config.model_dump_json` wrote."""
    return Config.model_validate_json(text)


def value_of(config: Config, key: str) -> Any:
    """The value at a dotted key: `value_of(config, "model.ema_decay")`."""
    section, name = key.split(".", 1)
    return getattr(getattr(config, section), name)


def read_overrides(config: Config) -> dict[str, Any]:
    """The configuration as dotted keys; `resolve(config.preset, read_overrides(config)) == config`."""
    return {key: value_of(config, key) for key in KEYS}


def as_first_released(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped configuration without later keys that change nothing: equal to what an earlier version dumped."""

    def is_later(section: str, name: str, value: Any) -> bool:
        key = f"{section}.{name}"
        return key in LATER_KEYS and value == LATER_KEYS[key]

    return {
        section: {name: value for name, value in part.items() if not is_later(section, name, value)}
        if isinstance(part, Mapping)
        else part
        for section, part in tree.items()
    }


def _validate(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise explain(error) from None


def explain(error: ValidationError) -> ConfigError:
    """pydantic's first complaint in this project's form: dotted key, value, rule and hint."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    value, context = first["input"], first.get("ctx", {})
    rule, hint = _RULES.get(first["type"], (first["msg"], "see docs/reference/study-file.md"))
    bound = next(iter(context.values()), "") if context else ""
    return ConfigError(key, _show(value), rule.format(bound=bound), hint.format(bound=bound))


_RULES = {
    "missing": ("missing", "give it a value, or choose a preset that has one"),
    "int_type": ("not a whole number", "write it like 16 or 1_024"),
    "int_parsing": ("not a whole number", "write it like 16 or 1_024"),
    "int_parsing_size": ("out of range", f"must be at most {LARGEST:,}"),
    "int_from_float": ("not a whole number", "write it like 16 or 1_024"),
    "float_type": ("not a number", "write it like 0.1 or 1e-4"),
    "float_parsing": ("not a number", "write it like 0.1 or 1e-4"),
    "finite_number": ("not finite", "give a finite number"),
    "string_type": ("not a text", "put it in quotes"),
    "layers": ("neither `all` nor layers", 'write it like all, [1, 3] or "1,3"'),
    "bool_type": ("not true or false", "write true or false"),
    "model_type": ("not a mapping", "write `key: value` pairs"),
    "literal_error": ("not one of the allowed values", "use {bound}"),
    "greater_than": ("out of range", "must be greater than {bound}"),
    "greater_than_equal": ("out of range", "must be at least {bound}"),
    "less_than": ("out of range", "must be less than {bound}"),
    "less_than_equal": ("out of range", "must be at most {bound}"),
}


def _show(value: object) -> str:
    text = "missing" if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def missing_files(config: Config) -> list[tuple[str, str]]:
    """(key, path) of every file that the configuration names and that does not exist."""
    named = [(key, value_of(config, key)) for key in PATH_KEYS]
    # os.path, since pathlib raises for a name that is too long.
    return [(key, path) for key, path in named if path is not None and not os.path.exists(path)]  # noqa: PTH110
