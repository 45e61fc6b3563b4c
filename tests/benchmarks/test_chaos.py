"""A study under attack: the benchmark's short form, and what it compares."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _same_tables
from tests import ROOT


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_in_four_kills() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--kills", "4", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["held"]
    assert found["kills"] >= 2, "the study may be done before the last kill"
    assert found["by_kind"]["driver"] >= 1


def test_tables_that_differ_are_found_and_times_are_not(tmp_path: Path) -> None:
    for name, loss, wall in (("one", "2.0", "1.5"), ("same", "2.0", "9.9"), ("other", "2.1", "1.5")):
        tables = tmp_path / name / "report" / "tables"
        tables.mkdir(parents=True)
        (tables / "arms.csv").write_text(f"arm,val_loss,wall_s\nblind,{loss},{wall}\n")
        (tables / "cost.csv").write_text(f"what,value\nhours,{wall}\n")
    one = tmp_path / "one"
    assert _same_tables.differences(one, tmp_path / "same") == []
    (different,) = _same_tables.differences(one, tmp_path / "other")
    assert different.startswith("tables/arms.csv: ")
    (tmp_path / "same" / "report" / "ablation.csv").write_text("arm\n")
    assert _same_tables.differences(one, tmp_path / "same") == ["ablation.csv: only in one"]
    assert _same_tables.differences(tmp_path, tmp_path) == ["no tables at all"]
