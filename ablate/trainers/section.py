"""What every section of a study file is: a pydantic model, frozen, closed and strict, with errors in plain words."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from ablate.errors import ParameterError

EXACT = 2**53
"""Parquet, JSON readers and Optuna store numbers as doubles, in which larger whole numbers are not exact."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT else value


Whole = Annotated[int, BeforeValidator(_whole)]
"""A whole number in any notation, `5e4` too."""


def broken(rule: str, hint: str) -> PydanticCustomError:
    """The error that a validator raises: the broken rule, and a hint."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "hint": hint})


class Section(BaseModel):
    """A part of a study file: frozen, closed, strict. Docstrings under fields are docs/reference's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def explain(error: ValidationError) -> ParameterError:
    """The first of pydantic's errors in this project's words: dotted key, value, rule and hint."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    context = first.get("ctx", {})
    if first["type"] == "rule":  # raised by `models.broken`
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
"""Pydantic's error type -> rule and hint."""


def _shown(value: object) -> str:
    text = "missing" if isinstance(value, dict) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
