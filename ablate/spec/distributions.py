"""The distributions of searched parameters: values or bounds, and the scale. Knows no sampler.

A study file writes one as `{kind: arguments}`: `{loguniform: [0.01, 1.0]}`, `{choice: [4, 8, 16]}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ablate.errors import ParameterError, nearest

Scalar = int | float | str | bool | None


@dataclass(frozen=True)
class Choice:
    """One of several values without an order."""

    choices: tuple[Scalar, ...]
    kind: ClassVar[Literal["choice"]] = "choice"

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The values that must be valid: every choice."""
        return self.choices


@dataclass(frozen=True)
class Range:
    """A value between `low` and `high`, both included.

    `uniform` and `loguniform` draw real numbers, `int` and `logint` whole numbers. `one_minus_loguniform` draws x so
    that 1 - x is log-uniform between 1 - high and 1 - low; it suits a decay, whose distance from 1 matters.
    """

    kind: Literal["one_minus_loguniform", "loguniform", "uniform", "logint", "int"]
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The values that must be valid: both bounds, as whole numbers where whole numbers are drawn."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return self.kind in ("logint", "int")

    @property
    def log(self) -> bool:
        """Whether the draw is uniform in the logarithm (of x, or of 1 - x)."""
        return self.kind not in ("uniform", "int")


Distribution = Choice | Range

KINDS = {
    "one_minus_loguniform": "real numbers x with 1 - x uniform in the logarithm: 0.9 and 0.99 are as far apart as 0.99"
    " and 0.999",
    "loguniform": "real numbers, uniform in the logarithm",
    "uniform": "real numbers",
    "logint": "whole numbers, uniform in the logarithm",
    "int": "whole numbers",
    "choice": "one of the values",
}
"""Every kind of distribution, and what it draws."""
_EXAMPLE = "write it like {loguniform: [0.01, 1.0]} or {choice: [4, 8]}"


def parse(key: str, written: object) -> Distribution:
    """The distribution that a study file writes for `key`. Raises ParameterError with key, rule and hint."""
    if not isinstance(written, Mapping) or len(written) != 1:
        raise ParameterError(key, _show(written), "not one distribution", _EXAMPLE)
    kind, arguments = next(iter(written.items()))
    if kind not in KINDS:
        raise ParameterError(key, kind, "unknown distribution", nearest(str(kind), tuple(KINDS)))
    if not isinstance(arguments, list):
        raise ParameterError(key, _show(arguments), "not a list", _EXAMPLE)
    return _choice(key, arguments) if kind == "choice" else _range(key, kind, arguments)


def as_written(distribution: Distribution) -> dict[str, Any]:
    """The distribution as a study file writes it."""
    if isinstance(distribution, Choice):
        return {"choice": list(distribution.choices)}
    return {distribution.kind: list(distribution.ends)}


def covers(new: Distribution, old: Distribution) -> bool:
    """Whether `new` can draw every value that `old` can, on the same scale."""
    if isinstance(new, Choice) or isinstance(old, Choice):
        if new.kind != old.kind:
            return False
        held = [(type(value), value) for value in new.ends]  # True is not 1
        return all((type(value), value) in held for value in old.ends)
    return new.kind == old.kind and new.low <= old.low and old.high <= new.high


def size(distribution: Distribution) -> float:
    """The number of different values; infinite for real numbers."""
    if isinstance(distribution, Choice):
        return len(distribution.choices)
    low, high = distribution.ends
    return high - low + 1 if distribution.whole else math.inf


def points(space: Mapping[str, Distribution]) -> float:
    """The number of different points of a space. Fewer may be valid configurations."""
    return math.prod(map(size, space.values()))


def shown(distribution: Distribution) -> str:
    """One line, as a study file writes it: `{loguniform: [0.01, 1.0]}`."""
    return f"{{{distribution.kind}: [{', '.join(map(bound, distribution.ends))}]}}"


def bound(value: object) -> str:
    """A bound without the last digits of a product: 0.3, and not 0.30000000000000004."""
    return str(float(f"{value:.12g}")) if isinstance(value, float) else str(value)


def _choice(key: str, arguments: list[Any]) -> Choice:
    if not arguments:
        raise ParameterError(key, "[]", "empty choice", "list the values to choose from")
    for value in arguments:
        if isinstance(value, (list, dict)):
            raise ParameterError(key, _show(value), "not a single value", "choose between numbers or texts")
    return Choice(tuple(arguments))


def _range(key: str, kind: Any, arguments: list[Any]) -> Range:
    shown = _show(arguments)
    if len(arguments) != 2:
        raise ParameterError(key, shown, "not two bounds", f"write {{{kind}: [low, high]}}")
    for bound in arguments:
        if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
            raise ParameterError(
                key, _show(bound), "not a finite number", f"write {{{kind}: [low, high]}} with numbers"
            )
    low, high = arguments
    if low == high:
        raise ParameterError(key, shown, "empty range", "give the value in `base`, or two different bounds")
    if low > high:
        raise ParameterError(key, shown, "inverted range", f"write {{{kind}: [{high}, {low}]}}")
    distribution = Range(kind, low, high)
    if distribution.whole and not all(float(bound).is_integer() for bound in arguments):
        raise ParameterError(key, shown, "bounds are not whole numbers", "round them, or use uniform or loguniform")
    if kind in ("loguniform", "logint") and low <= 0:
        raise ParameterError(key, shown, "a logarithm needs a lower bound above 0", "raise it, or use uniform or int")
    if kind == "one_minus_loguniform" and high >= 1:
        raise ParameterError(
            key, shown, "the logarithm of 1 - x needs an upper bound below 1", "lower it, e.g. to 0.999"
        )
    return distribution


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
