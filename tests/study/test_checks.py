"""Short runs of a trainer: every way in which its numbers may carry less than they seem to is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate import check, cli
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.spec import study_file
from ablate.study import checks
from ablate.study.checks import Checked
from tests.trainers.own.studies import SEARCH, WALK, run, write

ABLATION = SEARCH + "\nablation: {seeds: 6, arms: {rms: {norm: rms}}}"

SEED, NORM = "random.gauss(0, 1)", '(0.5 if trial.params["norm"] == "rms" else 1)'


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("", "", None),
        (SEED, "random.SystemRandom().gauss(0, 1)", "the same seed twice is up to"),
        (SEED, "1.0", "another seed gives the same numbers: the seed does not reach the trainer"),
        (NORM, "1", "arm rms changed nothing in the first reports: perhaps it does not reach the trainer"),
        ('trial.params["lr"] * ', "0.1 * ", "lr changed nothing"),
        (
            "json.dumps([step, x])",
            "json.dumps([step, x + 1e-3])",
            "a resumed run, beside one that was not interrupted, is up to",
        ),
        ("if saved.exists() else", "if False else", None),  # it begins again, which is slow and right
        ("trial.report(step,", "trial.report(step, other=1,", "a short run failed: WrongReport: report: 'other'"),
    ],
)
def test_what_short_runs_find(tmp_path: Path, old: str, new: str, complaint: str | None) -> None:
    script = WALK.replace(old, new) if old else WALK
    assert (script != WALK) == bool(old)
    found = checks.check(study_file.load(write(tmp_path, script, more=ABLATION)))
    if complaint is None:
        assert found.complaints == ()
        assert (found.apart, found.seed_reaches, found.inert, found.resumed_apart) == (0.0, True, (), 0.0)
        assert (found.reports, found.trials) == (2, 14)
        assert found.peak_gib
        assert found.trial_s
    else:
        assert [each for each in found.complaints if each.startswith(complaint)], found.complaints


def test_the_answer_is_kept_and_the_report_carries_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, WALK.replace(NORM, "1"), more=ABLATION)
    _, ledger = run(path)
    assert "never checked, as its code is now: `python -m ablate.check" in capsys.readouterr().err
    assert check.main([str(path), "--results", str(tmp_path / "results"), "--json"]) == cli.DIFFERENT
    answer = json.loads(capsys.readouterr().out)
    assert answer["inert"] == ["arm rms"]
    code_hash = study_file.load(path).trainer.code_hash
    assert checks.read(Ledger(ledger.place), code_hash=code_hash) is not None
    assert checks.read(Ledger(ledger.place), code_hash="of other code") is None
    assert writer.main([str(ledger.root), "--format", "md"]) == cli.DONE
    page = ledger.path("report", "report.md").read_text(encoding="utf-8")
    assert "Short runs of the trainer: arm rms changed nothing" in page
    assert "rms has the baseline's values on every seed, to the last bit" in page


def test_runs_that_report_other_things_are_as_far_apart_as_can_be(tmp_path: Path) -> None:
    apart = checks._apart(((10, "val_loss", 1.0),), ((20, "val_loss", 1.0),))
    assert checks.in_words(apart) == "another row of reports"
    assert checks._apart(((10, "val_loss", 1.0),), ((10, "val_loss", -1.0),)) == apart, "no difference is larger"
    assert checks._apart(((10, "val_loss", 1.0),), ((10, "val_loss", 1.5),)) == pytest.approx(1 / 3)
    checks.write(Ledger(tmp_path), Checked(at="", code_hash="c", trials=1, apart=apart))
    assert checks.read(Ledger(tmp_path), code_hash="c") == Checked(at="", code_hash="c", trials=1, apart=apart)


@pytest.mark.slow
def test_the_built_in_trainer_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "study: tiny\nbase: {preset: tiny, train: {tokens: 20_000}}\nsearch: {train.lr: {choice: [1e-3, 1e-2]}}\n"
        "objective: {metric: val_loss}\n"
    )
    assert checks.check(study_file.load(path)).complaints == ()
