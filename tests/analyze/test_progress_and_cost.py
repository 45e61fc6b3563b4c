"""Curves, failures, progress, floors and cost."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ablate.analyze.arms.curves import bands, curves
from ablate.analyze.cost import costs
from ablate.analyze.failures import failures
from ablate.analyze.floors import floors
from ablate.analyze.progress import progress
from ablate.spec.models import Objective

LOSS = Objective(metric="val_loss", mode="min")
TIME = pd.Timestamp("2026-03-01 12:00:00", tz="UTC")


def reports(trial_id: str, losses: list[float | None], *, step: int = 100) -> pd.DataFrame:
    """A history: a report every `step` tokens."""
    tokens = [step * (index + 1) for index in range(len(losses))]
    columns = {"trial_id": trial_id, "tokens_seen": tokens, "budget_tokens": 1000, "val_loss": losses, "time": TIME}
    return pd.DataFrame(columns).astype({"val_loss": float})


def trial(trial_id: str, arm: str, status: str = "completed", **columns: object) -> dict[str, object]:
    """A row with what these analyses read."""
    row = {"trial_id": trial_id, "arm": arm, "status": status, "seed": 0, "val_loss": 3.0, "unigram_floor": 4.0,
           "bigram_floor": 2.5, "tokens_per_s": 100.0, "step_ms": 5.0, "ema_ms": None, "peak_gib": 1.0, "wall_s": 10.0,
           "tokens_seen": 250, "budget_tokens": 1000, "finished_at": TIME,
           "error_kind": None, "error": None, "attempt": 1}  # fmt: skip
    return {**row, **columns}


def test_curves_skip_unmeasured_reports_and_single_points():
    history = pd.concat([reports("a", [3.0, None, 2.0]), reports("b", [3.0]), reports("other", [1.0, 1.0])])
    found = curves(history, statuses={"b": "running", "a": "completed"}, metric="val_loss")
    assert [curve.trial_id for curve in found] == ["a"]
    assert found[0].tokens.tolist() == [100.0, 300.0]
    assert found[0].values.tolist() == [3.0, 2.0]


def test_band_is_mean_and_range_over_seeds_at_common_tokens():
    history = pd.concat([reports("a", [4.0, 3.0, 2.0]), reports("b", [2.0, 1.0], step=150), reports("c", [9.0, 9.0])])
    rows = [trial("a", "token"), trial("b", "token"), trial("c", "token", "nan")]
    (band,) = bands(history, pd.DataFrame(rows), metric="val_loss")
    assert (band.arm, band.n) == ("token", 2), "a failed run is in no mean"
    assert band.tokens.tolist() == [200.0, 300.0], "from where both have begun"
    between = 2.0 - 50 / 150  # b, read at 200 tokens
    assert band.mean == pytest.approx([np.mean([3.0, between]), np.mean([2.0, 1.0])])
    assert band.low == pytest.approx([between, 1.0])
    assert band.high == pytest.approx([3.0, 2.0])


def test_failures_list_every_uncompleted_trial_with_its_reason():
    rows = [
        trial("fine", "search"),
        trial("stopped", "search", "pruned"),
        trial("broken", "token", "nan", error_kind="NonFiniteLoss", error="loss is nan at step 3"),
        trial("gone", "search", "lost", error_kind="lost", error="process died", budget_tokens=0),
        trial("mute", "search", "error"),
    ]
    found = {entry.trial_id: entry for entry in failures(pd.DataFrame(rows))}
    assert list(found) == ["mute", "gone", "broken", "stopped"]
    assert found["broken"].reason == "NonFiniteLoss: loss is nan at step 3"
    assert found["gone"].reason == "process died", "the status is not said twice"
    assert found["mute"].reason == "no reason was recorded"
    assert found["stopped"].reason.startswith("stopped early")
    assert found["stopped"].share == 0.25
    assert math.isnan(found["gone"].share)


def test_progress_counts_ended_unfinished_and_not_started_trials():
    rows = [trial("a", "search"), trial("b", "search", "pruned"), trial("c", "search", "pruned")]
    history = pd.concat([reports("a", [3.0]), reports("half", [3.0, 2.0])])
    found = progress(pd.DataFrame(rows), history, planned=12, left=9, started=["a", "b", "c", "half", "silent"])
    assert list(found.ended.items()) == [("completed", 1), ("pruned", 2)]
    assert [(entry.trial_id, entry.tokens) for entry in found.unfinished] == [("half", 200), ("silent", 0)]
    assert found.unfinished[0].last_report == "2026-03-01 12:00:00 UTC"
    assert (found.final, found.not_started, found.whole) == (3, 7, False)
    whole = progress(pd.DataFrame(rows), history, planned=3, left=0, started=["a", "half"])
    assert whole.whole
    assert whole.unfinished == (), "a trial that nobody plans any more is not missed"


def test_floors_and_cost_by_hand():
    rows = [
        trial("s", "search", val_loss=3.5),
        trial("t", "search", val_loss=3.2, tokens_per_s=300.0),
        trial("u", "search", "nan", val_loss=None, wall_s=3.0),
        trial("x", "token", val_loss=2.0),
        trial("y", "token", val_loss=2.4, unigram_floor=4.2),
    ]
    table = pd.DataFrame(rows)
    found = {entry.group: entry for entry in floors(table, objective=LOSS)}
    assert found["best"].below_unigram == pytest.approx(0.8)
    assert found["best"].below_bigram == pytest.approx(-0.7)
    assert (found["token"].val_loss, found["token"].unigram) == (pytest.approx(2.2), pytest.approx(4.1))
    search = costs(table)[0]
    assert (search.group, search.n, search.medians["tokens_per_s"], search.total_wall_s) == ("search", 2, 200.0, 23.0)
    assert math.isnan(search.medians["ema_ms"])
