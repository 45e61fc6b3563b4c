"""What the report says of a study's positive control, its noise floor, its targets and its variance."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.sections.sensitivity import NO_CONTROL
from ablate.report.sections.summary import Answer, answer
from tests.synthetic import TWO_ARMS, ablated

ARMS = {**TWO_ARMS, "aa": {"reseed": True}}
SAME = {"claim": "The gate does nothing", "arm": "blind", "metric": "val_loss", "min_effect": 0.05}
REACHED = {"claim": "It reaches 2.85", "arm": "token", "metric": "val_loss", "target": 2.85}


def study(folder: Path, *, gain: float, control: str | None = "token", ran: int = 8, **more: Any) -> Ledger:
    differences = {"token": -gain}
    asked: dict[str, Any] = {"ablation": {"control": control}, "hypotheses": [SAME, REACHED], **more}
    return ablated(folder / "study", ARMS, ran=ran, differences=differences, **asked)


def page_of(ledger: Ledger) -> str:
    return (writer.write(ledger.root, formats=["md", "csv"]) / "report.md").read_text(encoding="utf-8")


def first_sentence(page: str) -> str:
    return next(line for line in page.splitlines() if line.startswith("**Summary.** ")).removeprefix("**Summary.** ")


def answer_of(ledger: Ledger) -> Answer:
    return answer(writer.findings_of(ledger.root))


def verdicts(found: Answer) -> list[tuple[str, str | None]]:
    return [(entry["verdict"], entry["withheld"]) for entry in found.hypotheses]


def test_a_seen_control_comes_first_and_verdicts_stay(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1)
    page, found = page_of(ledger), answer_of(ledger)
    assert first_sentence(page).startswith("Sensitivity: seen. The positive control `token` lowers val_loss by 0.")
    assert "(exact p 0.0078). 32 of 32 planned trials" in first_sentence(page)
    assert found.sensitivity is not None
    assert (found.sensitivity["control"], found.sensitivity["seen"]) == ("token", True)
    assert found.sensitivity["p_exact"] == pytest.approx(2**-7)
    assert found.sensitivity["low"] < found.sensitivity["difference"] < found.sensitivity["high"] < 0
    assert found.sentences[0].startswith("Sensitivity: seen. The positive control token lowers val_loss by")
    assert verdicts(found) == [("equivalent", None), ("supported", None)]
    assert NO_CONTROL not in page
    assert json.loads(json.dumps(asdict(found))) == json.loads(json.dumps(asdict(found), allow_nan=False))


def test_the_control_is_outside_of_holms_family_in_the_table(tmp_path: Path):
    page = page_of(study(tmp_path, gain=0.1))
    (row,) = [line for line in page.splitlines() if line.startswith("| token (control)")]
    assert [cell.strip() for cell in row.split("|")][8] == "—", "no adjusted p"
    assert row.rstrip("| ").endswith("| yes"), "its gain is shown by its unadjusted p, and its bank is read"
    assert "token is the positive control: it stands outside of Holm's family" in page
    assert "adjusted by Holm over the 1 arm of the study" in page
    assert "the diamond is the positive control" in page


def test_an_unseen_control_withholds_equality(tmp_path: Path):
    ledger = study(tmp_path, gain=0.0)
    page, found = page_of(ledger), answer_of(ledger)
    assert first_sentence(page).startswith("Sensitivity: not seen. The positive control `token` differs in val_loss by")
    assert "So a missing difference says nothing here. " in first_sentence(page)
    assert verdicts(found)[0] == ("inconclusive", "equivalent")
    why = "inconclusive (its numbers alone say equivalent, but the study did not see its positive control"
    assert page.count(why) == 2, "in the summary and under the table"
    table = pd.read_csv(ledger.root / "report/tables/hypotheses.csv")
    assert table["verdict"].tolist() == ["inconclusive"]


def test_a_control_that_is_worse_is_not_seen(tmp_path: Path):
    found = answer_of(study(tmp_path, gain=-0.1))
    assert found.sensitivity is not None
    assert found.sensitivity["seen"] is False
    assert found.sentences[0].startswith(
        "Sensitivity: not seen. The positive control token differs in val_loss by +0.09"
    )


def test_a_control_without_pairs_is_not_known_yet(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1, skip={("token", seed) for seed in range(1, 8)})
    found = answer_of(ledger)
    said = "Sensitivity: not known yet. The positive control token shares 1 completed seed with the baseline."
    assert found.sentences[0] == said
    assert found.sensitivity is not None
    assert (found.sensitivity["seen"], found.sensitivity["low"]) == (None, None)
    assert verdicts(found)[0] == ("inconclusive", "equivalent")


def test_a_study_without_a_control_says_so_once_near_its_verdicts(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1, control=None)
    page = page_of(ledger)
    assert page.count(NO_CONTROL) == 1
    assert not first_sentence(page).startswith("Sensitivity")
    assert page.index("Hypothesis “It reaches 2.85”") < page.index(NO_CONTROL)
    assert answer_of(ledger).sensitivity is None
    assert verdicts(answer_of(ledger))[0] == ("equivalent", None)


def test_a_control_alone_is_a_study(tmp_path: Path):
    alone = ablated(tmp_path / "alone", {"token": ARMS["token"]}, ran=6, ablation={"control": "token"})
    assert answer_of(alone).verdict == "the study has its positive control alone"
    assert "token (control)" in page_of(alone)


def test_the_noise_floor_stands_beside_every_effect(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1)
    page, (floor,) = page_of(ledger), answer_of(ledger).noise_floor
    table = pd.read_csv(ledger.root / "report/tables/noise.csv").set_index("AA_arm")
    assert floor["arm"] == "aa"
    assert [floor["low"], floor["high"]] == pytest.approx(table.loc["aa", ["interval_low", "interval_high"]].tolist())
    assert page.count("Noise floor: the A/A arm aa, which changes nothing, differs by") == 1
    assert "the grey band is their 95% interval, the noise floor" in page
    bare = ablated(tmp_path / "bare", TWO_ARMS, ran=6)
    assert answer_of(bare).noise_floor == ()
    assert "noise floor" not in page_of(bare)


def test_a_fixed_target_has_its_table(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1)
    page = page_of(ledger)
    (row,) = pd.read_csv(ledger.root / "report/tables/fixed_targets.csv").to_dict("records")
    assert (row["arm"], row["n"], row["target"], row["alpha"]) == ("token", 8, 2.85, 0.01)
    assert row["p_exact"] == pytest.approx(2**-8)
    assert row["verdict"] == "supported"
    assert "Hypothesis “It reaches 2.85”: supported." in page


def test_the_record_of_a_trial_has_the_target_too(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1)
    findings = writer.findings_of(ledger.root)
    trial_id = str(findings.data.trials.query("arm == 'token'")["trial_id"].iloc[0])
    out = writer.write_record(findings, trial_id, formats=["md"])
    assert "It reaches 2.85 (val_loss of 2.85 nats/token or better)" in (out / f"{trial_id}.md").read_text()


def test_the_variance_has_its_table(tmp_path: Path):
    ledger = study(tmp_path, gain=0.1)
    page = page_of(ledger)
    rows: Any = pd.read_csv(ledger.root / "report/tables/variance.csv").to_dict("records")
    share = {row["component"]: row["share"] for row in rows}
    assert share["seed"] + share["arm by seed"] == pytest.approx(1)
    assert "the variance of a paired difference is" in page
