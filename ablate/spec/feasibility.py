"""Checks that every configuration of a study is valid: the ends of every range, every choice, every arm.

The check runs before training starts, so that a sweep cannot fail hours later on a value of its file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ablate.errors import ParameterError
from ablate.spec.distributions import Choice, Distribution, Range, bound
from ablate.trainers import Config

Search = Mapping[str, Distribution]

MAX_CORNERS = 2_000
"""A space of up to so many corners is checked whole, a larger one pair by pair: a rule ties two values at most."""

MAX_WHOLE_VALUES = 1_024
"""A range of up to so many whole numbers is checked value by value."""


def check_search(base: Config, search: Search) -> None:
    """Raise ParameterError, keyed by the searched parameter at fault, unless all ends and choices are valid, and every
    parameter has an effect somewhere in the space."""
    trainer = base.trainer.description
    for key in search:
        if key in (trainer.seed, trainer.reseed):
            raise ParameterError(key, "searched", "a seed is chance, not a parameter", "use ablation.seeds to repeat")
    _check_effect(search, [_try(base, corner, search) for corner in corners(search)])
    first = next(corners(search), {})
    for key, distribution in search.items():
        if isinstance(distribution, Choice):
            _check_choice(base, first, key, distribution)
        else:
            _check_range(base, first, key, distribution, search)


def corners(search: Search) -> Iterator[dict[str, Any]]:
    """The extreme points of a space: all combinations of ends and choices, or those of every two parameters
    (the others at their first end) where there are more than MAX_CORNERS."""
    keys = list(search)
    ends = [search[key].ends for key in keys]
    if math.prod(map(len, ends)) <= MAX_CORNERS:
        for values in itertools.product(*ends):
            yield dict(zip(keys, values, strict=True))
        return
    reference = {key: search[key].ends[0] for key in keys}
    for one, other in itertools.combinations(keys, 2):
        for pair in itertools.product(search[one].ends, search[other].ends):
            yield {**reference, one: pair[0], other: pair[1]}


def check_arm(base: Config, overrides: Mapping[str, Any], *, search: Search) -> None:
    """Raise ParameterError unless the arm is valid on every corner of the search (on the base alone without one)."""
    for corner in corners(search):
        base.override({**corner, **overrides})


def check_different(base: Config, arms: Mapping[str, Mapping[str, Any]], *, search: Search) -> None:
    """Raise ParameterError, keyed by the arm, where an arm equals another arm or the baseline.

    `search`: the parameters that the search's winner sets; empty for `baseline: base`.
    """
    known: dict[tuple[str, frozenset[str]], str] = {(base.to_json(), frozenset()): "the baseline"}
    for name, overrides in arms.items():
        # The winner's searched values are unknown yet: an arm that sets one may differ from an equal arm that does not.
        # So two arms are the same only if they also set the same searched values.
        same = (base.override(overrides).to_json(), frozenset(overrides) & frozenset(search))
        if same in known:
            raise ParameterError(
                name, "arm", f"the same configuration as {known[same]}", "change a value, or remove it"
            )
        known[same] = f"arm {name}"


def _check_effect(search: Search, configs: Sequence[Config]) -> None:
    """Refuse a parameter that changes nothing in any of the space's corners. In a space of too many corners some are
    missing, and nothing is refused."""
    if math.prod(len(distribution.ends) for distribution in search.values()) > MAX_CORNERS:
        return
    inert = [config.trainer.inert_keys(config) for config in configs]
    for key in search:
        if all(key in each for each in inert):
            rule = f"it has no effect in any trial of the search: {inert[0][key]}"
            raise ParameterError(key, "searched", rule, "leave it out, or change what makes it so")


def _try(base: Config, values: Mapping[str, Any], search: Search) -> Config:
    """The configuration of `values`. Raises ParameterError, keyed by the searched parameter at fault."""
    try:
        return base.override(values)
    except ParameterError as error:
        if error.key in search:
            raise
        culprit = next((key for key in values if _valid(base, {k: v for k, v in values.items() if k != key})), None)
        if culprit is None:
            raise
        rule = f"{error.key} = {error.value} is {error.rule}"
        raise ParameterError(culprit, values[culprit], rule, error.hint) from None


def _valid(base: Config, values: Mapping[str, Any]) -> bool:
    try:
        base.override(values)
    except ParameterError:
        return False
    return True


def _check_choice(base: Config, first: Mapping[str, Any], key: str, distribution: Choice) -> None:
    seen: list[Any] = []
    for value in distribution.choices:
        held = base.override({**first, key: value})[key]  # 1 and 1.0 are the same number to a configuration
        if held in seen:
            raise ParameterError(key, value, "twice in the choice", "remove one of them")
        seen.append(held)


def _check_range(base: Config, first: Mapping[str, Any], key: str, distribution: Range, search: Search) -> None:
    low, high = distribution.ends
    if distribution.whole:
        if high - low <= MAX_WHOLE_VALUES:
            for value in range(int(low), int(high) + 1):
                _try(base, {**first, key: value}, search)
    elif isinstance(base.override({**first, key: low})[key], int):
        hint = "use logint" if distribution.log else "use int"
        raise ParameterError(
            key, f"{distribution.kind} [{bound(low)}, {bound(high)}]", "this parameter is a whole number", hint
        )
