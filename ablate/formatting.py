"""Formats numbers as a paper prints them: only meaningful digits, a true minus sign, an em dash where one is
missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

DASH = "—"
MINUS = "−"

LARGEST = 1e100
"""The largest measure that is compared, drawn or averaged: squares of larger ones overflow. A row keeps them."""

_MANY_DIGITS = 1e15


def decimals_for(spread: float, *, digits: int = 2) -> int:
    """How many decimal places (0 to 6) show a spread to so many significant digits; 3 without a spread."""
    if not math.isfinite(spread) or spread <= 0:
        return 3
    return min(6, max(0, digits - 1 - math.floor(math.log10(spread))))


def fixed(value: float, decimals: int, *, sign: bool = False) -> str:
    """`3.142`, with a comma between thousands. `sign` also writes a plus. A value that rounds to zero has no minus; one
    with more than 15 digits before the point, which a double does not hold, has an exponent."""
    if not math.isfinite(value):
        return DASH
    if abs(value) >= _MANY_DIGITS:
        return f"{value:{'+' if sign else ''}.3e}".replace("-", MINUS)
    text = f"{value:{'+' if sign else ''},.{decimals}f}"
    if not any(char in "123456789" for char in text):
        text = text.lstrip("-+")
    return text.replace("-", MINUS)


def significant(value: float, *, digits: int = 4) -> str:
    """So many significant digits; from 0.0001 to a million without an exponent."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.99 is 10 in two digits
    if -5 < size < 6:
        return fixed(value, max(0, digits - 1 - size))
    return f"{value:.{digits - 1}e}".replace("-", MINUS)


def plus_minus(mean: float, sd: float) -> str:
    """`5.312 ± 0.021`: two significant digits of the spread, as many decimal places of the mean."""
    if not math.isfinite(sd):
        return significant(mean)
    places = decimals_for(sd)
    return f"{fixed(mean, places)} ± {fixed(sd, places)}"


def interval(low: float, high: float, decimals: int, *, sign: bool = False) -> str:
    """`[0.012, 0.034]`, or a dash where an end is missing."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return DASH
    return f"[{fixed(low, decimals, sign=sign)}, {fixed(high, decimals, sign=sign)}]"


def p_value(p: float) -> str:
    """Two significant digits; `<0.0001` below that."""
    if not math.isfinite(p):
        return DASH
    if p < 0.0001:
        return "<0.0001"
    return significant(p, digits=2) if p < 0.995 else "1.0"


def share(value: float) -> str:
    """A share in whole per cent."""
    return f"{fixed(100 * value, 0)}%" if math.isfinite(value) else DASH


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`, `11,574 days 1 h`."""
    if not math.isfinite(seconds):
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{significant(seconds, digits=2)} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 100 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{count(whole // 86_400, 'day')} {whole % 86_400 // 3600} h"


def roughly(seconds: float) -> str:
    """An estimate of a time, in whole seconds: `under a second`, `about 7 s`, `about 3 min 20 s`."""
    if seconds < 1:
        return "under a second"
    return f"about {round(seconds)} s" if seconds < 59.5 else f"about {duration(seconds)}"


def tokens(number: float) -> str:
    """`50k`, `1.5M`: three significant digits and a suffix."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def count(number: int, noun: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def names(listed: Sequence[str], *, most: int = 8) -> str:
    """`a, b, c`; of more than `most` names, the first ones and how many more there are."""
    if len(listed) <= most:
        return ", ".join(listed)
    return f"{', '.join(listed[: most - 1])} and {len(listed) - most + 1} more"


def parameters(params: Mapping[str, Any]) -> str:
    """`ema_decay=0.913 knowledge_length=8`: the last part of every key, and its value as `setting` writes it."""
    return " ".join(f"{key.rsplit('.', 1)[-1]}={setting(value)}" for key, value in params.items())


def setting(value: object) -> str:
    """A parameter's value: whole numbers whole, other numbers to four digits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < _MANY_DIGITS else significant(value)


def whole(value: Any) -> Any:
    """8 for 8.0, which is how parquet returns a whole number; any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < _MANY_DIGITS else value


def as_json(value: Any) -> str:
    """JSON for a program that reads an answer: null where a number is NaN or infinite, which JSON does not have."""
    return json.dumps(_without_nan(value), indent=1, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def over_seeds(seeds: int, sd: float | None) -> str:
    """What a value of a point is, after the value: ` (mean of 3 seeds, sd 0.12)`; "" with one seed."""
    return "" if seeds == 1 or sd is None else f" (mean of {seeds} seeds, sd {significant(sd, digits=2)})"
