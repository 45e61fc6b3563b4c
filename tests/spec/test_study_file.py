"""What a valid study file means: scalars, defaults, paths, settings."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablate.errors import BadInput
from ablate.spec import study_file, yaml_marks
from ablate.spec.distributions import Choice, Range, bound
from ablate.spec.models import Asha, EarlyStopping, Objective
from tests import study_files
from tests.study_files import GOOD


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("50_000", 50_000),
        ("-3", -3),
        ("010", 10),
        (".5", 0.5),
        ("1_0.5", 10.5),
        ("on", "on"),
        ("no", "no"),
        ("none", "none"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ("2026-01-02", "2026-01-02"),
        ("[1, 2e1]", [1, 20.0]),
        ("{a.b: 1}", {"a.b": 1}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object):
    read = yaml_marks.value(text, place="--set")
    assert read == value
    assert type(read) is type(value)


def test_keys_remember_their_lines_nested_or_dotted(tmp_path: Path):
    document = yaml_marks.read(study_files.write(tmp_path, "a:\n  b:\n    c: 1\n  d.e: 2\n"))
    assert document.place("a.b.c").endswith(":3")
    assert document.place("a.d.e").endswith(":4")
    assert document.place("a.b.unwritten").endswith(":2")
    assert document.place("unwritten").endswith(":1")


@settings(deadline=None)  # a busy machine is not a defect
@given(st.text(max_size=60))
def test_any_text_is_a_value_or_bad_input(text: str):
    with contextlib.suppress(BadInput):
        yaml_marks.value(text, place="--set")


def test_a_file_becomes_a_study(tmp_path: Path):
    study = study_files.load(tmp_path)
    assert study.study == "tides"
    assert study.base["model.dim"] == 128
    assert study.search["model.ema_decay"] == Range("one_minus_loguniform", 0.3, 0.999)
    assert study.search["model.knowledge_length"] == Choice((4, 8, 16))
    assert study.objectives == (Objective(metric="val_loss", mode="min"),)
    assert study.early_stopping == EarlyStopping(asha=Asha(min_tokens=1_000, reduction=3), audit_fraction=0.0)
    assert study.ablation is None
    assert study.resources.gpu == "auto"
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.study = "other"  # pyright: ignore[reportAttributeAccessIssue]


def test_numbers_may_be_written_in_exponent_notation(tmp_path: Path):
    study = study_files.load(tmp_path, "early_stopping.asha.min_tokens=5e4", "base.train.lr=1e-3")
    assert study.early_stopping == EarlyStopping(asha=Asha(min_tokens=50_000, reduction=3))
    assert study.base["train.lr"] == 0.001


def test_the_mode_of_an_objective_defaults_to_the_metrics_better_direction(tmp_path: Path):
    study = study_files.load(tmp_path, "objective={metric: fact_accuracy}")
    assert study.objectives == (Objective(metric="fact_accuracy", mode="max"),)


def test_objective_may_be_a_list(tmp_path: Path):
    sets = ("objective=[{metric: val_loss}, {metric: peak_gib, mode: min}]", "early_stopping=null")
    assert [objective.metric for objective in study_files.load(tmp_path, *sets).objectives] == ["val_loss", "peak_gib"]


def test_settings_reach_every_section_and_the_last_one_wins(tmp_path: Path):
    study = study_files.load(
        tmp_path,
        "study=other",
        "optimizer.trials=3",
        "optimizer.trials=4",
        "base.model.dim=64",
        "base.data={corpus: pydoc}",
        "search.train.lr={loguniform: [1e-4, 1e-2]}",
        "resources.gpu=0.5",
        "resources.gpu_memory_gib=20",
        "resources.mps=off",
        "ablation.seeds=6",
        "ablation.arms.wide.model.dim=256",
    )
    assert study.study == "other"
    assert study.optimizer.trials == 4
    assert (study.base["model.dim"], study.base["data.corpus"]) == (64, "pydoc")
    assert list(study.search) == ["model.ema_decay", "model.knowledge_length", "train.lr"]
    assert study.resources.gpu == 0.5
    assert (study.resources.gpu_memory_gib, study.resources.mps) == (20.0, "off")
    assert study.ablation is not None
    assert study.ablation.arms == {"wide": {"model.dim": 256}}


def test_an_arms_name_may_have_dots(tmp_path: Path):
    text = GOOD + "ablation:\n  seeds: 2\n  exploratory: true\n  arms:\n    v1.4.5: {model.memory: none}\n"
    study = study_files.load(tmp_path, "ablation.arms.v1.4.5.model.dim=64", text=text)
    assert study.ablation is not None
    assert study.ablation.arms == {"v1.4.5": {"model.memory": "none", "model.dim": 64}}


def test_paths_are_relative_to_the_study_file_and_in_settings_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "spaces").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = GOOD.replace("corpus: facts", "corpus: jsonl, train: ../train.jsonl")
    study = study_files.load(tmp_path / "spaces", "base.data.val=../val.jsonl", text=text)
    assert study.base["data.train"] == str(tmp_path / "train.jsonl")
    assert study.base["data.val"] == str(tmp_path / "val.jsonl")


def test_a_budget_in_epochs_replaces_the_presets_tokens(tmp_path: Path):
    study = study_files.load(tmp_path, "base.train.epochs=2")
    assert (study.base["train.tokens"], study.base["train.epochs"]) == (None, 2.0)


def test_a_missing_data_file_of_an_arm_is_reported(tmp_path: Path):
    arms = "{more: {data: {corpus: jsonl, train: more.jsonl}}}"
    study = study_files.load(tmp_path, text=GOOD + f"ablation: {{seeds: 6, arms: {arms}}}\n")
    (error,) = study_file.missing_data(study)
    assert error.key == "data.train"
    assert error.place == f"{study.file}:10"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1 + 0.2, "0.3"), (0.999, "0.999"), (1e-4, "0.0001"), (3, "3"), (True, "True"), ("a", "a")]
)
def test_a_bound_is_shown_as_it_was_written(value: object, shown: str) -> None:
    assert bound(value) == shown
