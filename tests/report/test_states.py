"""The report of studies in every state: not begun, under way, without a result, with one pair or with very many, of A/A
arms alone; and of claims that came after results."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.findings import analyse
from ablate.report.sections.designs import RULES
from ablate.report.sections.summary import answer
from ablate.study import lifecycle
from ablate.study.dataset import read
from tests import synthetic
from tests.synthetic import NO_MEMORY, SPACE, add_search, add_trial, metrics, study_json

TWO_ARMS = {"blind": {"model.memory": "blind"}, "token": {"model.memory": "token"}}


def words_of(study_dir: Path) -> str:
    """The first paragraph."""
    return answer(writer.findings_of(study_dir)).plain


def ablated(
    root: Path,
    arms: Mapping[str, Mapping[str, Any]],
    *,
    ran: int,
    differences: Mapping[str, float] | None = None,
    skip: Collection[tuple[str, int]] = (),
    **study: Any,
) -> Ledger:
    """An ablation of which so many seeds ran. `differences`: arm -> its true one; `skip`: runs that did not end yet."""
    ledger = Ledger(root)
    ledger.write_study(study_json(name=root.name, arms=arms, **{"seeds": ran, "base": NO_MEMORY, **study}))
    rng = np.random.default_rng(3)
    for seed in range(1, ran + 1):
        for arm, overrides in {"baseline": {}, **arms}.items():
            loss = 2.9 + (differences or {}).get(arm, 0.0) + float(rng.normal(0, 0.01))
            measured = metrics(
                val_loss=loss,
                bank_use=None if arm == "baseline" else 0.05 + float(rng.normal(0, 0.005)),
                peak_gib=0.6 - 0.2 * (arm == "token") + float(rng.normal(0, 0.001)),
            )
            params = {"train.reseed": 1} if "reseed" in overrides else overrides
            if (arm, seed) not in skip:
                add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured, base=NO_MEMORY, order=seed)
    return ledger


def test_no_trial_yet(tmp_path: Path):
    ledger = Ledger(tmp_path / "new")
    ledger.write_study(study_json(name="new", space=SPACE, arms=synthetic.ARMS))
    written = writer.write(ledger.root)
    assert words_of(ledger.root) == "No trial has ended yet: 0 of 36 planned trials."
    assert "36 did not start" in (written / "report.html").read_text()


def test_no_trial_succeeded(tmp_path: Path):
    ledger = Ledger(tmp_path / "broken")
    ledger.write_study(study_json(name="broken", space=SPACE, trials=1))
    rng = np.random.default_rng(0)
    error = ("OutOfMemoryError", "CUDA out of memory")
    add_trial(ledger, params=synthetic.draw(rng), status="oom", error=error, share=0.1)
    page = (writer.write(ledger.root) / "report.md").read_text()
    assert "1 of 1 planned trial has ended (1 oom). No trial succeeded" in page
    assert "OutOfMemoryError: CUDA out of memory" in page


def test_an_ablation_where_nothing_was_learned_or_nothing_differs_says_so(tmp_path: Path):
    ledger = Ledger(tmp_path / "flat")
    token = {"token": synthetic.ARMS["token"]}
    ledger.write_study(study_json(name="flat", arms=token, seeds=3, base=synthetic.NO_MEMORY))
    for seed in (1, 2, 3):
        for arm, params in {"baseline": {}, **token}.items():
            measured = metrics(val_loss=4.2, bank_use=None)
            add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured, base=synthetic.NO_MEMORY)
    text = words_of(ledger.root)
    assert "0.100 nats above the unigram floor" in text
    assert "Nothing was learned there beyond token frequencies" in text
    assert "its 95% interval [0.000, 0.000] holds 0 (n = 3, exact p 1.0, Holm 1.0): no effect is shown." in text
    assert "no adjusted p can be smaller than 0.25" in text


def test_a_killed_study_says_what_is_missing(tmp_path: Path):
    ledger = Ledger(tmp_path / "killed")
    ledger.write_study(study_json(name="killed", space=SPACE))
    add_search(ledger, count=5, failed=False)
    half = add_trial(ledger, params=synthetic.draw(np.random.default_rng(9)), share=0.4, final=False)
    ledger.path("trials", "aaaaaaaaaaaa.parquet").write_bytes(b"PAR1 cut off")
    page = (writer.write(ledger.root) / "report.md").read_text()
    assert "5 trials of 12 ended; 1 started and did not end; 6 did not start." in page
    assert half in page
    assert "1 file could not be read" in page
    assert "aaaaaaaaaaaa.parquet" in page
    assert "unfinished" in page


def test_a_search_without_a_winner_says_why_its_ablation_has_not_begun(tmp_path: Path):
    ledger = Ledger(tmp_path / "lost")
    ledger.write_study(study_json(name="lost", space=SPACE, trials=2, arms=TWO_ARMS, ablation={"baseline": "best"}))
    rng = np.random.default_rng(9)
    add_trial(ledger, params=synthetic.draw(rng), status="nan")
    page = (writer.write(ledger.root, formats=["md"]) / "report.md").read_text()
    assert "its arms wait for the search to end" in page
    add_trial(ledger, params=synthetic.draw(rng), status="nan")
    page = (writer.write(ledger.root, formats=["md"]) / "report.md").read_text()
    assert f"The ablation has not begun: {lifecycle.NO_WINNER}." in page
    assert "its arms wait" not in page


# ---- arms that have not begun

BEGUN: dict[str, tuple[dict[str, Any], str]] = {
    "arm": ({"arms": TWO_ARMS}, "ablation"),
    "leave_one_out": ({"ablation": {"leave_one_out": synthetic.COMPONENTS}}, "leave_one_out"),
    "add_one_in": ({"ablation": {"add_one_in": synthetic.COMPONENTS}}, "add_one_in"),
    "factorial": ({"ablation": {"factorial": synthetic.FACTORS}}, "factorial_cells"),
    "reseed": ({"arms": {"again": {"reseed": True}}}, "noise"),
}
"""Design -> what makes a study of it, and its table."""


@pytest.mark.parametrize("design", BEGUN)
def test_a_baseline_that_ended_before_any_arm_is_reported(design: str, tmp_path: Path):
    ledger, (study, label) = Ledger(tmp_path / design), BEGUN[design]
    ledger.write_study(study_json(name=design, seeds=8, **study))
    add_trial(ledger, arm="baseline", seed=1, measured=metrics(val_loss=2.9))
    assert "No arm shares a completed seed with the baseline yet." in words_of(ledger.root)
    out = writer.write(ledger.root)
    assert {f"report.{suffix}" for suffix in writer.PAGES} <= {path.name for path in out.iterdir()}
    assert {f"{label}.{suffix}" for suffix in writer.TABLES} <= {path.name for path in (out / "tables").iterdir()}


def test_an_arm_that_has_not_begun_stands_beside_one_that_has(tmp_path: Path):
    skip = [("token", 1), ("token", 2)]
    ledger = ablated(tmp_path / "half", TWO_ARMS, ran=2, skip=skip, seeds=6, differences={"blind": -0.3})
    writer.write(ledger.root)
    said = words_of(ledger.root)
    assert "blind lowers val_loss" in said
    assert "1 other arm (token) shares no completed seed with the baseline." in said


def test_a_pair_that_waits_for_a_run_is_not_dropped(tmp_path: Path):
    ledger = ablated(tmp_path / "waits", TWO_ARMS, ran=3, skip=[("token", 3), ("blind", 3)], seeds=8)
    page = (writer.write(ledger.root, formats=["md"]) / "report.md").read_text()
    assert "No pair was dropped. Pairs of which only one run has ended: 2." in page
    assert "the baseline's over all its completed runs" in page


# ---- few and many


def test_of_many_arms_those_with_one_pair_have_no_interval_yet(tmp_path: Path):
    arms = {f"a{index}": {"train.balance_loss_coef": 0.01 * (index + 2)} for index in range(8)}
    one = words_of(ablated(tmp_path / "one", arms, ran=1, seeds=10).root)
    assert "8 arms (a0, a1, a2, a3, a4, a5, a6, a7) share one seed with the baseline: no interval yet." in one
    assert "holds 0" not in one
    skip = [("a7", seed) for seed in range(2, 11)]
    most = words_of(ablated(tmp_path / "most", arms, ran=10, skip=skip, differences={"a0": 1.0}).root)
    assert "a0 raises val_loss" in most
    assert re.search(r"For 6 other arms \(a1, .*, a6\) the 95% interval of the difference in val_loss holds 0", most)
    assert "1 other arm (a7) shares one seed with the baseline: no interval yet." in most


def test_more_pairs_than_are_counted_have_a_p_that_is_drawn_and_said_to_be(tmp_path: Path):
    ledger = ablated(tmp_path / "many", TWO_ARMS, ran=45, differences={"token": -0.2})
    findings = writer.findings_of(ledger.root)
    blind, token = findings.primary.claims
    assert token.p_exact == pytest.approx(1e-5)
    assert token.p_holm == pytest.approx(token.smallest_p_holm) == pytest.approx(2e-5)
    assert math.isfinite(blind.p_holm)
    said = answer(findings).plain
    assert "token lowers val_loss" in said
    assert "does not reject" not in said
    assert "sign-flip p <0.0001" in said
    page = (writer.write(ledger.root, formats=["md"]) / "report.md").read_text()
    assert "Of more than 40 pairs the sign-flip test draws 99,999 sign patterns, seeded" in page


def test_what_would_have_been_found_names_its_test(tmp_path: Path):
    arms = {**TWO_ARMS, "third": {"train.balance_loss_coef": 0.02}}
    said = words_of(ablated(tmp_path / "eight", arms, ran=8).root)
    assert re.search(
        r"no effect is shown; a t test at 0\.05/3 would find a true one of 0\.\d+ four times in five, "
        r"the declared test one of 0\.\d+\.",
        said,
    )
    few = words_of(ablated(tmp_path / "few", arms, ran=4).root)
    assert "no effect is shown." in few
    assert "four times in five" not in few, "the declared test cannot reject"
    page = (writer.write(tmp_path / "eight", formats=["md"]) / "report.md").read_text()
    assert re.search(r"The declared test, at Holm's first step, finds 1\.\d\d times the mde with that power", page)


def test_an_ablation_of_aa_arms_alone_tells_the_noise_and_tests_nothing(tmp_path: Path):
    again = {"again": {"reseed": True}}
    ledger = ablated(tmp_path / "noise", again, ran=6, base={}, ablation={"exploratory": True})
    said = words_of(ledger.root)
    assert "The A/A arm again, which differs by nothing but its random streams, differs in val_loss by" in said
    assert "exploratory" not in said
    assert "No arm shares" not in said
    page = (writer.write(ledger.root, formats=["md"]) / "report.md").read_text()
    assert "The declared test is" not in page
    assert "0 arms" not in page
    first = ablated(tmp_path / "first", again, ran=1, base={})
    assert "on the one seed they share: no interval yet." in words_of(first.root)


def test_gains_in_size_are_not_credited_to_a_memory(tmp_path: Path):
    objectives = [{"metric": "val_loss", "mode": "min"}, {"metric": "peak_gib", "mode": "min"}]
    ledger = ablated(tmp_path / "two", TWO_ARMS, ran=8, differences={"token": -0.2}, objectives=objectives)
    said = words_of(ledger.root)
    assert said.count("The gain of token may be credited to its memory") == 1
    assert "token lowers peak_gib" in said
    out = writer.write(ledger.root, formats=["csv"])
    by_loss, by_size = (
        dict(zip(table["arm"], table["memory"], strict=True))
        for table in (pd.read_csv(out / "tables" / name) for name in ("ablation.csv", "ablation_peak_gib.csv"))
    )
    assert by_loss["token"] == "yes"
    assert (by_size["blind"], by_size["token"]) == ("—", "—")


def test_a_pareto_set_is_said_to_be_what_it_is(tmp_path: Path):
    ledger = Ledger(tmp_path / "front")
    objectives = [{"metric": "val_loss", "mode": "min"}, {"metric": "peak_gib", "mode": "min"}]
    ledger.write_study(study_json(name="front", space=SPACE, trials=3, objectives=objectives))
    rng = np.random.default_rng(2)
    for loss, size in ((3.0, 0.5), (2.8, 0.6), (3.1, 0.5)):  # the last is beaten, though not in both
        add_trial(ledger, params=synthetic.draw(rng), measured=metrics(val_loss=loss, peak_gib=size))
    said = words_of(ledger.root)
    assert (
        "The Pareto set is 2 trials of the search: none is beaten by another that is at least as good in every" in said
    )


# ---- claims


def test_a_claim_that_came_after_results_is_marked_and_says_so(tmp_path: Path):
    early = {"claim": "It helps", "arm": "token", "metric": "val_loss", "min_effect": 0.05}
    late = {**early, "claim": "It helps much", "min_effect": 0.1, "declared_at": "2026-03-02T09:00:00.000000+00:00"}
    before = {**late, "claim": "Said in time", "declared_at": "2026-03-01T11:00:00.000000+00:00"}
    ledger = ablated(tmp_path / "late", TWO_ARMS, ran=9, differences={"token": -0.3}, hypotheses=[early, late, before])
    page = (writer.write(ledger.root, formats=["md", "csv"]) / "report.md").read_text()
    assert "Hypothesis “It helps”: supported." in page
    assert "Hypothesis “It helps much” (‡, declared after results): supported." in page
    assert "Hypothesis “Said in time”: supported." in page
    assert (
        "‡ Exploratory, “It helps much”: declared (2026-03-02 09:00 UTC) after 9 of the arm's runs had ended." in page
    )
    found = pd.read_csv(ledger.path("report", "tables", "hypotheses.csv"))
    assert found["verdict"].tolist() == ["supported"] * 3
    findings = writer.findings_of(ledger.root)
    run = findings.data.trials.query("arm == 'token'")["trial_id"].iloc[0]
    record = (writer.write_record(findings, run, formats=["md"]) / f"{run}.md").read_text()
    assert "Claimed before it was trained: It helps (val" in record
    assert "Claimed before it was trained: It helps much" not in record
    assert "Exploratory, declared (2026-03-02 09:00 UTC) after 9 of the arm's runs had ended: It helps much" in record


def test_the_rules_of_the_page_are_those_of_the_verdicts(tmp_path: Path):
    claim = {"claim": "It helps", "arm": "token", "metric": "val_loss", "min_effect": 0.05}
    ledger = ablated(tmp_path / "four", TWO_ARMS, ran=4, differences={"token": -0.3}, hypotheses=[claim])
    (judged,) = analyse(read(ledger.root)).judged
    assert judged.gain.low > claim["min_effect"]
    assert judged.verdict == "inconclusive"
    assert "or lies above it and the exact test does not reject" in RULES.plain
