"""What a report says of what was trained: base, budget, epochs, parameters, each arm's change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.analyze.trained import trained
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.render import pages
from ablate.trainers import recorded
from ablate.trainers.recorded import Subject
from tests import ROOT, synthetic
from tests.study_files import resolve
from tests.synthetic import SPACE, TWO_ARMS, ablated, add_search, study_json


def page_of(study_dir: Path) -> str:
    return pages.to_markdown(writer.compose(writer.findings_of(study_dir)))


def test_base_values_stand_beside_those_of_the_preset(tmp_path: Path):
    ledger = ablated(tmp_path / "s", TWO_ARMS, ran=2, base={"model.memory": "none", "train.lr": 0.0123})
    out = writer.write(ledger.root, formats=["md", "csv"])
    base: Any = pd.read_csv(out / "tables" / "base.csv").set_index("parameter")
    preset = resolve("tiny", {})
    assert set(base.index) == {"model.memory", "train.lr"}, "the synthetic study repeats other values of its preset"
    assert base["base"]["train.lr"] == "0.0123"
    assert base["default"]["train.lr"] == str(preset["train.lr"])


def test_an_unchanged_preset_is_said_to_be_unchanged(tmp_path: Path):
    ledger = Ledger(tmp_path / "s")
    ledger.write_study(study_json(name="s", arms=TWO_ARMS))
    assert "The base is the preset `tiny`, unchanged." in page_of(ledger.root)


def test_budget_epochs_parameters_and_changes_of_each_arm(tmp_path: Path):
    ledger = ablated(tmp_path / "s", TWO_ARMS, ran=2)
    out = writer.write(ledger.root, formats=["md", "csv"])
    page = (out / "report.md").read_text()
    assert (
        "A trial's budget is 204,800 tokens: 3.2 epochs, as one pass over the training data has 64,000 tokens" in page
    )
    table: Any = pd.read_csv(out / "tables" / "trained.csv").set_index("group")
    assert table["changes"].to_dict() == {
        "baseline": "the base", "blind": "model.memory = blind", "token": "model.memory = token",
    }  # fmt: skip
    assert table["parameters"].tolist() == [1_300_000] * 3
    assert table["active_parameters"].tolist() == [1_040_000] * 3
    assert table["epochs"].tolist() == [3.2] * 3


def test_a_search_lists_what_it_searched(tmp_path: Path):
    ledger = Ledger(tmp_path / "s")
    ledger.write_study(study_json(name="s", space=SPACE, trials=4))
    add_search(ledger, count=4)
    row: Any = pd.read_csv(writer.write(ledger.root, formats=["csv"]) / "tables" / "trained.csv").iloc[0]
    assert (row["group"], row["changes"]) == ("search", ", ".join(str(entry["key"]) for entry in SPACE))


def test_what_rows_did_not_record_is_asked_of_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in results of before epoch_tokens, or of a trainer that measures no parameters."""
    measured = synthetic.metrics

    def fewer(**given: object) -> dict[str, object]:
        left_out = ("parameters", "active_parameters", "epoch_tokens")
        return {name: value for name, value in measured(**given).items() if name not in left_out}  # pyright: ignore

    monkeypatch.setattr(synthetic, "metrics", fewer)
    trained = writer.findings_of(ablated(tmp_path / "s", TWO_ARMS, ran=1).root).trained
    costs = [resolve("tiny", {"model.memory": memory, "train.seed": 1}).cost for memory in ("none", "blind", "token")]
    assert [entry.active.low for entry in trained] == [cost.active_parameters for cost in costs]
    assert [entry.parameters.low for entry in trained] == [cost.parameters for cost in costs]
    assert 1_000 < trained[0].epoch.low < 1_000_000
    assert trained[0].epochs.low == pytest.approx(204_800 / trained[0].epoch.low)


def test_a_trainer_that_cannot_be_asked_leaves_a_report_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(recorded, "subject", lambda *_, **__: Subject(None, {}, None))
    page = page_of(ablated(tmp_path / "s", TWO_ARMS, ran=1).root)
    assert "the study's trainer could not be asked" in page
    assert "A trial's budget is 204,800 tokens: 3.2 epochs" in page, "rows have recorded it"


def test_the_committed_example_says_its_epochs():
    findings = writer.findings_of(ROOT / "results" / "memory")
    assert {entry.group: entry.epochs.known for entry in findings.trained} == dict.fromkeys(
        ["baseline", *findings.data.arms], True
    )


def test_a_searched_budget_is_a_span_and_a_trial_that_never_began_is_not_in_it():
    rows = pd.DataFrame({
        "arm": "search", "config_json": "", "budget_tokens": [1_024, 2_048, 0], "epoch_tokens": [512.0, 512.0, None],
        "parameters": [10.0, 30.0, None], "active_parameters": [5.0, 5.0, None],
    })  # fmt: skip
    (search,) = trained(rows, declared=[], costs={}, epoch=None)
    assert (search.budget.low, search.budget.high) == (1_024, 2_048)
    assert (search.epochs.low, search.epochs.high) == (2, 4)
    assert (search.parameters.low, search.parameters.high) == (10, 30)


def test_what_nobody_knows_is_not_said_to_be_known():
    rows = pd.DataFrame({"arm": "search", "config_json": "", "budget_tokens": [0, 0]})
    for name in ("epoch_tokens", "parameters", "active_parameters"):
        rows[name] = float("nan")
    (search,) = trained(rows, declared=[], costs={}, epoch=None)
    assert not any(
        span.known for span in (search.parameters, search.active, search.budget, search.epoch, search.epochs)
    )
