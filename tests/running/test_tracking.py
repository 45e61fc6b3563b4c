"""SwanLab tracks trials and never fails one."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ablate.records.ledger import Ledger
from ablate.running import tracking
from ablate.running.runner import Progress
from ablate.running.tracking import Tracker
from ablate.running.trial import StudyContext, run_trial
from ablate.trainers import Report, Verdict
from tests.fakes import FakeTrain, fake_trial
from tests.processes import wait_for

REPORT = Report(
    step=3,
    tokens_seen=300,
    budget_tokens=500,
    wall_s=1.0,
    lr=1e-3,
    losses=[2.0, 4.0],
    metrics={"val_loss": 2.5, "perplexity": float("inf"), "coverage_by_layer": [0.1, 0.2]},
)


def test_offline_writes_one_run_per_trial(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        with Tracker(fake_trial(seed), mode="offline", folder=tmp_path / "swanlab") as tracker:
            tracker.log(REPORT)
            assert tracker.take_warning() == ""
    assert len(list((tmp_path / "swanlab").glob("run-*/run-*.swanlab"))) == 2
    assert capfd.readouterr().out == "", "stdout is for answers"


def test_a_tracked_trial_leaves_no_thread_and_no_open_file(tmp_path: Path) -> None:
    """A user has 128 inotify instances, and one process may train a thousand trials."""

    def track(seed: int) -> None:
        with Tracker(fake_trial(seed), mode="offline", folder=tmp_path / "swanlab") as tracker:
            tracker.log(REPORT)

    track(0)  # loads what is loaded once
    wait_for(lambda: "inotify" not in str(open_files()), seconds=10, what=open_files)
    threads, files = set(threading.enumerate()), len(open_files())
    for seed in range(1, 4):
        track(seed)
    wait_for(lambda: set(threading.enumerate()) <= threads, seconds=10, what=threading.enumerate)
    wait_for(lambda: len(open_files()) <= files, seconds=10, what=open_files)


def open_files() -> list[str]:
    """What this process's descriptors lead to; empty where there is no /proc."""
    return [os.path.realpath(link) for link in Path("/proc/self/fd").glob("*")]


def test_the_next_trial_is_tracked_though_this_ones_tracking_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SwanLab begins no run in a process before the last one has ended."""
    with Tracker(fake_trial(0), mode="offline", folder=tmp_path) as broken:
        monkeypatch.setattr(type(broken._run), "log", None)
        broken.log(REPORT)
        assert "is not tracked further" in broken.take_warning()
        monkeypatch.undo()
    with Tracker(fake_trial(1), mode="offline", folder=tmp_path) as tracker:
        tracker.log(REPORT)
        assert tracker.take_warning() == ""


def test_only_finite_numbers_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = {}

    class Run:
        def log(self, numbers: dict, *, step: int) -> None:
            logged[step] = numbers

        def finish(self, *, state: str, error: str | None) -> None:
            logged["end"] = (state, error)

    monkeypatch.setattr(tracking, "_start", lambda *_, **__: Run())
    with Tracker(fake_trial(0), mode="offline", folder=tmp_path) as tracker:
        tracker.log(REPORT)
    assert logged == {
        3: {"val_loss": 2.5, "lr": 1e-3, "tokens_seen": 300, "loss": 3.0},
        "end": ("aborted", None),
    }


@pytest.mark.parametrize("broken", ["start", "log", "finish"])
def test_if_tracking_breaks_the_trial_completes_and_warns_once(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Run:
        def log(self, *_: object, **__: object) -> None:
            if broken == "log":
                raise RuntimeError("tracking is broken")

        def finish(self, **_: object) -> None:
            if broken == "finish":
                raise RuntimeError("tracking is broken")

    def start(*_: object, **__: object) -> Run:
        if broken == "start":
            raise RuntimeError("tracking is broken")
        return Run()

    monkeypatch.setattr(tracking, "_start", start)
    context = StudyContext(Ledger(tmp_path / "fake"), swanlab="offline", objective="val_loss", git_commit=None)
    context.ledger.path("swanlab").mkdir(parents=True)
    told: list[Progress] = []

    def tell(progress: Progress) -> Verdict:
        told.append(progress)
        return Verdict.CONTINUE

    row = run_trial(fake_trial(0), context=context, tell=tell, train=FakeTrain({0: "complete"}, folder=tmp_path))
    assert row is not None
    assert row.status == "completed"
    warnings = [progress.warning for progress in told if progress.warning]
    assert len(warnings) == (0 if broken == "finish" else 1)
    assert "tracking is broken" in context.ledger.path("swanlab", "warnings.txt").read_text()


def test_online_without_a_key_turns_tracking_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWANLAB_API_KEY", raising=False)
    mode, line = tracking.check("online")
    assert mode == "disabled"
    assert "SWANLAB_API_KEY" in line
    monkeypatch.setenv("SWANLAB_API_KEY", "not-a-key")
    assert tracking.check("online") == ("online", "")
    assert tracking.check("offline") == ("offline", "")


def test_disabled_tracking_writes_nothing(context: StudyContext) -> None:
    assert context.swanlab == "disabled"
    row = run_trial(
        fake_trial(0),
        context=context,
        tell=lambda _: Verdict.CONTINUE,
        train=FakeTrain({0: "complete"}, folder=context.ledger.root),
    )
    assert row is not None
    assert not context.ledger.path("swanlab").exists()
