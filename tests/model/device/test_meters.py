"""The peak of resident memory is a run's own, whatever the process held before it."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any, cast

import numpy as np
import pytest

from model.api import Report, Verdict, train
from model.device import meters
from tests import ROOT
from tests.model.test_training import small


@pytest.fixture(params=[True, False], ids=["the kernel resets its mark", "it does not"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def refused(path: Path, *content: Any, **how: Any) -> int:
        if path.name == "clear_refs":
            raise PermissionError(13, "Permission denied", str(path))
        return write(path, *content, **how)

    if not request.param:
        meters.reset_peaks()
        monkeypatch.setattr(Path, "write_text", refused)


@pytest.mark.usefixtures("kernel")
def test_a_run_after_a_larger_one_reports_its_own_peak(tmp_path: Path) -> None:
    def peak(name: str, *, gib: float = 0.0) -> float:
        """The peak of a run that holds `gib` more for a moment at each report."""

        def heavy(_: Report) -> Verdict:
            held = np.ones(int(gib * 2**30), dtype=np.uint8)
            Event().wait(0.2 if gib else 0.0)
            del held
            return Verdict.CONTINUE

        metrics = train(small(train__tokens=128 * 4), heavy, checkpoint_dir=tmp_path / name).metrics
        return cast(float, metrics["peak_rss_gib"])

    peak("warm")
    small_first, large = peak("first"), peak("large", gib=0.6)
    middle, small_last = peak("middle", gib=0.3), peak("last")
    assert large == pytest.approx(small_first + 0.6, abs=0.06)
    assert middle == pytest.approx(small_first + 0.3, abs=0.06)
    assert small_last == pytest.approx(small_first, abs=0.06)


@pytest.mark.usefixtures("kernel")
def test_a_run_after_a_larger_one_that_failed_reports_its_own_peak(tmp_path: Path) -> None:
    def fail(_: Report) -> Verdict:
        """Raise an error that holds its memory, and itself, as tracebacks with their frames do."""
        error = ValueError("a toy error")
        error.args = (error, np.ones(int(0.5 * 2**30), dtype=np.uint8))
        raise error

    def peak(name: str) -> float:
        result = train(small(train__tokens=128 * 4), lambda _: Verdict.CONTINUE, checkpoint_dir=tmp_path / name)
        return cast(float, result.metrics["peak_rss_gib"])

    peak("warm")
    before = peak("before")
    gc.disable()  # as if it had not run since
    try:
        with contextlib.suppress(ValueError):
            train(small(train__tokens=128 * 4), fail, checkpoint_dir=tmp_path / "failed")
        after = peak("after")
    finally:
        gc.enable()
    assert after == pytest.approx(before, abs=0.06)


PROGRAM = """
import torch
from model.device import meters
meters.reset_peaks()
print(meters.memory_metrics(torch.device("cpu"))["peak_rss_gib"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is all there is")
def test_what_the_starting_process_holds_does_not_count() -> None:
    held = np.ones(2**30, dtype=np.uint8)
    peak = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert held.all()
    assert 0.05 < float(peak) < 0.8
