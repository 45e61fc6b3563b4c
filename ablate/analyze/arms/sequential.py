"""Sequential seeds: which arms are decided at which look, and what is trained next. Pure: a function of the values.

At a look every undecided arm has the same seeds. Its sign-flip p becomes a sequential p (`spending.sequential_p`),
which Holm corrects over the arms; hypotheses are a family of their own. An arm is decided when its own comparison and
those of its hypotheses reject at `alpha`; it gets no more seeds. Sequential p values are p values whichever look is the
last, so the error over all comparisons of a family is at most alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ablate.analyze.basis.pairs import align
from ablate.analyze.basis.stats import holm, sign_flip_p
from ablate.spec.declared_test import ALPHA, smallest_p
from ablate.spec.designs import BASELINE
from ablate.spec.spending import Looks, levels, sequential_p

Values = Mapping[str, Mapping[int, float]]
"""Arm (the baseline too) -> seed -> value of its ended runs; NaN for a run that gave none."""

Comparison = tuple[str, str]
"""An arm and the metric in which it is compared with the baseline."""


@dataclass(frozen=True)
class Claims:
    """What decides the arms: the families of comparisons that Holm corrects. `objective`: each arm that makes a claim,
    in the objective; `hypotheses`: those of the study file."""

    objective: tuple[Comparison, ...]
    hypotheses: tuple[Comparison, ...] = ()

    @property
    def families(self) -> tuple[tuple[Comparison, ...], ...]:
        """Both families; the second may be empty."""
        return self.objective, self.hypotheses

    @property
    def different(self) -> tuple[Comparison, ...]:
        """Every comparison once: a hypothesis may be about the objective, and two about one metric."""
        return tuple(dict.fromkeys((*self.objective, *self.hypotheses)))


@dataclass(frozen=True)
class Walk:
    """How far the looks have come. `reached`: arm -> how many looks it has had; `decided`: the arms that are decided;
    `next_size`: the seeds of the next look, or of the last one where nothing is left to train."""

    looks: Looks
    reached: Mapping[str, int]
    decided: frozenset[str]
    next_size: int

    def wanted(self, arm: str) -> int:
        """How many seeds an arm needs now: the baseline, and an arm that claims nothing, as many as any arm."""
        return self.looks.sizes[self.reached[arm] - 1] if arm in self.decided else self.next_size

    def possible(self, arm: str) -> int:
        """How many seeds an arm may get at most."""
        return self.wanted(arm) if arm in self.decided else self._last

    def had(self, arm: str) -> tuple[int, ...]:
        """The seeds at the looks that an arm has had."""
        return self.looks.sizes[: self.reached[arm]] if arm in self.reached else ()

    @property
    def _last(self) -> int:
        return self.next_size if self.reached.keys() == self.decided else self.looks.most

    def confidence(self, arm: str, *, family: int = 1) -> float:
        """The confidence of the t interval that is an arm's 95% repeated interval (Jennison and Turnbull 1989, JRSS B
        51:305): 1 - the nominal level of its last look. Before its first look, that look's. `family`: of how many
        intervals that hold together it is one."""
        return 1 - levels(self.looks.sizes, ALPHA / family)[max(0, len(self.had(arm)) - 1)]


def walk(values: Mapping[str, Values], *, claims: Claims, looks: Looks, arms: Sequence[str]) -> Walk:
    """Go through the looks as far as the values reach. `values`: metric -> its values; `arms`: those that are trained,
    without the baseline and without arms that claim nothing.

    A look counts once every undecided arm and the baseline have ended all of its seeds, so that an interrupted study
    decides as it would have decided without the interruption.
    """
    reached, decided = dict.fromkeys(arms, 0), set[str]()
    ps: dict[Comparison, list[float]] = {}
    ended = values[claims.objective[0][1]] if claims.objective else {}
    for number, size in enumerate(looks.sizes, start=1):
        active = [arm for arm in arms if arm not in decided]
        if not active or not all(_has(ended, arm, looks.seeds(size)) for arm in [BASELINE, *active]):
            break
        for arm in active:
            reached[arm] = number
        for arm, metric in claims.different:
            if arm in active:
                ps.setdefault((arm, metric), []).append(look_p(values[metric], arm, looks.seeds(size)))
        decided |= set(active) & _rejected(ps, claims=claims, looks=looks)
    return Walk(looks, reached, frozenset(decided), _next_size(reached, decided, looks))


def _next_size(reached: Mapping[str, int], decided: set[str], looks: Looks) -> int:
    """The seeds at the first look that an undecided arm lacks; where there is none, at the last look that was had."""
    undecided = [count for arm, count in reached.items() if arm not in decided]
    most = min(undecided) + 1 if undecided else max(reached.values(), default=len(looks.sizes))
    return looks.sizes[min(most, len(looks.sizes)) - 1]


def look_p(values: Values, arm: str, seeds: range) -> float:
    """The sign-flip p of an arm over the pairs that have values on these seeds; NaN without a pair."""
    control, treated = ({seed: values[side][seed] for seed in seeds} for side in (BASELINE, arm))
    pairs = align(control, treated)
    return _flip_p(tuple((pairs.arm - pairs.baseline).tolist()))


@lru_cache(maxsize=4_096)
def _flip_p(differences: tuple[float, ...]) -> float:
    """Kept, since phases, status and report ask for it again, and of 40 pairs it takes a fifth of a second."""
    return sign_flip_p(np.array(differences))


def arm_p(values: Values, arm: str, *, walked: Walk) -> float:
    """An arm's sequential p in one metric, over the looks that it has had."""
    ps = [look_p(values, arm, walked.looks.seeds(size)) for size in walked.had(arm)]
    return sequential_p(ps, walked.looks.sizes)


def smallest_arm_p(arm: str, *, walked: Walk) -> float:
    """The smallest sequential p that an arm can have after the looks that it has had."""
    return sequential_p([smallest_p(size) for size in walked.had(arm)], walked.looks.sizes)


def _has(ended: Values, arm: str, seeds: range) -> bool:
    return arm in ended and all(seed in ended[arm] for seed in seeds)


def _rejected(ps: Mapping[Comparison, Sequence[float]], *, claims: Claims, looks: Looks) -> set[str]:
    """The arms of which every comparison is rejected."""
    kept: set[str] = set()
    for family in claims.families:
        own = [sequential_p(ps[one], looks.sizes) if one in ps else math.nan for one in family]
        kept |= {arm for (arm, _), p in zip(family, holm(own), strict=True) if not p <= looks.alpha}
    return {arm for arm, _ in claims.objective} - kept
