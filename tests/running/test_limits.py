"""Limits on a trial's time and silence, with a clock that the test sets; and the output that is kept of a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.running.limits import Clock, Limits, Watch
from ablate.running.output import BYTES, LINES, Spool, recorded


def kind(watch: Watch, now_s: float) -> str | None:
    overdue = watch.overdue(now_s=now_s)
    return overdue.kind if overdue else None


def test_silence_counts_from_the_start_and_from_every_report() -> None:
    watch = Watch(Limits(stall_s=10), now_s=100)
    assert kind(watch, 110) is None
    assert kind(watch, 110.1) == "Stalled"
    watch.note_report(wall_s=1, done=False, now_s=110)
    assert kind(watch, 120) is None
    assert kind(watch, 121) == "Stalled"


def test_a_time_limit_counts_earlier_training_and_the_time_since_the_last_report() -> None:
    """From outside a trial gets ten per cent more time, since it may be about to report and end itself."""
    limits = Limits(max_s=100)
    watch = Watch(limits, now_s=0)
    watch.note_report(wall_s=90, done=False, now_s=5)  # mostly of an earlier attempt
    assert limits.spent(100) is None
    assert limits.spent(100.1) is not None
    assert kind(watch, 25) is None
    assert kind(watch, 25.1) == "TimeLimit"
    assert kind(Watch(Limits(max_s=36_000), now_s=0), 36_061) == "TimeLimit", "a minute at most"


def test_the_time_limit_does_not_count_the_measurement() -> None:
    watch = Watch(Limits(max_s=100, stall_s=500), now_s=0)
    watch.note_report(wall_s=99, done=True, now_s=99)
    assert kind(watch, 500) is None
    assert kind(watch, 600) == "Stalled"


def test_time_in_which_the_watching_process_was_stopped_does_not_count() -> None:
    """The clock is read at each look: between two of them at most 3 s count."""
    time_s = 1_000.0
    clock = Clock(read=lambda: time_s)
    watch = Watch(Limits(stall_s=10), now_s=clock.now_s())
    for seconds, expected in [(1, 1), (2, 3), (3_600, 6), (1, 7), (3, 10), (0.5, 10.5)]:
        time_s += seconds
        now_s = clock.now_s()
        assert now_s == pytest.approx(1_000 + expected)
        assert (kind(watch, now_s) == "Stalled") == (expected > 10)


def test_without_limits_a_trial_is_never_overdue() -> None:
    assert kind(Watch(Limits(), now_s=0), 1e9) is None


def test_the_tail_of_a_file_is_bounded_printable_and_of_this_trial(tmp_path: Path) -> None:
    """In a process whose output goes to files. A native library's output is included."""
    code = (
        "import os, sys\n"
        "from ablate.running.output import Spool\n"
        "print('an earlier trial', flush=True)\n"
        "spool = Spool.here()\n"
        "for number in range(5000): print('line', number)\n"
        "print('\\x1b[31mred\\x1b[0m', flush=True)\n"
        "os.write(2, b'\\xffnative words\\nbar 10%\\rbar 90%\\n')\n"
        "open(sys.argv[1], 'w').write(spool.tail())\n"
    )
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        done = [sys.executable, "-c", code, str(tmp_path / "tail")]
        subprocess.run(done, stdout=out, stderr=err, check=True, env={**os.environ}, timeout=60)
    tail = (tmp_path / "tail").read_text()
    stdout, stderr = tail.split("---- stderr\n")
    lines = stdout.splitlines()
    assert lines[0] == "---- stdout"
    assert lines[-2:] == ["line 4999", "red"]
    assert len(lines) == LINES + 1
    assert len(tail) < 2 * BYTES + 100
    assert "\x1b" not in tail
    assert stderr.splitlines()[1:] == ["bar 90%"]
    assert stderr.splitlines()[0].endswith("native words")
    assert "an earlier trial" not in tail


def test_output_to_a_terminal_is_kept_and_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with recorded() as output:
        print("seen and kept")
        print("both", file=sys.stderr)
        tail = output.tail()
    assert tail == "---- stdout\nseen and kept\n---- stderr\nboth\n"
    assert sys.stdout is before
    seen = capsys.readouterr()
    assert seen.out == "", "stdout is for the command's answer"
    assert seen.err == "seen and kept\nboth\n"


def test_the_tail_of_no_output_is_empty() -> None:
    assert Spool(()).tail() == ""
    with recorded() as output:
        assert output.tail() == ""
