"""A field of a pydantic model in a user's words: what may be written, and what holds where nothing is written."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
_SIGNS = {Gt: ("gt", ">"), Ge: ("ge", "≥"), Lt: ("lt", "<"), Le: ("le", "≤")}


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring under it, "" where there is none. Read from the source here, because pydantic's
    `use_attribute_docstrings` would read it at every start of every process."""
    (definition,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(definition, ast.ClassDef)
    found = dict.fromkeys(model.model_fields, "")
    for field, under in pairwise(definition.body):
        match field, under:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def kind(field: FieldInfo) -> str:
    """What may be written: `whole number ≥ 1, ≤ 1,024`, `auto` or a number, the words to choose from."""
    signs = [f"{sign} {_bound(getattr(one, name))}" for one in field.metadata for name, sign in _sign(one)]
    *others, number = sorted(_kinds(field.annotation), key=lambda name: "number" in name)
    return ", ".join([*others, " ".join([number, ", ".join(signs)]).strip()])


def shown(value: object) -> str:
    """A value as a file would have it; an em dash for what is left out."""
    if value is None or value == {}:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 10_000:
        return f"{value:_}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def default(field: FieldInfo) -> Any:
    """The default, None for a field that must be given."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _kinds(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        for argument in arguments:
            yield from _kinds(argument)
    elif origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin is Literal:
        yield from (f"`{word}`" for word in arguments)
    elif origin in (tuple, list):
        yield "list"
    elif origin is Mapping:
        yield "mapping"
    elif annotation is not NoneType:
        yield _NAMES[annotation]


def _sign(constraint: object) -> Iterator[tuple[str, str]]:
    if type(constraint) in _SIGNS:
        yield _SIGNS[type(constraint)]


def _bound(number: float) -> str:
    return f"{number:,}"
