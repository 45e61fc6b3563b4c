"""A study's progress, counted from its events, and how it is shown."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from ablate import formatting
from ablate.records.rows import MEASURED, Status, TrialRow
from ablate.running.live import View
from ablate.running.progress import StudyProgress, best_of, best_of_study
from ablate.running.runner import Event, Progress
from ablate.spec.models import Objective
from ablate.trials.trial import Trial
from tests import study_files
from tests.fakes import fake_trial

LOSS = Objective(metric="val_loss", mode="min")


def progress(tokens: int, *, wall_s: float, warning: str = "") -> Progress:
    return Progress(tokens_seen=tokens, budget_tokens=1000, wall_s=wall_s, loss=3.25, value=None, warning=warning)


def row(trial: Trial, *, status: Status = "completed", val_loss: float = 2.5) -> TrialRow:
    failed = status not in MEASURED
    return study_files.row(trial, status=status, metrics={} if failed else {"val_loss": val_loss})


@pytest.fixture
def trials() -> list[Trial]:
    return [fake_trial(seed) for seed in range(6)]


def test_events_are_counted(trials: list[Trial]) -> None:
    study_progress = StudyProgress(LOSS, planned=6)
    for trial in trials[:4]:
        study_progress.add(Event(trial, "started"), now_s=0.0)
    study_progress.add(Event(trials[0], "ended", row=row(trials[0])), now_s=10.0)
    study_progress.add(Event(trials[1], "ended", row=row(trials[1], status="error")), now_s=10.0)
    study_progress.add(Event(trials[2], "ended"), now_s=10.0)  # interrupted: no row
    assert study_progress.ended == {"completed": 1, "error": 1}
    assert list(study_progress.running) == [trials[3].trial_id]
    assert study_progress.left == 3


@pytest.mark.parametrize(("mode", "seed"), [("min", 1), ("max", 2)])
def test_best_of_takes_only_completed_trials(trials: list[Trial], mode: str, seed: int) -> None:
    rows = [
        row(trials[0], status="pruned", val_loss=0.1),
        row(trials[1], val_loss=2.0),
        row(trials[2], val_loss=3.0),
        row(trials[3], status="nan"),
        dataclasses.replace(row(trials[4]), metrics={}),
    ]
    found = best_of(rows, objective=LOSS.model_copy(update={"mode": mode}))
    assert found is not None
    assert found[0].seed == seed
    assert best_of(rows[3:], objective=LOSS) is None


def test_best_of_study_takes_the_search_then_the_arms_and_never_a_preparation() -> None:
    arms = ("search", "baseline", "tune.baseline")
    searched, arm, tuning = (row(fake_trial(seed, arm=name), val_loss=3.0 - seed) for seed, name in enumerate(arms))
    assert best_of_study([searched, arm, tuning], objective=LOSS) == (searched, 3.0)
    assert best_of_study([arm, tuning, row(fake_trial(9), status="nan")], objective=LOSS) == (arm, 2.0)
    assert best_of_study([tuning], objective=LOSS) is None


def test_time_left_from_the_trials_that_ended(trials: list[Trial]) -> None:
    study_progress = StudyProgress(LOSS, planned=6)
    assert study_progress.left_s(now_s=0.0) is None
    study_progress.add(Event(trials[0], "started"), now_s=0.0)
    study_progress.add(Event(trials[1], "started"), now_s=0.0)
    study_progress.add(Event(trials[0], "ended", row=row(trials[0])), now_s=30.0)
    study_progress.add(Event(trials[1], "ended", row=row(trials[1])), now_s=30.0)
    study_progress.add(Event(trials[2], "started"), now_s=30.0)
    # Half of one trial is left, three are to come, two run at once: (15 + 3 * 30) / 2.
    assert study_progress.left_s(now_s=45.0) == pytest.approx((15 + 90) / 2)


def test_time_left_before_the_first_end_extrapolates_the_furthest(trials: list[Trial]) -> None:
    study_progress = StudyProgress(LOSS, planned=1)
    study_progress.add(Event(trials[0], "started"), now_s=0.0)
    study_progress.add(Event(trials[0], "reported", progress=progress(10, wall_s=0.1)), now_s=10.0)
    assert study_progress.left_s(now_s=10.0) is None, "one per cent is too little"
    study_progress.add(Event(trials[0], "reported", progress=progress(500, wall_s=5.0)), now_s=15.0)
    assert study_progress.left_s(now_s=15.0) == pytest.approx(5.0), "ten seconds were start-up"


def test_a_log_gets_a_line_per_ended_trial_and_warning(trials: list[Trial]) -> None:
    out = io.StringIO()
    study_progress = StudyProgress(LOSS, planned=2)
    with View(study_progress, console=Console(file=out, width=200)) as view:
        for trial in trials[:2]:
            view.on_event(Event(trial, "started"))
        view.on_event(
            Event(trials[0], "reported", progress=progress(500, wall_s=1.0, warning="tracking: swanlab is full"))
        )
        view.on_event(Event(trials[0], "ended", row=row(trials[0])))
        view.on_event(Event(trials[1], "ended", row=row(trials[1], status="error")))
    assert out.getvalue().splitlines() == [
        "tracking: swanlab is full",
        f"[1/2] {trials[0].trial_id} search seed 0 completed val_loss 2.500 after 4,096 tokens, 2.5 s",
        f"[2/2] {trials[1].trial_id} search seed 1 error: ValueError: it broke",
    ]


def test_the_live_table_shows_state_best_and_time_left(trials: list[Trial]) -> None:
    out = io.StringIO()
    study_progress = StudyProgress(LOSS, planned=3)
    view = View(study_progress, console=Console(file=out, width=200, force_terminal=True, color_system=None))
    with view:
        view.on_event(Event(trials[0], "started"))
        view.on_event(Event(trials[1], "started"))
        view.on_event(Event(trials[0], "ended", row=row(trials[0])))
        view.on_event(Event(trials[1], "reported", progress=progress(400, wall_s=1.0)))
    shown = out.getvalue()
    for expected in ("completed", "40% of budget", "3.250", "1 running, 1 to come", "best val_loss 2.500", "left"):
        assert expected in shown


def test_a_whole_parameter_is_read_from_its_row_as_a_whole_number() -> None:
    """Parquet returns 8 as 8.0, and --json of the commands would print it so."""
    cells = {**dataclasses.asdict(row(fake_trial(0))), "param.length": 8.0, "param.lr": 0.5, "param.memory": "token"}
    del cells["params"], cells["metrics"]
    params = TrialRow.of(cells).params
    assert [repr(value) for value in params.values()] == ["8", "0.5", "'token'"]


def test_parameters_are_short() -> None:
    assert formatting.parameters(
        {"model.ema_decay": 0.912345, "model.memory": "token", "model.knowledge_length": 8.0}
    ) == ("ema_decay=0.9123 memory=token knowledge_length=8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_is_never_the_best(value: float, mode: str, trials: list[Trial]) -> None:
    objective = Objective.model_validate({"metric": "val_loss", "mode": mode})
    odd, good = row(trials[0], val_loss=value), row(trials[1], val_loss=2.0)
    for rows in ([odd, good], [good, odd]):
        assert best_of(rows, objective=objective) == (good, 2.0)
    assert best_of([odd], objective=objective) is None
