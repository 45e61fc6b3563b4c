"""The one reader of a study's JSON files. It returns plain, bounded values, or says why there are none."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from ablate.records.atomic_files import Unreadable, check_regular

MOST_LEVELS = 64
LARGEST = 2**63
MOST_BYTES = 64 * 2**20
"""What a study writes stays far below all three. Deeper values overflow the stack, larger numbers what computes with
them, and larger files, which may be sparse, the memory."""


def read(path: Path) -> Any:
    """The value in a file. Raises Unreadable where there is no regular file, or it is not JSON within the bounds."""
    check_regular(path)
    try:
        return parse(content(path))
    except (OSError, ValueError) as error:
        raise Unreadable(str(error)) from None


def content(path: Path) -> bytes:
    """What stands in a file. Raises ValueError where it is larger than any that a study writes."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES // 2**20} MiB, which no such file is")
        return file.read()


def parse(text: str | bytes) -> Any:
    """The value of JSON. Raises ValueError where it is not JSON within the bounds."""
    try:
        found = json.loads(text, parse_float=_finite, parse_int=_bounded, parse_constant=_finite)
    except RecursionError:
        raise ValueError(_DEEP) from None
    level, levels = [found], 0
    while level:
        levels += 1
        if not all(_encodable(value) for value in level):
            raise ValueError("has half a surrogate pair, which no file can be written with")
        if levels > MOST_LEVELS:
            raise ValueError(_DEEP)
        level = [inner for value in level for inner in _inside(value)]
    return found


_DEEP = f"nested deeper than {MOST_LEVELS} levels"


def _inside(value: Any) -> list[Any]:
    return [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def _encodable(value: Any) -> bool:
    """Whether UTF-8 can encode a value where it is text. JSON can spell half a surrogate pair."""
    return not isinstance(value, str) or value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _bounded(text: str) -> int:
    if len(text) > len(str(-LARGEST)) or abs(int(text)) > LARGEST:
        raise ValueError(f"{text[:20]}... is too large a number")
    return int(text)
