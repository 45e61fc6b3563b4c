"""The small commands around a study: list, export, clean, init, and `ablate` itself."""

from __future__ import annotations

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ablate import __main__ as console
from ablate import clean, cli, export, init
from ablate import list as list_studies
from ablate.errors import BadInput
from ablate.spec import study_file
from tests import ROOT
from tests.trainers.own.studies import WALK, train, write


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Of one study, `own`: two trials of a search, with lr 0.1 and 0.2, of which the latter is better."""
    train(write(tmp_path, WALK))
    return tmp_path / "results"


def test_list_says_state_best_and_size(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_studies.main(["--results", str(results), "--json"]) == cli.DONE
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["study"], found["state"], found["trials"]) == ("own", "finished", "2 of 2")
    assert found["best"].startswith("val_loss ")
    assert found["mib"] > 0
    (results / "own" / "study.json").write_text("null")
    assert list_studies.main(["--results", str(results)]) == cli.DONE
    assert "cannot be read" in capsys.readouterr().out


def test_export_is_a_base_that_a_study_file_takes(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def exported(form: str) -> str:
        assert export.main(["own", "--results", str(results), "--as", form]) == cli.DONE
        return capsys.readouterr().out

    base = yaml.safe_load(exported("yaml"))
    assert base == json.loads(exported("json"))
    assert base == {"lr": 0.2, "norm": "layer", "budget": 40, "seed": 0, "reseed": 0}
    assert exported("args") == "--lr=0.2 --norm=layer --budget=40 --seed=0 --reseed=0\n"
    path = tmp_path / "own.yaml"
    path.write_text(path.read_text() + yaml.safe_dump({"base": base}))
    assert study_file.load(path).base.values == base
    with pytest.raises(BadInput, match="no such trial"):
        export.main(["own", "--results", str(results), "--trial", "0123456789ab"])


def test_clean_keeps_the_best_and_says_how_much(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def folders() -> set[str]:
        return {path.name for path in (results / "own" / "checkpoints").iterdir()}

    both, flags = folders(), ["own", "--results", str(results), "--checkpoints"]
    assert len(both) == 2
    with pytest.raises(BadInput, match="add --checkpoints"):
        clean.main(flags[:-1])
    assert clean.main([*flags, "--keep", "1", "--dry-run"]) == cli.DONE
    said = capsys.readouterr().out
    assert said.startswith("would delete 1 checkpoint, ")
    assert folders() == both
    assert clean.main([*flags, "--keep", "1"]) == cli.DONE
    assert capsys.readouterr().out == said.replace("would delete", "deleted")
    assert export.main(["own", "--results", str(results), "--as", "json"]) == cli.DONE
    assert len(folders()) == 1
    assert clean.main([*flags, "--keep", "0"]) == cli.DONE
    assert folders() == set()


def test_init_writes_the_example_and_overwrites_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert init.main([str(folder)]) == cli.DONE
    assert filecmp.cmp(folder / "train.py", ROOT / "examples" / "walk" / "train.py", shallow=False)
    assert study_file.load(folder / "study.yaml").study == "walk"
    shipped = (ROOT / "examples" / "walk" / "study.yaml").read_text(encoding="utf-8")
    assert (folder / "study.yaml").read_text(encoding="utf-8") == shipped.replace("examples/walk/", f"{folder}/")
    (folder / "study.yaml").unlink()
    with pytest.raises(BadInput, match="exists already"):
        init.main([str(folder)])
    assert not (folder / "study.yaml").exists()


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_subcommand_is_the_module(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate", name, "--help"])
    with pytest.raises(SystemExit) as caught:
        console.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m ablate.{name} ")


def test_the_console_says_its_version_and_knows_its_commands() -> None:
    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ablate", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert said("--version").stdout.startswith("ablate 0.")
    assert said().returncode == 0
    wrong = said("swep")
    assert (wrong.returncode, wrong.stderr) == (2, "command line: swep: no such command; did you mean sweep?\n")
