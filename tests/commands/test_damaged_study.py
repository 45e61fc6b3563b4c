"""Damage to a study's folder changes no answer: every command says what is lost, calls nothing finished that is not,
ends with one line where it cannot go on, and the sweep trains again what was lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ablate
from ablate import cli, rerun, status, sweep
from ablate.errors import BadInput
from ablate.records import provenance
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.running.inline import InlineRunner
from ablate.running.progress import best_of_study
from ablate.running.runner import Halt
from ablate.running.trial import StudyContext
from ablate.spec import study_file
from ablate.study import lifecycle, phases
from ablate.trainers import Config, recorded
from ablate.trainers.recorded import CheckpointText
from tests.commands.test_sweep import ABLATION, run
from tests.fakes import Scripted
from tests.study_files import SMALL

pytestmark = pytest.mark.timeout(120)

Play = Callable[..., Scripted]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def ended(space: Path) -> Ledger:
    """A finished search of three trials."""
    study, halt = study_file.load(space), Halt()
    ledger, _ = lifecycle.open_study(study, space.parent / "results", resume=False)
    commit = provenance.git("rev-parse", "HEAD")
    context = StudyContext(ledger, swanlab="disabled", objective="val_loss", git_commit=commit)
    train = Scripted([], folder=space.parent)
    runner = InlineRunner(context, halt=halt, on_event=lambda _: None, train=train)
    assert phases.run(study, ledger, runner=runner, halt=halt, say=print)
    assert lifecycle.mark_finished(ledger)
    return Ledger(ledger.place)


def best_id(ledger: Ledger) -> str:
    found = best_of_study(ledger.rows(), objective=study_file.load(ledger.root.parents[1] / "small.yaml").objectives[0])
    assert found is not None
    return found[0].trial_id


def page(ledger: Ledger) -> str:
    writer.write(ledger.root, formats=["md"])
    return ledger.path("report", "report.md").read_text()


@pytest.mark.parametrize("damage", ["cut off", "deleted", pytest.param("a folder", marks=pytest.mark.slow)])
def test_a_lost_row_of_a_finished_study_is_trained_again(
    damage: str, space: Path, play: Play, ended: Ledger, capsys: Said
) -> None:
    best, before = best_id(ended), ended.final_ids()
    part = ended.path("trials", f"{best}.parquet")
    if damage == "cut off":
        os.truncate(part, 100)
    else:
        part.unlink()
    if damage == "a folder":
        part.mkdir()

    now = status.collect(ended)
    assert now.states == {"completed": 2, "unfinished": 1}
    assert "--resume" in now.hint
    text = page(ended)
    assert "2 of 3 planned trials have ended" in text
    assert "The study is unfinished" in text
    assert "not finished: " in text
    if damage != "deleted":
        assert part.name in status.render(now)
        assert part.name in text

    assert run(space) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "was finished, but 1 trial of 3 lack" in said
    assert "--resume" in said
    assert (part.name in said) == (damage != "deleted")

    train = play()
    assert run(space, "--resume") == cli.DONE
    said = capsys.readouterr()
    assert len(train.configs) == 1
    assert ended.final_ids() == before
    assert f"best: trial {best}" in said.out
    kept = ended.path("damaged", "trials", part.name)
    assert (f"moved to damaged/trials/{part.name}" in said.err) == kept.exists() == (damage != "deleted")
    assert status.collect(ended).states == {"completed": 3}
    assert "unfinished" not in page(ended)
    assert run(space) == cli.DONE
    assert len(train.configs) == 1


def test_a_lost_winner_is_trained_again_and_stays_the_winner(space: Path, play: Play, capsys: Said) -> None:
    space.write_text(SMALL + ABLATION)
    play()
    assert run(space) == cli.DONE
    ledger = Ledger(space.parent / "results" / "small")
    winner = str(ledger.read_study()["winner"])
    ledger.path("trials", f"{winner}.parquet").write_bytes(b"PAR1")
    assert run(space) == cli.BAD_INPUT
    train = play()
    assert run(space, "--resume") == cli.DONE
    assert len(train.configs) == 1, "the arms are trained"
    assert ledger.read_study()["winner"] == winner
    assert winner in ledger.final_ids()
    shutil.rmtree(ledger.path("draws"))  # and now nothing says how to train it
    ledger.path("trials", f"{winner}.parquet").unlink()
    capsys.readouterr()
    assert run(space, "--resume", "--trials", "3") == cli.BAD_INPUT
    assert f"winner: {winner}: cannot be read" in capsys.readouterr().err


def test_a_rerun_of_the_best_says_what_it_leaves_out(ended: Ledger, play: Play, capsys: Said) -> None:
    best = best_id(ended)
    ended.path("trials", f"{best}.parquet").write_bytes(b"")
    assert cli.guarded(lambda: rerun.main([str(ended.root), "--trial", best])) == cli.BAD_INPUT
    assert "its row cannot be read" in capsys.readouterr().err
    assert cli.guarded(lambda: rerun.main([str(ended.root)], train=play())) == cli.DONE
    assert f"left out: {ended.path('trials', best)}.parquet" in capsys.readouterr().err


def test_an_exhausted_search_is_finished_for_every_command(space: Path, play: Play, capsys: Said) -> None:
    two = SMALL.replace("train.lr: {loguniform: [1.0e-4, 1.0e-2]}", "model.knowledge_length: {choice: [4, 8]}")
    space.write_text(two.replace("trials: 3", "trials: 5"))
    argv = [str(space), "--results", str(space.parent / "results"), "--dry-run", "--json"]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.DONE
    plan = json.loads(capsys.readouterr().out)
    assert plan["total"] == 2
    assert "5 trials are asked for, and the search space has 2 points" in plan["warnings"][0]

    train = play()
    assert run(space) == cli.DONE
    assert "the search ends with 2 trials instead of 5: its space has no more points" in capsys.readouterr().err
    ledger = Ledger(space.parent / "results" / "small")
    now = status.collect(ledger)
    assert (now.planned, now.states, now.hint) == (2, {"completed": 2}, "")
    text = page(ledger)
    assert "2 of 2 planned trials have ended" in text
    assert "unfinished" not in text
    assert run(space) == cli.DONE
    assert len(train.configs) == 2


def test_a_search_whose_draws_are_used_up_is_finished_for_every_command(space: Path, play: Play) -> None:
    """Both ends are squares and few numbers between them are, so nearly all of its points are no configurations."""
    squares = SMALL.replace("train.lr: {loguniform: [1.0e-4, 1.0e-2]}", "model.knowledge_num: {int: [4096, 6561]}")
    space.write_text(squares.replace("sampler: random", "sampler: sobol"))
    play()
    run(space)
    ledger = Ledger(space.parent / "results" / "small")
    assert ledger.read_study()["exhausted"] == len(ledger.final_ids()) < 3
    assert (status.collect(ledger).hint, ledger.read_study()["finished_at"] is not None) == ("", True)
    assert run(space) != cli.BAD_INPUT


# ---- study.json


DAMAGED = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "a number": "1e400",
    "200,000 levels": "[" * 200_000 + "]" * 200_000,
}


def commands(space: Path, study: Path) -> dict[str, Callable[[], int]]:
    results = str(space.parent / "results")
    return {
        "sweep": lambda: run(space),
        "resume": lambda: run(space, "--resume"),
        "dry run": lambda: sweep.main([str(space), "--results", results, "--dry-run"]),
        "report": lambda: writer.main([str(study), "--format", "csv"]),
        "status": lambda: status_main(study),
        "rerun": lambda: rerun.main([str(study)]),
        "load": lambda: len(ablate.load(study).problems),
    }


def status_main(study: Path) -> int:
    from ablate.study import lookup

    status.collect(Ledger(lookup.find(str(study), results=study.parent)))
    return cli.DONE


def refused(space: Path, study: Path, capsys: Said) -> None:
    """Every command ends with one line and exit code 2, and the study's trials stay."""
    trials = sorted(path.name for path in study.joinpath("trials").iterdir())
    for name, command in commands(space, study).items():
        assert cli.guarded(command) == cli.BAD_INPUT, name
        said = capsys.readouterr()
        assert said.err.count("\n") == 1, (name, said.err)
        assert "study.json" in said.err, name
        assert said.out == ""
    assert sorted(path.name for path in study.joinpath("trials").iterdir()) == trials


@pytest.mark.parametrize("case", DAMAGED)
def test_a_study_json_that_is_none_is_one_line_for_every_command(
    case: str, space: Path, ended: Ledger, capsys: Said
) -> None:
    ended.path("study.json").write_text(DAMAGED[case])
    refused(space, ended.root, capsys)


@pytest.mark.parametrize("case", ["a folder", "a named pipe", "a link to nothing", "missing"])
def test_what_stands_for_study_json_is_one_line_for_every_command(
    case: str, space: Path, ended: Ledger, capsys: Said
) -> None:
    """A missing one above all: trials of another budget would appear as those of a new study."""
    path = ended.path("study.json")
    path.unlink()
    if case == "a folder":
        path.mkdir()
    elif case == "a named pipe":
        os.mkfifo(path)
    elif case == "a link to nothing":
        path.symlink_to("nowhere")
    refused(space, ended.root, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"spec": None},
        {"spec.base": []},
        {"spec.objectives": []},
        {"spec.optimizer": {"trials": "many", "sampler": "tpe", "seed": 0}},
        {"spec.early_stopping": {"asha": {"min_tokens": 10, "reduction": 1}}},
        {"space": [{"key": "train.lr", "kind": "guess"}]},
        {"space": [{"key": "train.lr", "kind": "loguniform", "low": -1.0, "high": 1.0}]},
        {"trainer": "abc"},
        {"trainer": {"name": "token_memory", "metrics": None}},
        {"provenance": {}},
        {"finished_at": 7},
    ],
)
def test_a_study_json_of_another_shape_is_one_line_for_every_command(
    change: dict[str, object], space: Path, ended: Ledger, capsys: Said
) -> None:
    study = ended.read_study()
    ((key, value),) = change.items()
    section, _, name = key.rpartition(".")
    (study[section] if section else study)[name] = value
    ended.path("study.json").write_text(json.dumps(study))
    refused(space, ended.root, capsys)


# ---- around it


@pytest.mark.usefixtures("empty_figures")
def test_damaged_samples_are_named_in_the_report(ended: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "checkpoint_text", lambda *_, **__: CheckpointText((), "not asked"))
    for trial_id in ended.final_ids():
        ended.path("samples", f"{trial_id}.json").write_text("")
    assert "not readable as samples" in page(ended)
    findings = writer.findings_of(ended.root)
    writer.write_record(findings, best_id(ended), formats=["md"])
    assert "not readable as samples" in ended.path("report", "records", f"{best_id(ended)}.md").read_text()


def test_a_folder_that_is_deleted_while_its_study_runs_ends_the_sweep_in_one_line(
    space: Path, play: Play, capsys: Said
) -> None:
    train = play()
    ledger = Ledger(space.parent / "results" / "small")
    train.configs = _Deleting(ledger.root)
    assert run(space) == cli.BAD_INPUT
    assert len(train.configs) == 1, "no further trial is trained for nothing"
    assert "deleted while the study ran" in capsys.readouterr().err.splitlines()[-1]


class _Deleting(list[Config]):
    """Deletes a folder when something is appended."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def append(self, item: Config) -> None:
        super().append(item)
        shutil.rmtree(self._folder)


def test_names_that_no_file_can_have_are_one_line(space: Path, capsys: Said) -> None:
    long = "a" * 300
    asked: list[Callable[[], int]] = [
        lambda: sweep.main([str(space), "--results", long, "--inline"]),
        lambda: status_main(Path(long)),
        lambda: writer.main([long]),
        lambda: writer.main(["latest", "--results", long]),
        lambda: rerun.main([long]),
    ]
    for command in asked:
        assert cli.guarded(command) == cli.BAD_INPUT
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(BadInput):
        ablate.load(long)


def test_a_lock_that_is_a_named_pipe_is_one_line(space: Path, ended: Ledger, capsys: Said) -> None:
    os.mkfifo(ended.path("driver.lock"))
    assert run(space) == cli.BAD_INPUT
    assert "driver.lock: not a lock of a study" in capsys.readouterr().err
    assert cli.guarded(lambda: status_main(ended.root)) == cli.BAD_INPUT
