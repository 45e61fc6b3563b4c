"""A searched parameter in a report: its scale, the edges of its range, and its values in groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGE = 0.05  # share of the range, on the scale of its distribution, that counts as an edge
MAX_VALUES = 8  # an integer range with at most so many values has one group for each value

PARAM = "param."  # prefix of a parameter's column in the table of trials

Value = bool | int | float | str | None


@dataclass(frozen=True)
class Group:
    """A value or a bin of a parameter. `mask` selects from the grouped values."""

    label: str
    mask: np.ndarray


@dataclass(frozen=True)
class Dimension:
    """One searched parameter. `kind` is the distribution's name in the study file; only `choice` has `choices`."""

    key: str
    kind: str
    low: float
    high: float
    choices: tuple[Value, ...] = ()

    @property
    def column(self) -> str:
        """The parameter's column in the table of trials."""
        return f"{PARAM}{self.key}"

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in ("int", "logint")

    @property
    def ordered(self) -> bool:
        """Whether it is a choice of three or more numbers in order, so that the first and the last are edges."""
        numbers = [
            float(value) for value in self.choices if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        rising = sorted(numbers) == numbers or sorted(numbers, reverse=True) == numbers
        return len(numbers) == len(self.choices) >= 3 and rising

    def read(self, stored: object) -> Value:
        """A stored value as the study file has it: a column with gaps stores 8 as 8.0, one of mixed types as text."""
        if self.kind == "choice":
            return next((choice for choice in self.choices if _same(stored, choice)), _plain(stored))
        value = float(stored)  # pyright: ignore[reportArgumentType]  (a number: the schema says so)
        return round(value) if self.whole else value

    def position(self, value: float) -> float:
        """The position of a number in the range on its scale: 0 at `low`, 1 at `high`."""
        low, high, at = (_scaled(self.kind, number) for number in (self.low, self.high, value))
        return 0.5 if high == low else (at - low) / (high - low)

    def at(self, position: float) -> float:
        """The number at a position; the inverse of `position`."""
        low, high = _scaled(self.kind, self.low), _scaled(self.kind, self.high)
        return _unscaled(self.kind, low + position * (high - low))

    def edge(self, value: Value) -> str:
        """`lower` or `upper` at an end of the range, `first` or `last` in an ordered choice, else ""."""
        if self.kind == "choice":
            if not self.ordered:
                return ""
            return {self.choices[0]: "first", self.choices[-1]: "last"}.get(value, "")
        position = self.position(float(value))  # pyright: ignore[reportArgumentType]  (a number: see `read`)
        if self.low == self.high or EDGE < position < 1 - EDGE:
            return ""
        return "lower" if position <= EDGE else "upper"

    def groups(self, stored: Sequence[object]) -> list[Group]:
        """Groups of trials by value (choices, few whole numbers) or by bins of equal width on the parameter's scale."""
        values = [self.read(value) for value in stored]
        if self.kind == "choice":
            return [Group(show(choice), _mask(_same(value, choice) for value in values)) for choice in self.choices]
        if self.whole and self.high - self.low < MAX_VALUES:
            span = range(round(self.low), round(self.high) + 1)
            return [Group(show(number), _mask(value == number for value in values)) for number in span]
        return self._bins(np.array(values, dtype=float))

    def _bins(self, values: np.ndarray) -> list[Group]:
        count = min(8, max(3, math.isqrt(len(values))))
        edges = [self.at(index / count) for index in range(count + 1)]
        if self.whole:
            starts = sorted({round(self.low), *(math.ceil(edge) for edge in edges[1:-1])})
            ends = [*(start - 1 for start in starts[1:]), round(self.high)]
            spans = zip(starts, ends, strict=True)
            return [Group(_span(low, high), (values >= low) & (values <= high)) for low, high in spans]
        inner = np.digitize(values, edges[1:-1])
        texts = _edge_texts(edges)
        return [
            Group(f"{texts[index]} to {texts[index + 1]}", inner == index)  # a value on an edge is in the upper bin
            for index in range(count)
        ]


def show(value: Value) -> str:
    """A parameter's value as text: numbers to six significant digits, booleans and null as in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def short(value: Value) -> str:
    """As `show`, with four significant digits: enough to read, not to train again."""
    return f"{value:.4g}" if isinstance(value, float) else show(value)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _edge_texts(edges: Sequence[float]) -> list[str]:
    """The edges with the fewest significant digits, at least three, at which all differ."""
    for digits in range(3, 17):
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if len(set(texts)) == len(texts):
            return texts
    return [repr(edge) for edge in edges]


def _mask(flags: object) -> np.ndarray:
    return np.fromiter(flags, dtype=bool)  # pyright: ignore[reportArgumentType, reportCallIssue]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(stored: object, choice: Value) -> bool:
    """Whether a stored value, of whatever type its column has, is this choice."""
    if choice is None:
        return stored is None or stored == "null" or (isinstance(stored, float) and math.isnan(stored))
    if isinstance(choice, bool):
        return stored == choice if isinstance(stored, bool | np.bool_) else str(stored).lower() == show(choice)
    if _is_number(choice) and not isinstance(stored, str | bool):
        return stored == choice
    return str(stored) == str(choice)


def _plain(stored: object) -> Value:
    return stored.item() if isinstance(stored, np.generic) else stored  # pyright: ignore[reportReturnType]


def _scaled(kind: str, value: float) -> float:
    """A number on the scale on which its distribution is uniform; the scale rises with the number."""
    if kind == "one_minus_loguniform":
        return -math.log(1 - value)
    return math.log(value) if kind in ("loguniform", "logint") else value


def _unscaled(kind: str, scaled: float) -> float:
    if kind == "one_minus_loguniform":
        return 1 - math.exp(-scaled)
    return math.exp(scaled) if kind in ("loguniform", "logint") else scaled
