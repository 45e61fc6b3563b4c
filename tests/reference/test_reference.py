"""docs/reference/: its pages are current, and everything that they list is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from ablate.records.schema import HISTORY_COLUMNS, TRIAL_ENDS, TRIAL_STARTS
from ablate.reference import __main__ as reference
from ablate.reference import commands, configuration, markdown, study_file
from ablate.reference.fields import descriptions, kind, shown
from ablate.trainers import token_memory_pages
from model.api import KEYS
from tests import ROOT


def test_the_pages_are_current(capsys: pytest.CaptureFixture[str]):
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_the_folder_has_no_other_pages():
    assert {path.name for path in (ROOT / "docs" / "reference").iterdir()} == set(reference.PAGES)


def test_a_stale_page_is_named_and_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reference.main([], folder=tmp_path)
    good = (tmp_path / "columns.md").read_text(encoding="utf-8")
    (tmp_path / "columns.md").write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert reference.main(["--check"], folder=tmp_path) == 1
    assert "columns.md is stale: run python -m ablate.reference" in capsys.readouterr().err
    assert (tmp_path / "columns.md").read_text(encoding="utf-8") == "old", "--check writes nothing"
    assert reference.main([], folder=tmp_path) == 0
    assert (tmp_path / "columns.md").read_text(encoding="utf-8") == good


def test_every_command_that_can_be_run_is_listed():
    mains = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for package in ("ablate", "model")
        for path in (ROOT / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8") or path.name == "__main__.py"
    }
    written_for = {"ablate.reference", "ablate.reference.columns", "ablate.columns"}
    internal = {"ablate.trainers", "ablate.trainers.own.supervise", "ablate"}  # the last only hands on
    assert mains - written_for - internal == set(reference.parsers())


@pytest.mark.parametrize("command", reference.parsers())
def test_a_command_its_arguments_and_its_examples_are_explained(command: str):
    parser = reference.parsers()[command]
    assert parser.prog == f"python -m {command}"
    assert parser.description
    assert all(action.help for action in commands.actions(parser))
    assert any(example.startswith(parser.prog) for example in commands.examples(parser))


def test_every_parameter_is_listed_and_explained():
    listed = [one for section in token_memory_pages.sections() for one in configuration.parameters(section)]
    assert [one.key for one in listed] == list(KEYS)
    assert not [one.key for one in listed if not one.about]


def test_every_key_of_a_study_file_is_explained():
    listed = {
        key: about for name, model in study_file.MODELS.items() for key, _, _, about in study_file.fields(name, model)
    }
    assert {"early_stopping.asha.min_tokens", "ablation.tune_each_arm.over", "resources.gpu"} <= listed.keys()
    assert not [key for key, about in listed.items() if not about]


def test_every_column_is_explained():
    assert not [column.name for column in (*TRIAL_STARTS, *TRIAL_ENDS, *HISTORY_COLUMNS) if not column.about]


class Example(BaseModel):
    """A model of a few fields."""

    count: int = Field(ge=1, lt=2_000)
    """How many
    there are."""
    share: float | Literal["auto"] | None = Field(default=None, gt=0)
    names: tuple[str, ...] = ("a", "b")
    """What they are called."""


def test_a_field_is_told_in_words():
    told = {name: kind(field) for name, field in Example.model_fields.items()}
    assert told == {"count": "whole number ≥ 1, < 2,000", "share": "`auto`, number > 0", "names": "list"}


def test_a_description_is_the_docstring_under_its_field():
    found = descriptions(Example)
    assert markdown.prose(found["count"]) == "How many there are."
    assert (found["share"], found["names"]) == ("", "What they are called.")


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "—"), (True, "true"), (1_048_576, "1_048_576"), (2e-4, "0.0002"), (("a", "b"), "[a, b]"), ({}, "—")],
)
def test_a_value_is_shown_as_a_file_has_it(value: object, written: str):
    assert shown(value) == written


def test_a_page_that_a_docstring_names_becomes_a_link():
    assert markdown.prose("see docs/gpus.md") == "see [docs/gpus.md](../gpus.md)"
    assert markdown.prose("docs/reference/columns.md") == "[docs/reference/columns.md](columns.md)"


def test_a_bar_in_a_cell_ends_no_cell():
    assert markdown.table(["a"], [["best|ID"]]).splitlines()[-1] == r"| best\|ID |"
