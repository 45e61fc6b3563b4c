"""A function of the user's goes through everything that the token memory goes through, and every way to break it ends
in its row."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import cli, rerun
from ablate.report import writer
from tests import ROOT
from tests.trainers.own.studies import SEARCH, WALK, run, train, write

ABLATION = SEARCH + "\nablation: {seeds: 6, arms: {rms: {norm: rms}}}"


def walked(*, lr: float, seed: int, slow: bool = False) -> float:
    """The loss at the end of `WALK`, by its formula."""
    distance = 3 - random.Random(seed).gauss(0, 1)
    return (distance * (1 - lr * (0.5 if slow else 1)) ** 40) ** 2


def test_a_study_of_a_function_is_searched_ablated_and_reported(tmp_path: Path) -> None:
    code, ledger = run(write(tmp_path, WALK, more=ABLATION))
    assert code == cli.DONE
    rows = ledger.rows()
    assert {row.status for row in rows} == {"completed"}
    assert len(rows) == 2 + 2 * 6
    for row in rows:
        slow = row.arm == "rms"
        lr = json.loads(row.config_json)["lr"]
        assert row.metrics["val_loss"] == pytest.approx(walked(lr=lr, seed=row.seed, slow=slow))
        assert row.metrics["peak_rss_gib"] > 0
        assert (row.tokens_seen, row.budget_tokens, row.device) == (40, 40, "cpu")
    page = ledger.path("report", "report.md").read_text(encoding="utf-8")
    assert "rms raises val_loss" in page
    assert "bank" not in page


def test_its_trial_is_trained_again_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name, from a folder that is not the study file's."""
    train(write(tmp_path / "study", WALK))
    monkeypatch.chdir(tmp_path)
    again = ["own", "--results", "study/results", "--trial", "best", "--verify"]
    assert rerun.main(again) == cli.DONE
    assert capsys.readouterr().out.splitlines()[-1] == "identical: 4 reports"
    script = tmp_path / "study" / "train.py"
    script.write_text(script.read_text().replace("- 3)", "- 3.001)", 1))
    assert rerun.main(again) == cli.DIFFERENT
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("different: at 10: val_loss was ")
    assert "code_hash was" in said.err


def test_a_killed_trial_goes_on_where_it_saved(tmp_path: Path) -> None:
    """Killed after the report at 20 of 40: the second attempt has the same folder, and begins at 20."""
    _, whole = run(write(tmp_path / "whole", WALK))
    path = write(tmp_path / "killed", WALK + DIES)
    command = [sys.executable, "-m", "ablate.sweep", str(path), "--results", str(path.parent / "results"), "--inline"]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "DIE_AT": "20"}, capture_output=True, check=False)
    assert killed.returncode == 9
    code, ledger = run(path, "--resume")
    assert code == cli.DONE
    assert {row.metrics["val_loss"] for row in ledger.rows()} == {row.metrics["val_loss"] for row in whole.rows()}
    resumed = next(row for row in ledger.rows() if row.attempt == 2)
    assert ledger.history(resumed.trial_id).column("step").to_pylist() == [10, 20, 30, 40]


DIES = """
            if os.environ.get("DIE_AT") == str(step):
                os._exit(9)
"""


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("def main(trial):\n    raise OSError('no disk')", "error", "no disk [at train.py:2]"),
        ("def main(trial):\n    trial.report(10, val_loss=1, accuracy=0)\n    1 / 0", "error", "[at train.py:3]"),
        ("def main(trial):\n    import torch\n    torch.zeros(2) @ torch.zeros(3)", "error", "[at train.py:3]"),
        ("def main(trial):\n    trial.report(40, val_loss=float('nan'))", "nan", "val_loss is nan at 40 steps"),
        ("def main(trial):\n    trial.report(40, val_loss=float('inf'))", "nan", "val_loss is inf at 40 steps"),
        ("def main(trial):\n    pass", "error", "it ended without a report"),
        ("def main(trial):\n    raise SystemExit(0)", "error", "it called sys.exit(0)"),
        ("def main(trial):\n    raise MemoryError", "oom", ""),
        ("def main(trial):\n    trial.report(40, val_loss=1)", "error", "it did not report accuracy"),
        ("def main(trial):\n    trial.report(30, val_loss=1, accuracy=1)", "error", "last report is at 30 of 40 steps"),
        ("def main(trial):\n    trial.report(20, val_loss=1); trial.report(10, val_loss=1)", "error", "went backwards"),
        ("def main(trial):\n    trial.report(2.5, val_loss=1)", "error", "2.5 is not a whole number of steps"),
        ("def main(trial):\n    trial.report(40, val_loss='low')", "error", "val_loss is 'low', not a number"),
        ("def main(trial):\n    trial.report(40, val_loss=None)", "error", "val_loss is None, not a number"),
        ("def main(trial):\n    trial.report(40, val_los=1)", "error", "did you mean val_loss?"),
        ("def main(trial):\n    trial.report(20, accuracy=1); trial.report(40, val_loss=1)", "error", "last accuracy"),
        ("def main(trial):\n    return 3", "error", "returned int, not a mapping"),
        ("import missing_module\ndef main(trial):\n    pass", "error", "module' [at train.py:1]"),
    ],
)  # fmt: skip
def test_what_is_broken_ends_in_its_row(tmp_path: Path, script: str, status: str, said: str) -> None:
    ledger = train(write(tmp_path, script))
    rows = ledger.rows()
    assert [row.status for row in rows] == [status] * 2
    assert all(said in (row.error or "") for row in rows), rows[0].error
    assert all("val_loss" not in row.metrics for row in rows), "what failed has no number"
    assert "Traceback" in ledger.log(rows[0].trial_id, attempt=1)


def test_what_a_function_returns_is_its_report(tmp_path: Path) -> None:
    ledger = train(write(tmp_path, "def main(trial):\n    return {'val_loss': trial.params['lr'], 'accuracy': 1}"))
    assert sorted(row.metrics["val_loss"] for row in ledger.rows()) == [0.1, 0.2]


def test_the_best_of_all_reports_where_it_is_asked_for(tmp_path: Path) -> None:
    script = """
        def main(trial):
            for step, loss in ((10, 3.0), (20, 1.0), (40, 2.0)):
                trial.report(step, val_loss=loss, accuracy=loss)
    """
    path = write(tmp_path, script)
    path.write_text(path.read_text().replace("accuracy: {better: max}", "accuracy: {better: max, of: best}"))
    ledger = train(path)
    assert [(row.metrics["val_loss"], row.metrics["accuracy"]) for row in ledger.rows()] == [(2.0, 3.0)] * 2


def test_trials_of_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    """A module is imported anew, generators are seeded anew, and the process is as it was afterwards."""
    script = """
        import model, random, numpy
        count = 0
        def main(trial):
            global count
            count += 1
            assert model.IS_THE_USERS
            with open("train.py") as file:
                assert file.read()
            return {"val_loss": random.random() + numpy.random.random(), "accuracy": count}
    """
    before = (sys.argv, list(sys.path), Path.cwd(), sys.modules.get("model"))
    path = write(tmp_path, script, model="IS_THE_USERS = True")
    ledger = train(path)
    first, second = ledger.rows()
    assert first.error is None
    assert first.metrics == {
        **second.metrics,
        **{key: first.metrics[key] for key in first.metrics.keys() - {"val_loss", "accuracy"}},
    }
    assert first.metrics["accuracy"] == 1
    assert before == (sys.argv, list(sys.path), Path.cwd(), sys.modules.get("model"))


def test_a_report_stops_a_pruned_trial_even_within_a_broad_except(tmp_path: Path) -> None:
    script = """
        def main(trial):
            for step in range(10, 41, 10):
                try:
                    trial.report(step, val_loss=trial.params["lr"], accuracy=0)
                except Exception:
                    pass
    """
    more = "search: {lr: {choice: [0.1, 0.2, 0.3, 0.4]}}\noptimizer: {sampler: random, trials: 12, seed: 1}\n"
    more += "early_stopping: {asha: {min_tokens: 10, reduction: 2}}"
    ledger = train(write(tmp_path, script, more=more))
    ends = {(row.status, row.tokens_seen < 40) for row in ledger.rows()}
    assert ends == {("completed", False), ("pruned", True)}


def test_code_that_was_edited_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, WALK)
    run(path)
    (tmp_path / "train.py").write_text((tmp_path / "train.py").read_text() + "\n# edited\n")
    code, ledger = run(path, "--resume", "--trials", "4")
    assert code == cli.BAD_INPUT
    assert "code" in capsys.readouterr().err
    assert len(ledger.rows()) == 2


def test_data_is_part_of_what_a_study_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, WALK, how="function: train:main\n  data: [text.txt]")
    assert run(path)[0] == cli.BAD_INPUT
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("one")
    _, ledger = run(path)
    hashes = {row.data_hash for row in ledger.rows()}
    assert len(hashes) == 1
    (tmp_path / "text.txt").write_text("two")
    assert run(path, "--resume")[0] == cli.BAD_INPUT


def test_a_report_needs_neither_the_users_code_nor_its_folder(tmp_path: Path) -> None:
    _, ledger = run(write(tmp_path, WALK, more=ABLATION))
    for file in (*tmp_path.glob("*.py"), tmp_path / "own.yaml"):
        file.unlink()
    assert writer.main([str(ledger.root)]) == cli.DONE


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        ("trial.report(step,", 'trial.data_digest = trial.params["norm"]; trial.report(step,', "data_digest"),
        ("trial.report(step,", 'trial.report(step + 5 * (trial.params["norm"] == "rms"),', "tokens_seen"),
    ],
)
def test_arms_that_saw_other_data_or_more_of_it_are_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, column: str
) -> None:
    code, ledger = run(write(tmp_path, WALK.replace(old, new), more=ABLATION))
    assert code == cli.DONE
    said = capsys.readouterr().err
    assert f"trials of seed 1 of the ablation differ in {column} from its others" in said
    assert not ledger.path("report", "report.md").exists()
    if column == "data_digest":
        assert {row.data_digest for row in ledger.rows()} == {"layer", "rms"}
