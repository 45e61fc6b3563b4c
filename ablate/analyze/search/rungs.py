"""Early stopping in retrospect: the objective at a budget that all trials reached, and what pruning cost.

With `audit_fraction` some trials of a search are never pruned. Only they have a value both at a rung and at the end:
they show how well the first ranks the second, and what the rule would have stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analyze.basis.frames import completed, floats, rows, texts
from ablate.spec.models import Objective

ENOUGH = 5  # audited trials needed for a correlation
RESAMPLES = 2_000
SEED = 0


@dataclass(frozen=True)
class AtBudget:
    """Trial id -> objective at its last report of at most `tokens`, which all these trials reached."""

    tokens: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Rung:
    """What audited trials show of one rung. `n`: audited trials measured there; `spearman` with its bootstrap interval:
    rank correlation of the values there and at the end; `stopped`: how many of them the rule would have stopped.

    `regret`: by how much the best of all beats the best that the rule keeps; never negative.
    """

    tokens: float
    n: int
    spearman: float
    low: float
    high: float
    stopped: int
    regret: float


def at_common_budget(search: pd.DataFrame, history: pd.DataFrame, *, objective: Objective) -> AtBudget | None:
    """The objective at the largest token count that every completed or pruned trial of the search reached."""
    ended = rows(search, search["status"].isin(["completed", "pruned"]))
    reports = _reports(history, ids=texts(ended, "trial_id"), objective=objective)
    if reports.empty:
        return None
    last = reports.sort_values("tokens_seen", kind="stable").drop_duplicates("trial_id", keep="last")
    tokens = float(floats(last, "tokens_seen").min())
    return AtBudget(tokens, values_at(reports, tokens=tokens, objective=objective))


def values_at(reports: pd.DataFrame, *, tokens: float, objective: Objective) -> dict[str, float]:
    """Trial id -> objective at its last measured report of at most `tokens`."""
    early = rows(reports, floats(reports, "tokens_seen") <= tokens).sort_values("tokens_seen", kind="stable")
    last = early.drop_duplicates("trial_id", keep="last")
    return dict(zip(texts(last, "trial_id"), floats(last, objective.metric).tolist(), strict=True))


def audit(
    search: pd.DataFrame, history: pd.DataFrame, *, objective: Objective, min_tokens: int, reduction: int
) -> list[Rung]:
    """One entry for each rung that an audited, completed trial passed before its end; empty where no trial is audited.

    A rung's rule keeps the best `reduction`-th of all trials measured there, audited or not.
    """
    if "audited" not in search:
        return []
    done = completed(search)
    never_pruned = np.array([audited is True or audited == 1 for audited in done["audited"]], dtype=bool)
    done = rows(done, never_pruned & np.isfinite(floats(done, objective.metric)))
    final = dict(zip(texts(done, "trial_id"), objective.sign * floats(done, objective.metric), strict=True))
    if not final:
        return []
    reports = _reports(history, ids=texts(search, "trial_id"), objective=objective)
    budget, found, tokens = float(np.max(floats(done, "budget_tokens"))), [], float(min_tokens)
    while tokens < budget:
        measured = _first_values(reports, tokens=tokens, objective=objective)
        ids = [trial_id for trial_id in final if trial_id in measured]
        if ids:
            found.append(_rung(tokens, ids, rung=measured, final=final, reduction=reduction))
        tokens *= reduction
    return found


def _first_values(reports: pd.DataFrame, *, tokens: float, objective: Objective) -> dict[str, float]:
    """Trial id -> cost at its first measured report of at least `tokens`, which decides at a rung."""
    late = rows(reports, floats(reports, "tokens_seen") >= tokens).sort_values("tokens_seen", kind="stable")
    first = late.drop_duplicates("trial_id", keep="first")
    return dict(zip(texts(first, "trial_id"), (objective.sign * floats(first, objective.metric)).tolist(), strict=True))


def _rung(
    tokens: float, ids: Sequence[str], *, rung: Mapping[str, float], final: Mapping[str, float], reduction: int
) -> Rung:
    """`rung`, `final`: trial id -> cost there and at the end; less is better."""
    kept_count = max(1, len(rung) // reduction)
    cutoff = sorted(rung.values())[kept_count - 1]
    kept = [trial_id for trial_id in ids if rung[trial_id] <= cutoff]
    early_N, late_N = (np.array([costs[trial_id] for trial_id in ids]) for costs in (rung, final))
    spearman, low, high = _rank_correlation(early_N, late_N)
    best_kept = min((final[trial_id] for trial_id in kept), default=math.nan)
    return Rung(
        tokens=tokens,
        n=len(ids),
        spearman=spearman,
        low=low,
        high=high,
        stopped=len(ids) - len(kept),
        regret=best_kept - float(late_N.min()),
    )


def _rank_correlation(early_N: np.ndarray, late_N: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rho with a percentile bootstrap interval; NaN below ENOUGH pairs or where either side is constant."""
    if len(early_N) < ENOUGH or np.ptp(early_N) == 0 or np.ptp(late_N) == 0:
        return math.nan, math.nan, math.nan
    rho = _pearson(stats.rankdata(early_N)[None], stats.rankdata(late_N)[None])[0]
    index_RN = np.random.default_rng(SEED).integers(len(early_N), size=(RESAMPLES, len(early_N)))
    resampled = _pearson(stats.rankdata(early_N[index_RN], axis=1), stats.rankdata(late_N[index_RN], axis=1))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(rho), float(low), float(high)


def _pearson(a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row of `a` with that of `b`; NaN where a row is constant."""
    a_RN, b_RN = (x - x.mean(axis=1, keepdims=True) for x in (a_RN, b_RN))
    norm = np.sqrt((a_RN**2).sum(axis=1) * (b_RN**2).sum(axis=1))
    return np.divide((a_RN * b_RN).sum(axis=1), norm, out=np.full(len(norm), np.nan), where=norm > 0)


def _reports(history: pd.DataFrame, *, ids: Sequence[str], objective: Objective) -> pd.DataFrame:
    """The reports of these trials that measured the objective; empty where the history does not have it."""
    if objective.metric not in history:
        return rows(history, np.zeros(len(history), dtype=bool))
    return rows(history, history["trial_id"].isin(list(ids)) & np.isfinite(floats(history, objective.metric)))
