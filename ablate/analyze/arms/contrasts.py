"""A factorial design: main effects and two-way interactions, each a contrast within a seed.

A contrast is a weighted sum of one seed's runs, one run for each cell. The contrasts of all seeds are treated like an
arm's paired differences: t interval, exact sign-flip test, and Holm over the contrasts of the design. A level is
compared with the factor's reference, the baseline's level. The main effect of a level is the run at the level minus the
run at the reference, averaged over the cells of the other factors. The interaction of two levels is what the first
changes where the second is on, minus what it changes where the second is at its reference, averaged likewise (Wu and
Hamada 2009, Experiments, section 4.3; the interaction is not halved here).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pandas as pd

from ablate.analyze.basis.frames import floats
from ablate.analyze.basis.pairs import by_seed
from ablate.analyze.basis.stats import (
    Interval,
    detectable_effect,
    flip_detectable_effect,
    holm,
    paired_t_p,
    sign_flip_p,
    t_interval,
)
from ablate.spec.declared_test import ALPHA
from ablate.spec.models import Objective

Levels = Mapping[str, str]
"""Factor -> level, both as shown to users."""


@dataclass(frozen=True)
class Contrast:
    """A main effect (one level) or an interaction (two levels), over the seeds that have every cell."""

    levels: Levels
    references: Levels
    value: Interval
    p: float
    p_exact: float
    p_holm: float
    mde: float
    mde_exact: float

    @property
    def name(self) -> str:
        """`a: 2 against 1`, `a: 2 against 1 × b: on against off`."""
        return " × ".join(f"{key}: {level} against {self.references[key]}" for key, level in self.levels.items())

    @property
    def interaction(self) -> bool:
        """Whether it is of two factors."""
        return len(self.levels) == 2


@dataclass(frozen=True)
class CellMean:
    """The mean of one cell's runs, over the seeds that have every cell."""

    arm: str
    levels: Levels
    value: Interval


@dataclass(frozen=True)
class Factorial:
    """`factors`: factor -> its levels, the reference first. `missing`: cells of the full design without an arm; where
    there are any, no contrast is estimated. `dropped`: seeds on which every cell has ended and one has no value;
    `pending`: seeds on which some cells have not ended."""

    metric: str
    factors: Mapping[str, tuple[str, ...]]
    cells: tuple[CellMean, ...]
    contrasts: tuple[Contrast, ...]
    missing: tuple[Levels, ...]
    n: int
    dropped: int
    pending: int


def factorial(trials: pd.DataFrame, *, objective: Objective, cells: Mapping[str, Levels]) -> Factorial | None:
    """Analyse a factorial design; None below two cells.

    `cells`: arm -> its level of every factor. The first cell's levels are the references.
    """
    if len(cells) < 2:
        return None
    references = next(iter(cells.values()))
    factors = {key: tuple(dict.fromkeys(levels[key] for levels in cells.values())) for key in references}
    arm_of = {tuple(levels[key] for key in factors): arm for arm, levels in cells.items()}
    missing = [point for point in product(*factors.values()) if point not in arm_of]
    runs = {arm: by_seed(trials, arm, objective) for arm in cells}
    table = pd.DataFrame({arm: pd.Series(found, dtype=float) for arm, found in runs.items()}).sort_index()
    ended, whole = set.intersection(*(set(found) for found in runs.values())), table.dropna()
    found: list[Contrast] = []
    if not missing:
        values_SC = whole.to_numpy(dtype=float)
        for levels in _contrast_levels(factors):
            weights_C = _weights(levels, factors=factors, points=[cells[arm] for arm in cells])
            found.append(_contrast(levels, references, values_SC @ weights_C))
    family = len(found)
    adjusted = holm([contrast.p_exact for contrast in found])
    return Factorial(
        metric=objective.metric,
        factors=factors,
        cells=tuple(CellMean(arm, levels, t_interval(floats(whole, arm))) for arm, levels in cells.items()),
        contrasts=tuple(
            replace(
                contrast,
                p_holm=p_holm,
                mde=detectable_effect(contrast.value.sd, n=contrast.value.n, alpha=ALPHA / family),
                mde_exact=flip_detectable_effect(contrast.value.sd, n=contrast.value.n, alpha=ALPHA / family),
            )
            for contrast, p_holm in zip(found, adjusted, strict=True)
        ),
        missing=tuple(dict(zip(factors, point, strict=True)) for point in missing),
        n=len(whole),
        dropped=len(ended) - len(whole),
        pending=len(table) - len(ended),
    )


def _contrast_levels(factors: Mapping[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Every main effect, then every two-way interaction."""
    mains = [{key: level} for key, levels in factors.items() for level in levels[1:]]
    pairs = combinations(mains, 2)
    return [*mains, *({**first, **second} for first, second in pairs if first.keys() != second.keys())]


def _weights(levels: Levels, *, factors: Mapping[str, tuple[str, ...]], points: Sequence[Levels]) -> np.ndarray:
    """A cell's weight is the product over the contrast's factors of +1 (at the level), -1 (at the reference) or 0,
    divided by the number of cells of the other factors."""
    others = [len(values) for key, values in factors.items() if key not in levels]
    weights = []
    for at in points:
        signs = [float(at[key] == level) - float(at[key] == factors[key][0]) for key, level in levels.items()]
        weights.append(float(np.prod(signs)) / float(np.prod(others)))
    return np.array(weights)


def _contrast(levels: Levels, references: Levels, values_S: np.ndarray) -> Contrast:
    nan = float("nan")
    return Contrast(
        levels=levels,
        references={key: references[key] for key in levels},
        value=t_interval(values_S),
        p=paired_t_p(values_S),
        p_exact=sign_flip_p(values_S),
        p_holm=nan,
        mde=nan,
        mde_exact=nan,
    )
