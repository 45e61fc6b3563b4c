"""A trainer that is not the token memory goes through everything: search, ablation, resume, status, report, rerun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablate import cli, rerun, status
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.running import inline
from ablate.running.runner import Event, Halt
from ablate.running.trial import StudyContext
from ablate.spec import study_file
from ablate.spec.models import StudySpec
from ablate.study import dry_run, lifecycle, phases, preflight
from ablate.trials import plan
from tests import ROOT
from tests.trainers.toy import Toy

STUDY = """
study: walk
question: Does momentum help to walk downhill?
base: {start: far, steps: 40}
search:
  lr: {loguniform: [0.001, 0.3]}
  start: {choice: [near, far]}
objective: {metric: height}
optimizer: {sampler: tpe, startup: 2, trials: 8, seed: 0}
early_stopping: {asha: {min_tokens: 5, reduction: 2}}
ablation:
  seeds: 6
  arms: {momentum: {momentum: 0.5}}
hypotheses: [{claim: momentum helps, arm: momentum, metric: score, min_effect: 0.001}]
targets: {score: 0.9}
resources: {gpu: 0}
tracking: {swanlab: disabled}
"""


@pytest.fixture
def study(tmp_path: Path) -> StudySpec:
    path = tmp_path / "walk.yaml"
    path.write_text(STUDY)
    return study_file.load(path, trainer=Toy())


def go(study: StudySpec, results: Path, *, stop_after: int | None = None, resume: bool = False) -> Ledger:
    """Run the study in this process; interrupted after so many ends, if at all."""
    ledger, _ = lifecycle.open_study(study, results, resume=resume)
    halt = Halt()
    ended: list[Event] = []

    def on_event(event: Event) -> None:
        if event.kind == "ended":
            ended.append(event)
        if stop_after is not None and len(ended) >= stop_after:
            halt.call_off("the test interrupts it")

    context = StudyContext(ledger, swanlab="disabled", objective=study.objectives[0].metric, git_commit="0" * 40)
    runner = inline.InlineRunner(context, halt=halt, on_event=on_event)
    if phases.run(study, ledger, runner=runner, halt=halt, say=lambda _: None):
        lifecycle.mark_finished(ledger)
    return ledger


def test_a_study_of_it_is_searched_interrupted_resumed_and_ablated(study: StudySpec, tmp_path: Path) -> None:
    results = tmp_path / "results"
    half = go(study, results, stop_after=5)
    with pytest.raises(BadInput, match="add --resume"):
        lifecycle.open_study(study, results, resume=False)
    before = {row.trial_id: row for row in half.rows()}
    assert len(before) == 5
    whole = go(study, results, resume=True)
    rows = whole.rows()
    assert len(rows) == plan.planned(study) == 8 + 2 * 6
    assert {row.trial_id: row for row in rows if row.trial_id in before} == before, "nothing was trained twice"
    assert {row.status for row in rows} <= {"completed", "pruned"}
    arms = [row for row in rows if row.arm in ("baseline", "momentum")]
    assert {row.seed for row in arms} == set(range(1, 7))
    assert all(row.metrics.keys() == {"height", "score"} for row in rows)
    found = status.collect(whole)
    assert (found.planned, found.best is not None, found.hint) == (20, True, "")
    _, state = lifecycle.open_study(study, results, resume=False)
    assert state == "finished"


def test_its_report_has_its_metrics_and_units_and_does_not_import_it(study: StudySpec, tmp_path: Path) -> None:
    ledger = go(study, tmp_path / "results")
    program = (
        "import sys\nfrom ablate.report.writer import main\n"
        f"assert main([{str(ledger.root)!r}, '--format', 'md,csv']) == 0\n"
        "print(sorted({'model', 'torch', 'tests'} & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    page = ledger.path("report", "report.md").read_text(encoding="utf-8")
    assert "height (m)" in page
    assert "momentum" in page
    assert "val_loss" not in page
    assert "bank" not in page


def test_its_trial_is_trained_again_bit_for_bit(
    study: StudySpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = go(study, tmp_path / "results")
    assert rerun.main([str(ledger.root), "--trial", "best", "--verify"]) == cli.DONE
    assert capsys.readouterr().out == "identical: 40 steps\n"
    record = writer.main([str(ledger.root), "--record", "best"])
    assert record == cli.DONE


def test_its_plan_names_its_parameters(study: StudySpec) -> None:
    slots = preflight.slots(study.resources, preflight.Machine(cpus=2, gpus=0, card=None, elsewhere=False))
    run = dry_run.describe(study, slots, card=None)
    assert run.total == 20
    assert run.tokens == 20 * 40
    assert "lr=" in dry_run.render(run)
    assert json.loads(dry_run.render_json(run))["trials"][0]["params"].keys() == {"lr", "start"}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  lr: {log", "  lrr: {log", "lrr: unknown key: no such parameter; did you mean lr?"),
        ("momentum: 0.5", "luck: 3", "luck: 3: every arm has the same seeds; remove it"),
        ("momentum: 0.5", "steps: 3", "steps: 3: ablation.match decides the budget of every arm"),
        (
            "{momentum: {momentum: 0.5}}",
            "{again: {reseed: true}}",
            "this trainer cannot change the random streams of a trial",
        ),
        ("metric: height", "metric: heigth", "heigth: unknown metric; did you mean height?"),
        ("start: far", "start: there", "start: there: not a start; use near or far"),
    ],
)
def test_bad_input_is_said_in_its_words(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "walk.yaml"
    path.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(BadInput) as caught:
        study_file.load(path, trainer=Toy())
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{path}:")
