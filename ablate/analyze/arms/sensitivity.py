"""Assay sensitivity: whether a study saw the effect of its positive control.

Where a study shows no difference, there is none, or it could not have seen one. An arm whose gain is known to exist
tells the two apart (ICH E10, Choice of Control Group in Clinical Trials, section 1.5). It is a check of the study, as
an A/A arm is, so it stands outside of Holm's family and its p is not adjusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.analyze.arms.paired import Effect
from ablate.spec.declared_test import ALPHA
from ablate.spec.models import Objective


@dataclass(frozen=True)
class Sensitivity:
    """What the study saw of its positive control. `seen`: the control is better than the baseline, the 95% interval
    excludes 0, and the declared test, unadjusted, rejects at 0.05. False too where there is no interval yet."""

    effect: Effect
    seen: bool

    @property
    def known(self) -> bool:
        """Whether there is an interval to judge by."""
        return self.effect.n > 1


def sensitivity(effects: Sequence[Effect], *, objective: Objective) -> Sensitivity | None:
    """Whether the study saw its control; None in a study without one. `effects`: of every arm on `objective`."""
    control = next((effect for effect in effects if effect.control), None)
    if control is None:
        return None
    difference = control.difference
    better = difference.below_zero if objective.mode == "min" else difference.above_zero
    return Sensitivity(control, seen=better and control.p_exact <= ALPHA)
