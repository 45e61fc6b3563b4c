"""Learning curves from the histories: one for each trial, and a mean with a band for each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze.arms.paired import arm_names
from ablate.analyze.basis.frames import completed, floats, of_arm, rows, texts
from ablate.spec.designs import BASELINE


@dataclass(frozen=True)
class Curve:
    """A trial's metric by tokens seen. `status` is `running` for a trial without a final row."""

    trial_id: str
    status: str
    tokens: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Band:
    """The mean, lowest and highest value of an arm's completed trials at common token counts."""

    arm: str
    n: int
    tokens: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(history: pd.DataFrame, *, statuses: Mapping[str, str], metric: str) -> list[Curve]:
    """Curves of the trials in `statuses` (id -> status), in its order, without trials that have fewer than two measured
    points."""
    return _curves(_by_trial(history, metric), statuses)


def bands(history: pd.DataFrame, trials: pd.DataFrame, *, metric: str, declared: Sequence[str] = ()) -> list[Band]:
    """One band for the baseline and for each arm that has a completed trial with a curve."""
    done, reports, found = completed(trials), _by_trial(history, metric), []
    for arm in [BASELINE, *arm_names(trials, declared=declared)]:
        ids = texts(of_arm(done, arm), "trial_id")
        seeds = _curves(reports, dict.fromkeys(ids, "completed"))
        if seeds:
            found.append(_band(arm, seeds))
    return found


def _by_trial(history: pd.DataFrame, metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Trial id -> (tokens, values) of its measured reports, by tokens. One pass, as histories have millions of rows."""
    measured = rows(history, np.isfinite(floats(history, metric)))
    codes, ids = pd.factorize(np.array(measured["trial_id"], dtype=object))
    tokens, values = floats(measured, "tokens_seen"), floats(measured, metric)
    order = np.lexsort((tokens, codes))
    ends = np.cumsum(np.bincount(codes, minlength=len(ids)))[:-1]
    parts = zip(np.split(tokens[order], ends), np.split(values[order], ends), strict=True)
    return dict(zip(map(str, ids), parts, strict=False)) if len(ids) else {}


def _curves(reports: Mapping[str, tuple[np.ndarray, np.ndarray]], statuses: Mapping[str, str]) -> list[Curve]:
    found = [
        Curve(trial_id=trial_id, status=status, tokens=reports[trial_id][0], values=reports[trial_id][1])
        for trial_id, status in statuses.items()
        if trial_id in reports
    ]
    return [curve for curve in found if len(curve.tokens) > 1]


def _band(arm: str, seeds: list[Curve]) -> Band:
    """Seeds report at the same tokens, unless their corpora differ in length; then curves are interpolated."""
    start, end = max(curve.tokens[0] for curve in seeds), min(curve.tokens[-1] for curve in seeds)
    longest = max(seeds, key=lambda curve: len(curve.tokens)).tokens
    tokens = longest[(longest >= start) & (longest <= end)]
    values_NT = np.stack([np.interp(tokens, curve.tokens, curve.values) for curve in seeds])
    return Band(
        arm=arm,
        n=len(seeds),
        tokens=tokens,
        mean=values_NT.mean(axis=0),
        low=values_NT.min(axis=0),
        high=values_NT.max(axis=0),
    )
