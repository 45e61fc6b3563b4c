"""What the trials cost: throughput, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import arm_names
from ablate.analyze.basis.frames import completed, floats, of_arm
from ablate.spec.designs import BASELINE, SEARCH

COLUMNS = ("tokens_per_s", "step_ms", "ema_ms", "peak_gib", "wall_s")


@dataclass(frozen=True)
class Cost:
    """Medians over a group's completed trials, one for each of COLUMNS; NaN where nothing was measured.

    `total_wall_s`: of all ended trials of the group.
    """

    group: str
    n: int
    medians: Mapping[str, float]
    total_wall_s: float


def costs(trials: pd.DataFrame, *, declared: Sequence[str] = ()) -> list[Cost]:
    """One entry for the search, the baseline and each arm that has an ended trial."""
    found = []
    for group in [SEARCH, BASELINE, *arm_names(trials, declared=declared)]:
        runs = of_arm(trials, group)
        if runs.empty:
            continue
        done = completed(runs)
        medians = {name: _median(floats(done, name)) for name in COLUMNS}
        total = float(np.nansum(floats(runs, "wall_s")))
        found.append(Cost(group=group, n=len(done), medians=medians, total_wall_s=total))
    return found


def _median(values: np.ndarray) -> float:
    measured = values[np.isfinite(values)]
    return float(np.median(measured)) if len(measured) else math.nan
