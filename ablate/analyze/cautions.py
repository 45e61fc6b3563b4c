"""What makes a result say less than it seems to: repeated data, a loss that rose again, a model that learned little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ablate import formatting
from ablate.analyze.basis.frames import completed, floats, rows, texts
from ablate.analyze.floors import Floors
from ablate.analyze.trained import Span, Trained
from ablate.spec.designs import is_preparation
from ablate.spec.models import Objective

RISE = 0.01
"""A run whose metric ends worse than its best by more than this share of it has passed its best. Smaller rises are the
noise of neighbouring evaluations."""


def repeated(epochs: Span, *, most: float) -> list[str]:
    """A sentence where trials see their training data more than `most` times. Up to four passes are worth about as much
    as new text; of many more, little is left (Muennighoff et al. 2023, arXiv 2305.16264)."""
    if not epochs.known or epochs.high <= most:
        return []
    often = f"{epochs.high:.3g}"
    return [
        f"Trials see their training data {often} times, more than {most:g}: they compare how arms memorise. "
        "Lower the budget, or give more data."
    ]


def repeated_in(entries: Sequence[Trained], *, most: float) -> list[str]:
    """`repeated`, over all groups."""
    known = [entry.epochs for entry in entries if entry.epochs.known]
    return repeated(Span(min(each.low for each in known), max(each.high for each in known)), most=most) if known else []


def risen(trials: pd.DataFrame, history: pd.DataFrame, *, objective: Objective) -> list[str]:
    """A sentence where completed trials ended worse than they had been."""
    metric, sign = objective.metric, 1 if objective.mode == "min" else -1
    done = completed(trials)
    arms = zip(texts(done, "trial_id"), texts(done, "arm"), strict=True)
    ids = {trial_id for trial_id, arm in arms if not is_preparation(arm)}
    if metric not in history or not ids:
        return []
    measured = rows(history, history["trial_id"].isin(list(ids)) & np.isfinite(floats(history, metric)))
    past = 0
    for _, reports in measured.groupby("trial_id"):
        values = sign * floats(reports, metric)[np.argsort(floats(reports, "tokens_seen"), kind="stable")]
        past += bool(values[-1] - values.min() > RISE * abs(values.min()))
    if not past:
        return []
    return [
        f"{past} of {formatting.count(len(ids), 'completed trial')} had a better {metric} before the end (by more than "
        f"{RISE:.0%}): the last value is judged, which overfitting has made worse. Train for less, or on more data."
    ]


def above_floor(entries: Sequence[Floors]) -> list[str]:
    """A sentence where groups did not learn what token pairs alone say."""
    names = [entry.group for entry in entries if entry.below_bigram < 0]
    if not names:
        return []
    who = "The search's best trial" if names == ["best"] else formatting.names(names)
    return [
        f"{who} did not get below the bigram floor: a comparison of models that learned less than token pairs says "
        "little. Train for longer."
    ]


def planned(budgets: Mapping[str, float | None], *, epoch: int | None, most: float) -> list[str]:
    """`repeated` of a plan. `budgets`: of each arm; `epoch`: of one pass; both in units of the budget."""
    known = [budget / epoch for budget in budgets.values() if budget and epoch]
    return repeated(Span(min(known), max(known)), most=most) if known else []
