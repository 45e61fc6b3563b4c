"""The section `trainer:`: what it takes, and one clear line at the place of what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ablate.errors import BadInput
from ablate.spec import study_file
from ablate.spec.models import Objective
from ablate.trainers import load
from ablate.trainers.own.settings import MEASURED
from ablate.trainers.recorded import as_json, described
from tests import ROOT
from tests.trainers.own.studies import COMMAND, WALK, write


def complaint(path: Path, *sets: str) -> str:
    with pytest.raises(BadInput) as caught:
        study_file.load(path, sets)
    return str(caught.value).removeprefix(str(path.parent))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("function: train:main", "function: train", "/own.yaml:4: trainer.function: train: not module:function"),
        ("train:main", "missing:main", "trainer.function: missing:main: no module missing in"),
        ("train:main", "train:run", "train.py does not define run; check the function's name"),
        ("train:main", "train:main\n  command: python x.py", "a trainer is a function or a command; give one"),
        ("unit: steps", "unit: ''", "trainer.budget.unit"),
        ("value: 40", "value: 0", "trainer.budget.value: 0: out of range; must be at least 1"),
        ("value: 40", "value: many", "trainer.budget.value: many: not a whole number"),
        ("lr: 0.1", "seed: 0.1", "seed: the suite sets it itself; give the parameter another name"),
        ("lr: 0.1", "lr: [1]", "lr: not a number, a text, true or false"),
        ("better: min,", "better: less,", "trainer.metrics.val_loss.better: less: not one of the allowed values"),
        ("better: max", "better: max, of: mean", "trainer.metrics.accuracy.of: mean: not one of the allowed values"),
        ("{better: max}", "{of: best}", "`of: best` of a metric of which neither less nor more is better"),
        ("accuracy:", "steps:", "steps is the budget's unit and a metric"),
        ("metrics:", "metrcs:", "trainer.metrcs: {"),
        ("  metrics:", "  code: [src/*.py]\n  metrics:", "trainer.code: src/*.py: matches no file"),
        ("  metrics:", "  code: [../*.py]\n  metrics:", "outside of the study file's folder"),
        ("  metrics:", "  reports: json\n  peak_gib: -1\n  metrics:", "trainer.peak_gib: -1: out of range"),
        ("choice: [0.1", "choice: [low", "own.yaml:10: lr: low: not a number, as its default is"),
        ("{lr: {choice", "{rate: {choice", "own.yaml:10: rate: unknown key: no such parameter"),
        ("{lr: {choice: [0.1, 0.2]}}", "{seed: {choice: [1, 2]}}", "a seed is chance, not a parameter"),
    ],
)
def test_what_is_wrong_is_said_at_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write(tmp_path, WALK)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert said in complaint(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("command: no-such-program-4711 {lr}", "trainer.command: no-such-program-4711: no such program"),
        ("command: python train.py {rate}", "the placeholder {rate} names nothing; declare rate in parameters"),
        ("command: python train.py {lr} | tee log", "no shell reads the command; write [bash, -c, ...] for `|`"),
        ("command: python 'train.py", "not a command (No closing quotation)"),
        (f"{COMMAND}\n  reports: stdout", "not `json`, a file or a pattern"),
        (f"{COMMAND}\n  reports: {{pattern: '(x'}}", "not a regular expression"),
        (f"{COMMAND}\n  reports: {{pattern: 'loss (?P<val_loss>.*)'}}", r"the budget: steps; add (?P<steps>\d+)"),
        (f"{COMMAND}\n  reports: {{pattern: '(?P<steps>.*) (?P<los>.*)'}}", "the pattern's group los names nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_command(tmp_path: Path, how: str, said: str) -> None:
    assert said in complaint(write(tmp_path, WALK, how=how))


def test_code_that_is_not_python_is_found_without_running_it(tmp_path: Path) -> None:
    said = complaint(write(tmp_path, "import os\nos.abort()\ndef main(:\n"))
    assert said.startswith("/train.py:3: not Python (")


def test_values_take_the_type_of_their_default(tmp_path: Path) -> None:
    study = study_file.load(write(tmp_path, WALK), ["trainer.parameters.width=64", "base.lr=1", "base.budget=5e1"])
    assert study.base.values == {"lr": 1.0, "norm": "layer", "width": 64, "budget": 50, "seed": 0, "reseed": 0}
    assert isinstance(study.base["lr"], float)
    assert "whole number" in complaint(write(tmp_path, WALK), "trainer.parameters.width=64", "base.width=0.5")
    assert "not a text" in complaint(write(tmp_path, WALK), "base.norm=4")


def test_the_first_metric_with_a_direction_is_the_objective(tmp_path: Path) -> None:
    path = write(tmp_path, WALK)
    assert study_file.load(path).objectives == (Objective(metric="val_loss", mode="min"),)
    path.write_text(path.read_text().replace("better: min, ", ""))
    assert study_file.load(path).objectives == (Objective(metric="accuracy", mode="max"),)


def test_what_study_json_keeps_gives_the_same_trainer(tmp_path: Path) -> None:
    study = study_file.load(write(tmp_path, WALK, how=COMMAND))
    kept = described({"trainer": as_json(study.trainer.description)})
    again = load(kept.name, kept.settings)
    assert again == study.trainer
    assert again.read(study.base.to_json()) == study.base
    assert [metric.name for metric in kept.metrics] == ["val_loss", "accuracy", *MEASURED]


def test_an_a_a_arm_has_another_seed_and_the_same_data(tmp_path: Path) -> None:
    more = "ablation: {seeds: 6, arms: {again: {reseed: true}}, exploratory: true}"
    study = study_file.load(write(tmp_path, WALK, more=more))
    assert study.trainer.description.reseed == "reseed"


def test_the_token_memory_says_what_stands_in_its_place(tmp_path: Path) -> None:
    """In a folder with a model.py of its own, where that is found first. A trainer of the user's does not care."""
    (tmp_path / "model.py").write_text("MINE = True")
    shutil.copy(ROOT / "search_spaces" / "smoke.yaml", tmp_path)
    command = [sys.executable, "-m", "ablate.sweep", "smoke.yaml", "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{tmp_path}/model.py: the token memory's package has this name too")
