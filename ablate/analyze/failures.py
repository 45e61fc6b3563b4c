"""Every trial that did not complete, with its reason, so that a report leaves none out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablate.analyze.basis.frames import records, rows


@dataclass(frozen=True)
class Failure:
    """A pruned or failed trial. `share`: the used part of its budget, NaN where the budget is unknown."""

    trial_id: str
    arm: str
    seed: int
    status: str
    reason: str
    tokens: float
    share: float
    attempt: int


def failures(trials: pd.DataFrame) -> list[Failure]:
    """Sorted by status, then by the time they ended."""
    ended_otherwise = rows(trials, trials["status"] != "completed").sort_values(["status", "finished_at", "trial_id"])
    return [
        Failure(
            trial_id=str(row["trial_id"]),
            arm=str(row["arm"]),
            seed=int(row["seed"]),
            status=str(row["status"]),
            reason=_reason(row),
            tokens=float(row["tokens_seen"]),
            share=_share(row),
            attempt=int(row["attempt"]),
        )
        for row in records(ended_otherwise)
    ]


def _reason(row: dict[str, Any]) -> str:
    """The error's kind and text, without the status; for a pruned trial, the rule that stopped it."""
    if row["status"] == "pruned":
        return "stopped early: at its last report it was behind the trials before it"
    parts = [str(row[name]) for name in ("error_kind", "error") if pd.notna(row[name]) and row[name]]
    kind_first = parts[0] != row["status"] if parts else False
    return ": ".join(parts if kind_first else parts[1:] or parts) or "no reason was recorded"


def _share(row: dict[str, Any]) -> float:
    budget = float(row["budget_tokens"])
    return float(row["tokens_seen"]) / budget if budget > 0 else math.nan
