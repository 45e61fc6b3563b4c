"""`ablate.rerun`: a trial is trained again and compared; bad input is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ablate import cli, rerun
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.running.trial import StudyContext, run_trial
from ablate.trainers import Config, Report, Result, Verdict
from tests import ROOT, synthetic
from tests.fakes import FakeTrain, fake_trial
from tests.study_files import METRICS

STUDY = synthetic.study_json(name="fake", tracking={"swanlab": "disabled"})


@dataclass(frozen=True)
class Altered:
    """FakeTrain that reports the data's true hash, its seed as val_loss, and another loss at step `changed`."""

    fake: FakeTrain
    changed: int = 0
    more: Mapping[str, float] = field(default_factory=dict)
    seen: Callable[[Config], None] = lambda _: None

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        self.seen(config)

        def change(now: Report) -> Verdict:
            return report(replace(now, losses=[1.25]) if now.step == self.changed else now)

        result = self.fake(config, change, checkpoint_dir=checkpoint_dir)
        metrics = {"val_loss": float(config["train.seed"]), **self.more}
        return replace(result, data_hash=config.trainer.check_data(config), metrics=metrics)


@pytest.fixture
def train(tmp_path: Path) -> Altered:
    return Altered(FakeTrain({1: "complete", 2: "complete", 3: "nan"}, tmp_path))


@pytest.fixture
def study(context: StudyContext, train: Altered) -> Ledger:
    """Seeds 1 (the best) and 2 completed; 3 failed after its first step."""
    context.ledger.write_study(STUDY)
    for seed in (1, 2, 3):
        run_trial(fake_trial(seed), context=context, tell=lambda _: Verdict.CONTINUE, train=train)
    return context.ledger


def run(study: Ledger, *flags: str, train: Altered) -> int:
    return rerun.main([str(study.root), *flags], train=train)


def test_verify_of_the_best_trial_is_identical(study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]):
    assert run(study, "--trial", "best", "--verify", train=train) == cli.DONE
    assert capsys.readouterr().out == "identical: 5 steps\n"
    best = fake_trial(1).trial_id
    assert Ledger(study.path("reruns", best)).final_ids() == {best}


def test_a_trainer_may_measure_more_than_when_the_study_began(study: Ledger, train: Altered):
    measured_since = {"epoch_tokens": 11_328.0}
    study.write_study({key: value for key, value in STUDY.items() if key != "trainer"})  # as older versions wrote it
    assert measured_since.keys().isdisjoint(metric.name for metric in Ledger(study.place).metrics)
    assert run(study, "--verify", train=replace(train, more=measured_since)) == cli.DONE
    (row,) = Ledger(study.path("reruns", fake_trial(1).trial_id), METRICS).rows()
    assert row.metrics["epoch_tokens"] == 11_328.0


def test_a_finished_rerun_starts_from_the_beginning(study: Ledger, train: Altered):
    for _ in range(2):
        assert run(study, "--verify", train=train) == cli.DONE
    best = fake_trial(1).trial_id
    assert Ledger(study.path("reruns", best)).history().num_rows == 5


@pytest.mark.parametrize("content", [b"", b"PAR1"])
def test_a_rerun_whose_row_is_damaged_starts_from_the_beginning(study: Ledger, train: Altered, content: bytes):
    assert rerun.main([str(study.root)], train=train) == cli.DONE
    (best,) = [path.name for path in study.path("reruns").iterdir() if path.is_dir()]
    study.path("reruns", best, "trials", f"{best}.parquet").write_bytes(content)
    assert rerun.main([str(study.root), "--verify"], train=train) == cli.DONE
    assert Ledger(study.path("reruns", best)).final_ids() == {best}


def test_verify_names_the_first_step_that_differs(study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]):
    assert run(study, "--verify", train=replace(train, changed=4)) == cli.DIFFERENT
    assert capsys.readouterr().out == "different: step 4: loss was 0.75, is 1.25\n"


def test_verify_of_a_shorter_run_names_the_first_missing_step(
    study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]
):
    broken = replace(train, fake=FakeTrain({1: "error"}, train.fake.folder))
    assert run(study, "--verify", train=broken) == cli.DIFFERENT
    said = capsys.readouterr()
    assert said.out == "different: step 2: loss was 1.5, is not recorded\n"
    assert "ended as error: a toy error" in said.err


def test_verify_of_a_failed_trial_fails_at_the_same_step(
    study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]
):
    broken = fake_trial(3).trial_id
    assert run(study, "--trial", broken, "--verify", train=train) == cli.DONE
    assert capsys.readouterr().out == "identical: 1 steps\n"
    assert run(study, "--trial", broken, train=train) == cli.NO_SUCCESS


def test_verify_of_a_pruned_trial_stops_where_it_was_pruned(
    study: Ledger, context: StudyContext, train: Altered, capsys: pytest.CaptureFixture[str]
):
    train = replace(train, fake=FakeTrain({4: "complete"}, train.fake.folder))
    run_trial(fake_trial(4), context=context, tell=_stop_at(200), train=train)
    pruned = fake_trial(4).trial_id
    assert run(study, "--trial", pruned, "--verify", train=train) == cli.DONE
    assert capsys.readouterr().out == "identical: 2 steps\n"
    assert run(study, "--trial", pruned, train=train) == cli.DONE
    assert "completed" in capsys.readouterr().out


def test_set_trains_another_trial(study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]):
    seen: list[Config] = []
    assert run(study, "--set", "model.ema_decay=0.95", train=replace(train, seen=seen.append)) == cli.DONE
    assert seen[0]["model.ema_decay"] == 0.95
    (folder,) = study.path("reruns").glob("*/trials")
    assert folder.parent.name != fake_trial(1).trial_id
    assert f"results: {folder.parent}" in capsys.readouterr().out


def test_an_interrupted_rerun_resumes(study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]):
    best = fake_trial(1)
    ledger = Ledger(study.path("reruns", best.trial_id))
    context = StudyContext(ledger, swanlab="disabled", objective="val_loss", git_commit=None)
    assert run_trial(best, context=context, tell=lambda _: Verdict.INTERRUPT, train=train) is None
    assert run(study, "--verify", train=train) == cli.DONE
    assert capsys.readouterr().out == "identical: 5 steps\n"
    assert ledger.attempt(best.trial_id) == 2


def test_a_full_disk_is_one_line_and_the_rerun_can_be_repeated(
    study: Ledger, train: Altered, capsys: pytest.CaptureFixture[str]
):
    def full(_: Config) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert cli.guarded(lambda: run(study, train=replace(train, seen=full))) == cli.INTERRUPTED
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()[-1]) == (
        "", "cannot be written (No space left on device); make room, or make it writable"
    )  # fmt: skip
    assert run(study, "--verify", train=train) == cli.DONE


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--verify", "--set", "model.ema_decay=0.5"], "--verify: --set: model.ema_decay=0.5: a changed"),
        (["--trial", "bst"], "--trial: bst: no such trial; did you mean best?"),
        (["--set", "model.ema_dcay=0.5"], "--set: model.ema_dcay: unknown key"),
        (["--set", "model.ema_decay=1.5"], "--set: model.ema_decay: 1.5: out of range; must be less than 1"),
        (["--set", "model.ema_decay"], "--set: model.ema_decay: not KEY=VALUE"),
        (["--set", "data.knowledge=nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(study: Ledger, train: Altered, flags: list[str], line: str):
    with pytest.raises(BadInput) as caught:
        run(study, *flags, train=train)
    assert line in str(caught.value)
    assert not study.path("reruns").exists()


def test_changed_data_is_refused_before_training(study: Ledger, context: StudyContext, train: Altered):
    run_trial(fake_trial(2, arm="other"), context=context, tell=lambda _: Verdict.CONTINUE, train=train.fake)
    with pytest.raises(BadInput, match="the data is not what the trial read"):
        run(study, "--trial", fake_trial(2, arm="other").trial_id, "--verify", train=train)


def test_losses_are_compared_by_their_bits():
    nan = float("nan")
    assert rerun.compare({1: nan, 2: 0.1}, {1: nan, 2: 0.1}).first is None
    assert rerun.compare({1: 0.0}, {1: -0.0}).first == (1, 0.0, -0.0)
    assert rerun.compare({1: 1.0}, {1: 1.0, 2: 2.0}).first == (2, None, 2.0)


def _stop_at(tokens: int) -> Callable[..., Verdict]:
    return lambda progress: Verdict.STOP if progress.tokens_seen >= tokens else Verdict.CONTINUE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_trained_on_ray_is_identical_in_this_process(tmp_path: Path):
    space = ROOT / "search_spaces" / "smoke.yaml"
    sweep = _command("ablate.sweep", str(space), folder=tmp_path)  # into ./results, as a newcomer would
    assert sweep.returncode == cli.DONE, sweep.stderr
    assert sweep.stdout.splitlines()[-1] == "report: results/smoke/report/report.md"
    assert (tmp_path / "results/smoke/report/report.html").is_file()
    again = _command("ablate.rerun", "smoke", "--trial", "best", "--verify", folder=tmp_path)
    assert (again.stdout, again.returncode) == ("identical: 16 steps\n", cli.DONE), again.stderr


def _command(module: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
