"""How far a study with sequential seeds has come, from its rows alone: what its arms are decided on, and by which look.

The phases, the completion, the dry run and the report all ask here, so they agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from ablate.analyze.arms import sequential
from ablate.analyze.arms.sequential import Claims, Walk
from ablate.analyze.basis.points import Ended
from ablate.spec.designs import Arm
from ablate.spec.spending import Looks


class Hypothesis(Protocol):
    """What counts of a hypothesis."""

    @property
    def arm(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def target(self) -> float | None: ...


def state(
    ends: Iterable[Ended],
    *,
    looks: Looks,
    arms: Sequence[Arm],
    metric: str,
    hypotheses: Sequence[Hypothesis],
    control: str | None = None,
    untrained: Sequence[str] = (),
) -> Walk:
    """Go through the looks. `arms`: all but the baseline; `metric`: the objective's; `untrained`: arms that get no
    seeds. Nothing is decided by an A/A arm, nor by the positive `control`, which get as many seeds as any arm; nor by a
    hypothesis about one of them, or about a fixed target."""
    claiming = [arm.name for arm in arms if arm.design != "reseed" and arm.name != control]
    claims = Claims(
        tuple((name, metric) for name in claiming),
        tuple((one.arm, one.metric) for one in hypotheses if one.target is None and one.arm in claiming),
    )
    rows, metrics = list(ends), dict.fromkeys(metric for family in claims.families for _, metric in family)
    values = {metric: _values(rows, metric) for metric in metrics}
    trained = [name for name in claiming if name not in untrained]
    return sequential.walk(values, claims=claims, looks=looks, arms=trained)


def _values(rows: Sequence[Ended], metric: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        value = row.metrics[metric] if row.status == "completed" and metric in row.metrics else None
        number = math.nan if value is None else float(value)
        found.setdefault(row.arm, {})[row.seed] = number if math.isfinite(number) else math.nan
    return found
