"""The runner without Ray and, through it, the edge of a trial: every end becomes one correct row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablate.running.inline import InlineRunner
from ablate.running.runner import Event, Halt, Progress
from ablate.running.trial import StudyContext, TryAgain, run_trial
from ablate.trainers import Config, Report, Result, Verdict
from tests.fakes import STEPS, TOKENS_A_STEP, Act, FakeTrain, ListSource, fake_trial


def run(
    context: StudyContext,
    acts: dict[int, Act],
    *,
    halt: Halt | None = None,
    stop_at: dict[int, int] | None = None,
):
    """Run one trial per act. Returns the source and the events."""
    events: list[Event] = []
    source = ListSource([fake_trial(seed) for seed in acts], stop_at=stop_at or {})
    train = FakeTrain(acts, folder=context.ledger.root)
    InlineRunner(context, halt=halt or Halt(), on_event=events.append, train=train).run(source)
    return source, events


def test_every_end_becomes_its_row(context: StudyContext) -> None:
    acts: dict[int, Act] = {0: "complete", 1: "error", 2: "nan", 3: "oom", 4: "until_stopped"}
    source, events = run(context, acts, stop_at={4: 2 * TOKENS_A_STEP})
    assert [row.status for row in source.rows] == ["completed", "error", "nan", "oom", "pruned"]
    assert [row.error_kind for row in source.rows] == [None, "ValueError", "NonFiniteLoss", "MemoryError", None]
    assert source.rows[1].error.startswith("a toy error [at fakes.py:")
    assert [row.tokens_seen for row in source.rows] == [500, 100, 100, 100, 200]
    assert [event.kind for event in events if event.trial.seed == 0] == ["started", *["reported"] * STEPS, "ended"]


def test_rows_read_back_as_they_were_written(context: StudyContext) -> None:
    source, _ = run(context, {0: "complete", 1: "error"})
    for row in source.rows:
        assert context.ledger.row(row.trial_id) == row
    table = context.ledger.trials()
    assert table["val_loss"].to_pylist() == [pytest.approx(2.0 + 1 / STEPS), None], "a failed trial has null metrics"


def test_history_holds_every_report(context: StudyContext) -> None:
    run(context, {0: "complete"})
    assert context.ledger.history()["losses"].to_pylist() == [[3.0 / step] for step in range(1, STEPS + 1)]


def test_a_trial_that_has_used_its_budget_completes_even_if_the_search_prunes_it(context: StudyContext) -> None:
    source, _ = run(context, {0: "complete"}, stop_at={0: STEPS * TOKENS_A_STEP})
    assert source.rows[0].status == "completed"


def test_ctrl_c_ends_the_trial_at_its_next_report_and_leaves_no_row(context: StudyContext) -> None:
    trial = fake_trial(0)

    def interrupted(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        return FakeTrain({0: "until_stopped"}, folder=checkpoint_dir)(config, report, checkpoint_dir=checkpoint_dir)

    source = ListSource([trial, fake_trial(1)])
    with Halt() as halt:
        InlineRunner(context, halt=halt, on_event=lambda _: None, train=interrupted).run(source)
        assert halt.reason == "signal"
    assert source.rows == []
    assert context.ledger.started_ids() == {trial.trial_id}, "the second trial was not started"
    assert context.ledger.final_ids() == set()


def test_an_interrupted_trial_resumes_as_its_next_attempt(context: StudyContext) -> None:
    train = FakeTrain({0: "complete"}, folder=context.ledger.root)
    stopped = run_trial(fake_trial(0), context=context, tell=lambda _: Verdict.INTERRUPT, train=train)
    assert stopped is None
    row = run_trial(fake_trial(0), context=context, tell=lambda _: Verdict.CONTINUE, train=train)
    assert row is not None
    assert (row.status, row.attempt) == ("completed", 2)
    assert context.ledger.history()["step"].to_pylist() == list(range(1, STEPS + 1))


def test_a_trial_that_resumes_at_its_very_end_keeps_its_time_and_tokens(context: StudyContext) -> None:
    """It was killed while it was measured. It reports nothing more, whether it now completes or fails."""

    def broken(*_: object, **__: object) -> Result:
        raise ValueError("again")

    def at_the_end(progress: Progress) -> Verdict:
        return Verdict.INTERRUPT if progress.done else Verdict.CONTINUE

    train = FakeTrain({0: "complete", 1: "complete"}, folder=context.ledger.root)
    for seed, last in enumerate((train, broken)):
        assert run_trial(fake_trial(seed), context=context, tell=at_the_end, train=train) is None
        row = run_trial(fake_trial(seed), context=context, tell=at_the_end, train=last)
        assert row is not None
        assert (row.status, row.attempt) == ("completed" if last is train else "error", 2)
        assert (row.tokens_seen, row.budget_tokens) == (STEPS * TOKENS_A_STEP, STEPS * TOKENS_A_STEP)
        assert row.wall_s == pytest.approx(STEPS * 0.02)


def test_rank_0_of_several_raises_try_again_so_that_its_peers_do_not_wait(context: StudyContext) -> None:
    def out_of_memory(*_: object, **__: object) -> Result:
        raise TryAgain("CUDA out of memory")

    assert run_trial(fake_trial(0), context=context, tell=lambda _: Verdict.CONTINUE, train=out_of_memory) is None
    with pytest.raises(TryAgain):
        run_trial(
            fake_trial(0),
            context=context,
            tell=lambda _: Verdict.CONTINUE,
            only_rank=False,
            train=out_of_memory,
        )


def test_the_second_ctrl_c_raises_at_once() -> None:
    with Halt():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Halt():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_replaced_attempt_writes_nothing(context: StudyContext) -> None:
    """A worker that was taken for dead but lives: its report and its end are refused."""
    trial = fake_trial(0)

    def replaced(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        context.ledger.claim(trial.trial_id)
        return FakeTrain({0: "complete"}, folder=checkpoint_dir)(config, report, checkpoint_dir=checkpoint_dir)

    assert run_trial(trial, context=context, tell=lambda _: Verdict.CONTINUE, train=replaced) is None
    assert context.ledger.final_ids() == set()
    assert context.ledger.history().num_rows == 0


def test_inline_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, ablate.running.inline, ablate.sweep;"
        "print(sorted({'ray', 'torch', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
