"""The sweep's command, from its flags to its last lines and its exit code."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate import cli, status, sweep
from ablate.records import provenance
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.study import lifecycle
from ablate.trainers.token_memory import TokenMemory
from benchmarks.instruments import victims
from tests import study_files
from tests.fakes import Scripted
from tests.processes import command, wait_for
from tests.study_files import SMALL

ABLATION = """
ablation:
  baseline: best
  seeds: 2
  exploratory: true
  arms:
    blind: {model.memory: blind}
"""


ARMS = "ablation={seeds: 2, exploratory: true, arms: {blind: {model.memory: blind}}}"


def run(space: Path, *flags: str) -> int:
    """Run the command in this process; results are beside the study file."""
    argv = [str(space), "--results", str(space.parent / "results"), "--inline", *flags]
    return cli.guarded(lambda: sweep.main(argv))


def test_a_study_ends_with_its_best_trial_and_its_report(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play("complete", "error", "complete")
    assert run(space) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 trials: 2 completed, 1 error"
    assert "ValueError: a toy error" in lines[1], "a failed trial is listed"
    assert lines[-2].startswith("best: trial ")
    writer = Path(lines[-1].removeprefix("report: "))
    assert writer.is_file()
    ledger = Ledger(space.parent / "results" / "small")
    assert ledger.read_study()["finished_at"] is not None
    assert ledger.trials().num_rows == 3


ARMS_ALONE = """
study: small
question: What is a memory worth?
base: {preset: tiny, data: {corpus: facts}}
objective: {metric: val_loss}
ablation: {seeds: 2, exploratory: true, arms: {blind: {model.memory: blind}, none: {model.memory: none}}}
tracking: {swanlab: disabled}
"""


def test_an_ablation_ends_with_its_answer_and_not_with_a_best_trial(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(ARMS_ALONE)
    play()
    assert run(space) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "answer: no effect is shown"
    assert [line.split()[1] for line in lines if line.startswith("  For ")] == ["blind", "none"]
    assert not [line for line in lines if line.startswith("best:")]
    page = Path(lines[-1].removeprefix("report: ")).read_text(encoding="utf-8")
    summary = next(line for line in page.splitlines() if line.startswith("**Summary.**"))
    assert all(line.strip() in summary for line in lines[2:-1]), "the report's words"

    assert run(space, "--json") == cli.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["answer"]["verdict"] == "no effect is shown"
    arms = answer["answer"]["arms"]
    assert [(arm["arm"], arm["n"], arm["shown"]) for arm in arms] == [("blind", 2, False), ("none", 2, False)]
    assert set(answer) == {"study", "trials", "failed", "best", "answer", "cautions", "report"}
    assert answer["best"] is None, "the lowest value over arms and seeds is no answer"
    assert status.collect(Ledger(space.parent / "results" / "small")).best is None


def test_a_search_and_its_ablation_end_with_the_answer_and_the_searchs_best(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where an arm has a lower value than the search's best trial."""
    space.write_text(SMALL + ABLATION)
    play()
    assert run(space) == cli.DONE
    said = capsys.readouterr().out
    ledger = Ledger(space.parent / "results" / "small")
    searched = [row for row in ledger.rows() if row.arm == "search"]
    best = min(searched, key=lambda row: (float(row.metrics["val_loss"]), row.trial_id))
    assert "answer: " in said
    assert f"best: trial {best.trial_id} " in said
    found = status.collect(ledger).best
    assert found is not None
    assert found.trial_id == best.trial_id


def test_an_ablation_without_a_pair_has_no_answer_yet(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(ARMS_ALONE)
    play("complete", "nan", "nan", "complete", "nan", "nan")
    run(space)
    assert "answer: none yet" in capsys.readouterr().out.splitlines()


def test_a_finished_study_writes_its_report_again(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    train = play()
    assert run(space) == cli.DONE
    writer = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("report: "))
    writer.unlink()
    trained = len(train.configs)
    assert run(space, "--json") == cli.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["report"] == str(writer)
    assert answer["trials"] == {"completed": 3}
    assert set(answer["best"]) == {"trial_id", "val_loss", "params"}
    assert "answer" not in answer, "a search has none"
    assert writer.is_file()
    assert len(train.configs) == trained


def test_a_study_over_two_commits_of_the_same_code_has_its_report(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that changes docs, or `ablate/`, changes no number."""
    play("complete", "until_stopped")
    monkeypatch.setattr(provenance, "git", lambda *_: "a" * 40)
    assert run(space) == cli.INTERRUPTED
    monkeypatch.setattr(provenance, "git", lambda *_: "b" * 40)
    play()
    assert run(space, "--resume") == cli.DONE
    assert "report: none" not in capsys.readouterr().out
    assert len({row.git_commit for row in Ledger(space.parent / "results" / "small").rows()}) == 2


def test_a_finished_study_grows_only_under_its_code_and_writes_its_report_under_any(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = play()
    assert run(space) == cli.DONE
    monkeypatch.setattr(TokenMemory, "code_hash", "b" * 16)
    before = len(train.configs)
    assert run(space) == cli.DONE, "nothing is trained, so nothing is mixed"
    capsys.readouterr()
    for more in (["--trials", "4"], ["--set", ARMS]):
        assert run(space, *more) == cli.BAD_INPUT
        said = capsys.readouterr().err
        assert "3 trials were trained by other code" in said
        assert said.count("\n") == 1
    assert len(train.configs) == before


@pytest.mark.parametrize(
    ("place", "name", "values", "said"),
    [
        (
            TokenMemory,
            "code_hash",
            ("a" * 16, "b" * 16),
            f"code: {'b' * 16}: 2 trials were trained by other code (aaaa",
        ),
        (provenance, "versions", (lambda: "torch 1", lambda: "torch 2"), "versions: torch 2: 1 trial ran on torch 1"),
    ],
    ids=["code", "versions"],
)
def test_a_study_of_other_code_is_refused_before_it_trains_and_marked_where_that_is_asked_for(
    place: Any,
    name: str,
    values: tuple[Any, Any],
    said: str,
    space: Path,
    play: Callable[..., Scripted],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    play("complete", "until_stopped")
    monkeypatch.setattr(place, name, values[0])
    assert run(space) == cli.INTERRUPTED
    study = space.parent / "results" / "small"
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    monkeypatch.setattr(place, name, values[1])
    train = play()
    capsys.readouterr()
    assert run(space, "--resume") == cli.BAD_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert train.configs == []
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == before
    assert run(space, "--resume", "--allow-mixed") == cli.DONE
    page = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("report: ")).read_text(encoding="utf-8")
    assert "Trials of different code, budgets, data or versions are compared here (marked †)" in page
    assert cli.guarded(lambda: writer.main([str(study)])) == cli.BAD_INPUT


def test_a_sweep_without_success_has_its_own_exit_code(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play("nan", "oom", "error")
    assert run(space) == cli.NO_SUCCESS
    assert "best: none, no trial completed" in capsys.readouterr().out


def test_a_completed_ablation_is_a_success_though_the_search_failed(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(SMALL + ABLATION.replace("best", "base"))
    play("nan", "oom", "error", "complete")
    assert run(space) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "best: none, no trial of the search completed with a val_loss"
    assert "answer: no effect is shown" in lines
    ledger = Ledger(space.parent / "results" / "small")
    assert status.collect(ledger).best is None, "the lowest value over arms and seeds is no answer"
    assert ledger.read_study()["finished_at"] is not None


def test_an_ablation_without_a_winner_waits_for_more_trials(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(SMALL + ABLATION)
    play("nan", "oom", "error")
    assert run(space) == cli.NO_SUCCESS
    assert lifecycle.NO_WINNER in capsys.readouterr().err
    ledger = Ledger(space.parent / "results" / "small")
    assert ledger.read_study()["finished_at"] is None
    play()
    assert run(space, "--resume") == cli.NO_SUCCESS, "the same command does not help"
    assert run(space, "--resume", "--trials", "4") == cli.DONE
    assert [row.arm for row in ledger.rows()] == ["search"] * 4 + ["baseline", "blind"] * 2
    assert ledger.read_study()["finished_at"] is not None


def test_a_sweep_resumes_after_ctrl_c(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    train = play("complete", "until_stopped")
    assert run(space) == cli.INTERRUPTED
    assert "1 of 3 trials have ended" in capsys.readouterr().err
    interrupted = train.configs[-1]

    assert run(space) == cli.BAD_INPUT, "an unfinished study needs --resume"
    assert "--resume" in capsys.readouterr().err
    assert run(space, "--resume") == cli.DONE
    assert train.configs[2] == interrupted, "the interrupted trial is resumed first"
    trials = Ledger(space.parent / "results" / "small").trials()
    assert trials["status"].to_pylist() == ["completed"] * 3
    assert sorted(trials["attempt"].to_pylist()) == [1, 1, 2]


def test_max_hours_ends_a_sweep_with_a_report(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    play()
    assert run(space, "--max-hours", "1e-9") == cli.INTERRUPTED
    said = capsys.readouterr()
    assert "hours are over: 0 of 3 trials have ended" in said.err
    assert "report: " in said.out


def test_the_ablation_starts_from_the_winner_of_the_search(space: Path, play: Callable[..., Scripted]) -> None:
    space.write_text(SMALL + ABLATION)
    train = play()
    assert run(space) == cli.DONE
    ledger = Ledger(space.parent / "results" / "small")
    rows = ledger.trials().to_pylist()
    assert [row["arm"] for row in rows] == ["search"] * 3 + ["baseline", "blind"] * 2
    best = min((row for row in rows if row["arm"] == "search"), key=lambda row: (row["val_loss"], row["trial_id"]))
    arms = train.configs[3:]
    assert {config["train.lr"] for config in arms} == {best["param.train.lr"]}
    assert [config["model.memory"] for config in arms] == ["token", "blind"] * 2
    assert [config["train.seed"] for config in arms] == [1, 1, 2, 2]


def test_a_dry_run_writes_nothing(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(space), "--results", str(space.parent / "results"), "--dry-run", "--json"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.DONE
    assert json.loads(capsys.readouterr().out)["total"] == 3
    assert not (space.parent / "results").exists()


def test_a_dry_run_plans_what_is_left(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    space.write_text(SMALL + ABLATION)
    play("complete", "error", "until_stopped")
    assert run(space) == cli.INTERRUPTED
    capsys.readouterr()

    def plan(*flags: str) -> dict[str, Any]:
        assert run(space, "--dry-run", "--json", *flags) == cli.DONE
        return json.loads(capsys.readouterr().out)

    answer, budget = plan(), study_files.resolve("tiny", {})["train.tokens"]
    assert (answer["total"], answer["ended"], answer["tokens"]) == (3 + 4, 2, 5 * budget)
    assert [trial["kind"] for trial in answer["trials"]].count("arm") == 4
    assert run(space, "--resume") == cli.DONE
    capsys.readouterr()
    assert (plan()["ended"], plan()["trials"], plan()["tokens"], plan()["hours"]) == (7, [], 0, 0)
    assert run(space, "--dry-run") == cli.DONE  # a table without rows
    assert "7 of 7 trials have ended, 0 are left" in capsys.readouterr().out
    grown = plan("--trials", "4", "--set", "ablation.seeds=3")
    assert (grown["total"], grown["ended"], grown["tokens"]) == (4 + 6, 7, 3 * budget)
    arms = [(trial["arm"], trial["seed"]) for trial in grown["trials"] if trial["kind"] == "arm"]
    assert arms == [("baseline", 3), ("blind", 3)]
    assert run(space, "--dry-run", "--trials", "4") == cli.DONE
    assert "7 of 8 trials have ended, 1 are left" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["base.train.tokens=5_000", "search.train.lr={loguniform: [1.0e-3, 2.0e-3]}"])
def test_a_dry_run_refuses_what_the_sweep_refuses(
    flag: str, space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    """It would plan the rest of a study that cannot go on."""
    play()
    assert run(space) == cli.DONE
    capsys.readouterr()
    refused = []
    for more in (["--dry-run"], ["--resume"]):
        assert run(space, "--set", flag, *more) == cli.BAD_INPUT
        refused.append(capsys.readouterr().err)
    assert "study small exists with another" in refused[0]
    assert refused[0] == refused[1]


def test_a_dry_run_warns_of_other_code(
    space: Path, play: Callable[..., Scripted], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play("complete", "until_stopped")
    assert run(space) == cli.INTERRUPTED
    monkeypatch.setattr(TokenMemory, "code_hash", "b" * 16)
    capsys.readouterr()
    assert run(space, "--dry-run") == cli.DONE
    assert "warning: " in (said := capsys.readouterr().out)
    assert "2 trials were trained by other code" in said


def test_a_dry_run_for_another_gpu_ignores_this_machine(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["--set", "resources.cpu=4096", "--set", "resources.gpu=0.5"]
    argv = [str(space), "--dry-run", "--json", "--trials", "20", "--gpu", "RTX 4090", "--gpus", "8", *wide]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.DONE
    assert json.loads(capsys.readouterr().out)["concurrent"] == 16


BAD = {
    "no file": (["nowhere.yaml"], "nowhere.yaml"),
    "no study file at all": ([], "command line"),
    "unknown flag": (["small.yaml", "--fast"], "--fast"),
    "no trials": (["small.yaml", "--trials", "0"], "--trials"),
    "trials of no search": (["small.yaml", "--trials", "5", "--set", "search=null", "--set", ARMS], "--trials: 5"),
    "no hours": (["small.yaml", "--max-hours", "soon"], "--max-hours"),
    "inline on a cluster": (["small.yaml", "--inline", "--address", "auto"], "--address"),
    "GPUs of a cluster": (["small.yaml", "--address", "auto", "--gpus", "2"], "--gpus"),
    "a trial that does not fit": (["small.yaml", "--set", "resources.cpu=4000"], "resources: cpu"),
    "a missing GPU": (["small.yaml", "--set", "resources.gpu=0.5", "--gpus", "0"], "resources: gpu"),
    "results in a file": (["small.yaml", "--results", "small.yaml"], "--results"),
    "unknown key": (["small.yaml", "--set", "base.model.ema_deccay=0.9"], "ema_decay"),
    "no cluster at the address": (["small.yaml", "--address", "127.0.0.1:1"], "cannot be reached"),
    "not an address": (["small.yaml", "--address", "here"], "cannot be reached"),
    "a client's address": (["small.yaml", "--address", "ray://localhost:10001"], "--address"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, space: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(space.parent)
    flags, expected = BAD[case]
    before = sorted(space.parent.rglob("*"))
    assert cli.guarded(lambda: sweep.main(flags)) == cli.BAD_INPUT
    out, err = capfd.readouterr()
    assert_one_line(str(out), str(err), expected)
    assert sorted(space.parent.rglob("*")) == before, "nothing was written"


@pytest.mark.parametrize("case", ["no file", "unknown key", "no cluster at the address"])
def test_bad_input_of_the_real_command_is_one_line(case: str, space: Path) -> None:
    flags, expected = BAD[case]
    done = command(flags, cwd=space.parent)
    said = done.communicate(timeout=60)
    assert done.returncode == cli.BAD_INPUT
    assert_one_line(*said, expected)


def assert_one_line(out: str, err: str, expected: str) -> None:
    assert out == ""
    assert err.count("\n") == 1
    assert expected in err
    assert "Traceback" not in err


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        sweep.main(["--help"])
    assert "python -m ablate.sweep search_spaces/ema.yaml" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_on_ray_ends_quickly_leaves_no_process_and_resumes(space: Path) -> None:
    """Ray, Tune, Train and the real trainer: interrupted once while a trial trains, then resumed."""
    flags = [str(space), "--results", "results", "--trials", "2", "--set", "base.train.tokens=100_000"]
    ledger = Ledger(space.parent / "results" / "small")
    sweeping = command(flags, cwd=space.parent)
    wait_for(lambda: ledger.history().num_rows > 0 or sweeping.poll() is not None, seconds=240)
    began = time.monotonic()
    os.killpg(sweeping.pid, signal.SIGINT)
    out, err = sweeping.communicate(timeout=60)
    assert sweeping.returncode == cli.INTERRUPTED, err
    assert time.monotonic() - began < 20
    assert out.splitlines()[-1].startswith("report: ")
    assert "dashboard: http://127.0.0.1" in err
    assert "Traceback" not in err
    wait_for(lambda: not victims.left(space.parent), seconds=10)

    again = command([*flags, "--resume"], cwd=space.parent)
    out, err = again.communicate(timeout=400)
    assert again.returncode == cli.DONE, err
    assert out.splitlines()[-1].startswith("report: ")
    trials = ledger.trials()
    assert trials["status"].to_pylist() == ["completed"] * 2
    assert 2 in trials["attempt"].to_pylist()
    assert not (ledger.root / ".ray").exists()
