"""Reports of studies in different states: not begun, running, killed, without results, with one pair or many, with A/A
arms alone, with hypotheses declared after results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate import status
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.render import pages
from ablate.report.sections.experiment import record_document
from ablate.report.sections.summary import summary
from ablate.study import lifecycle
from tests import synthetic
from tests.synthetic import SPACE, TWO_ARMS, ablated, add_search, add_trial, metrics, study_json


def summary_of(study_dir: Path) -> str:
    return summary(writer.findings_of(study_dir)).plain


def page_of(study_dir: Path) -> str:
    """report.md, without drawing its figures."""
    return pages.to_markdown(writer.compose(writer.findings_of(study_dir)))


def test_report_of_a_study_without_ended_trials(tmp_path: Path):
    ledger = Ledger(tmp_path / "new")
    ledger.write_study(study_json(name="new", space=SPACE, arms=synthetic.ARMS))
    written = writer.write(ledger.root)
    assert summary_of(ledger.root) == "No trial has ended yet: 0 of 36 planned trials."
    assert "36 did not start" in (written / "report.html").read_text()


def test_report_of_a_study_whose_trials_all_failed(tmp_path: Path):
    ledger = Ledger(tmp_path / "broken")
    ledger.write_study(study_json(name="broken", space=SPACE, trials=1))
    rng = np.random.default_rng(0)
    error = ("OutOfMemoryError", "CUDA out of memory")
    add_trial(ledger, params=synthetic.draw(rng), status="oom", error=error, share=0.1)
    page = page_of(ledger.root)
    assert "1 of 1 planned trial has ended (1 oom). No trial succeeded" in page
    assert "OutOfMemoryError: CUDA out of memory" in page


@pytest.mark.parametrize("trials", [1, 4])
def test_report_of_a_search_whose_trials_were_all_pruned(trials: int, tmp_path: Path):
    ledger = Ledger(tmp_path / "pruned")
    ledger.write_study(study_json(name="pruned", space=SPACE, trials=trials))
    rng = np.random.default_rng(0)
    for order in range(trials):
        measured = metrics(val_loss=3.0 + order)
        add_trial(ledger, params=synthetic.draw(rng), status="pruned", measured=measured, share=0.3, order=order)
    assert f"{trials} pruned" in summary_of(ledger.root)
    assert "No trial of the search completed with a val_loss." in page_of(ledger.root)


@pytest.mark.parametrize("value", [1e308, -1e308, 2e154, 5e-324], ids=str)
@pytest.mark.parametrize("metric", ["val_loss", "bank_use_nats", "tokens_per_s", "unigram_floor"])
def test_absurd_measure_is_kept_and_compared_with_nothing(metric: str, value: float, tmp_path: Path):
    """Finite values whose squares or differences overflow. Warnings are errors in all tests."""
    ledger = absurd(tmp_path / "absurd", {metric: value})
    page = page_of(ledger.root)
    assert not re.search(r"[\d,]{40}", page), "no number of 300 digits"
    assert value in ledger.trials().column(metric).to_pylist()
    shown = status.render(status.collect(ledger))
    assert "best so far: val_loss" in shown
    if metric == "val_loss" and abs(value) > 1:
        assert "best so far: val_loss 3.0000" in shown
        assert "The lowest val_loss of the search is 3.0" in summary_of(ledger.root)


@pytest.mark.slow
@pytest.mark.figures
@pytest.mark.parametrize("value", [1e308, -1e308], ids=str)
def test_figures_of_a_study_with_an_absurd_measure(value: float, tmp_path: Path):
    assert list((writer.write(absurd(tmp_path / "absurd", {"val_loss": value}).root) / "figures").iterdir())


def absurd(root: Path, measured: dict[str, float]) -> Ledger:
    """A search and an ablation with one such trial in each."""
    ledger = Ledger(root)
    ledger.write_study(study_json(name=root.name, space=SPACE, arms=TWO_ARMS, seeds=6, base=synthetic.NO_MEMORY))
    rng = np.random.default_rng(0)
    for index in range(4):
        odd = measured if index == 1 else {}
        add_trial(ledger, params=synthetic.draw(rng), measured=metrics(val_loss=3 + index / 100) | odd, order=index)
    for seed in range(1, 4):
        for arm, overrides in {"baseline": {}, **TWO_ARMS}.items():
            odd = measured if (arm, seed) == ("blind", 2) else {}
            found = metrics(val_loss=3 + seed / 100) | odd
            add_trial(ledger, arm=arm, seed=seed, params=overrides, base=synthetic.NO_MEMORY, measured=found, order=9)
    return ledger


def test_summary_says_that_nothing_was_learned_and_no_effect_is_shown(tmp_path: Path):
    ledger = Ledger(tmp_path / "flat")
    token = {"token": synthetic.ARMS["token"]}
    ledger.write_study(study_json(name="flat", arms=token, seeds=3, base=synthetic.NO_MEMORY))
    for seed in (1, 2, 3):
        for arm, params in {"baseline": {}, **token}.items():
            measured = metrics(val_loss=4.2, bank_use=None)
            add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured, base=synthetic.NO_MEMORY)
    text = summary_of(ledger.root)
    assert "0.100 nats above the unigram floor" in text
    assert "Nothing was learned there beyond token frequencies" in text
    assert "its 95% interval [0.000, 0.000] holds 0 (n = 3, exact p 1.0, Holm 1.0): no effect is shown." in text
    assert "no adjusted p can be smaller than 0.25" in text


def test_report_of_a_killed_study_lists_unfinished_trials_and_unreadable_files(tmp_path: Path):
    ledger = Ledger(tmp_path / "killed")
    ledger.write_study(study_json(name="killed", space=SPACE))
    add_search(ledger, count=5, failed=False)
    half = add_trial(ledger, params=synthetic.draw(np.random.default_rng(9)), share=0.4, final=False)
    ledger.path("trials", "aaaaaaaaaaaa.parquet").write_bytes(b"PAR1 cut off")
    page = page_of(ledger.root)
    assert "5 trials of 12 ended; 1 started and did not end; 6 did not start." in page
    assert half in page
    assert "1 file could not be read" in page
    assert "aaaaaaaaaaaa.parquet" in page
    assert "unfinished" in page


def test_report_says_why_the_ablation_after_a_search_has_not_begun(tmp_path: Path):
    ledger = Ledger(tmp_path / "lost")
    ledger.write_study(study_json(name="lost", space=SPACE, trials=2, arms=TWO_ARMS, ablation={"baseline": "best"}))
    rng = np.random.default_rng(9)
    add_trial(ledger, params=synthetic.draw(rng), status="nan")
    page = page_of(ledger.root)
    assert "its arms wait for the search to end" in page
    add_trial(ledger, params=synthetic.draw(rng), status="nan")
    page = page_of(ledger.root)
    assert f"The ablation has not begun: {lifecycle.NO_WINNER}." in page
    assert "its arms wait" not in page


def test_summary_names_a_tie_and_no_winner(tmp_path: Path):
    ledger = Ledger(tmp_path / "tie")
    ledger.write_study(study_json(name="tie", space=SPACE, trials=3))
    rng = np.random.default_rng(9)
    tied = [add_trial(ledger, params=synthetic.draw(rng), measured=metrics(val_loss=2.5)) for _ in range(2)]
    add_trial(ledger, params=synthetic.draw(rng), measured=metrics(val_loss=2.75))
    said = summary_of(ledger.root)
    first, second = sorted(tied)
    assert f"2 trials tie at the lowest val_loss of the search, 2.500 nats/token ({first}, {second}): " in said
    assert "no winner among them" in said
    assert "The lowest val_loss of the search is" not in said
    assert "one of 2 trials that tie" in page_of(ledger.root)


# ---- arms that have not begun

NOT_BEGUN: dict[str, tuple[dict[str, Any], str]] = {
    "arm": ({"arms": TWO_ARMS}, "ablation"),
    "leave_one_out": ({"ablation": {"leave_one_out": synthetic.COMPONENTS}}, "leave_one_out"),
    "add_one_in": ({"ablation": {"add_one_in": synthetic.COMPONENTS}}, "add_one_in"),
    "factorial": ({"ablation": {"factorial": synthetic.FACTORS}}, "factorial_cells"),
    "reseed": ({"arms": {"again": {"reseed": True}}}, "noise"),
}
"""Design -> (arguments of study_json, label of its table)."""


@pytest.mark.parametrize("design", NOT_BEGUN)
def test_report_of_a_design_whose_arms_have_not_begun(design: str, tmp_path: Path):
    ledger, (study, label) = Ledger(tmp_path / design), NOT_BEGUN[design]
    ledger.write_study(study_json(name=design, seeds=8, **study))
    add_trial(ledger, arm="baseline", seed=1, measured=metrics(val_loss=2.9))
    assert "No arm shares a completed seed with the baseline yet." in summary_of(ledger.root)
    out = writer.write(ledger.root)
    assert {f"report.{suffix}" for suffix in writer.PAGES} <= {path.name for path in out.iterdir()}
    assert {f"{label}.{suffix}" for suffix in writer.TABLES} <= {path.name for path in (out / "tables").iterdir()}


def test_summary_names_arms_without_a_pair(tmp_path: Path):
    skip = [("token", 1), ("token", 2)]
    ledger = ablated(tmp_path / "half", TWO_ARMS, ran=2, skip=skip, seeds=6, differences={"blind": -0.3})
    said = summary_of(ledger.root)
    assert "blind lowers val_loss" in said
    assert "1 other arm (token) shares no completed seed with the baseline." in said


def test_pending_pairs_are_not_counted_as_dropped(tmp_path: Path):
    ledger = ablated(tmp_path / "waits", TWO_ARMS, ran=3, skip=[("token", 3), ("blind", 3)], seeds=8)
    page = page_of(ledger.root)
    assert "No pair was dropped. Pairs of which only one run has ended: 2." in page


# ---- few and many


def test_summary_groups_many_arms_by_what_their_interval_shows(tmp_path: Path):
    arms = {f"a{index}": {"train.balance_loss_coef": 0.01 * (index + 2)} for index in range(8)}
    one = summary_of(ablated(tmp_path / "one", arms, ran=1, seeds=10).root)
    assert "8 arms (a0, a1, a2, a3, a4, a5, a6, a7) share one seed with the baseline: no interval yet." in one
    assert "holds 0" not in one
    skip = [("a7", seed) for seed in range(2, 11)]
    most = summary_of(ablated(tmp_path / "most", arms, ran=10, skip=skip, differences={"a0": 1.0}).root)
    assert "a0 raises val_loss" in most
    assert re.search(r"For 6 other arms \(a1, .*, a6\) the 95% interval of the difference in val_loss holds 0", most)
    assert "1 other arm (a7) shares one seed with the baseline: no interval yet." in most


def test_p_of_more_pairs_than_max_exact_is_drawn_and_noted(tmp_path: Path):
    arms = {"token": TWO_ARMS["token"], "later": TWO_ARMS["blind"]}
    skip = [("later", seed) for seed in range(1, 42)]
    ledger = ablated(tmp_path / "many", arms, ran=41, skip=skip, differences={"token": -0.2})
    findings = writer.findings_of(ledger.root)
    token, _ = findings.primary.claims
    assert token.p_exact == pytest.approx(1e-5)
    assert token.p_holm == pytest.approx(token.smallest_p_holm) == pytest.approx(2e-5)
    said = summary(findings).plain
    assert "token lowers val_loss" in said
    assert "does not reject" not in said
    assert "sign-flip p <0.0001" in said
    page = page_of(ledger.root)
    assert "Of more than 40 pairs the sign-flip test draws 99,999 sign patterns, seeded" in page


def test_power_is_given_for_each_test_that_can_reject(tmp_path: Path):
    arms = {**TWO_ARMS, "third": {"train.balance_loss_coef": 0.02}}
    said = summary_of(ablated(tmp_path / "eight", arms, ran=8).root)
    assert re.search(
        r"no effect is shown; with power 0\.8 a t test at 0\.05/3 finds a true difference of 0\.\d+, "
        r"the declared test one of 0\.\d+\.",
        said,
    )
    few = summary_of(ablated(tmp_path / "few", arms, ran=4).root)
    assert "no effect is shown." in few
    assert "with power" not in few, "the declared test cannot reject"
    page = page_of(tmp_path / "eight")
    assert re.search(r"The declared test, at Holm's first step, finds 1\.\d\d times the mde with that power", page)


def test_report_of_aa_arms_alone_shows_noise_and_no_test(tmp_path: Path):
    again = {"again": {"reseed": True}}
    ledger = ablated(tmp_path / "noise", again, ran=6, base={}, ablation={"exploratory": True})
    said = summary_of(ledger.root)
    assert "The A/A arm again, which differs only in its random streams, differs in val_loss by" in said
    assert "exploratory" not in said
    assert "No arm shares" not in said
    page = page_of(ledger.root)
    assert "The declared test is" not in page
    assert "0 arms" not in page
    first = ablated(tmp_path / "first", again, ran=1, base={})
    assert "on the one seed they share: no interval yet." in summary_of(first.root)


def test_gain_in_memory_size_is_not_credited_to_the_memory(tmp_path: Path):
    objectives = [{"metric": "val_loss", "mode": "min"}, {"metric": "peak_gib", "mode": "min"}]
    ledger = ablated(tmp_path / "two", TWO_ARMS, ran=8, differences={"token": -0.2}, objectives=objectives)
    said = summary_of(ledger.root)
    assert said.count("The gain of token may be credited to its memory") == 1
    assert "token lowers peak_gib" in said
    out = writer.write(ledger.root, formats=["csv"])
    by_loss, by_size = (
        dict(zip(table["arm"], table["memory"], strict=True))
        for table in (pd.read_csv(out / "tables" / name) for name in ("ablation.csv", "ablation_peak_gib.csv"))
    )
    assert by_loss["token"] == "yes"
    assert (by_size["blind"], by_size["token"]) == ("—", "—")


# ---- claims


def test_hypothesis_declared_after_results_is_marked_exploratory(tmp_path: Path):
    early = {"claim": "It helps", "arm": "token", "metric": "val_loss", "min_effect": 0.05}
    late = {**early, "claim": "It helps much", "min_effect": 0.1, "declared_at": "2026-03-02T09:00:00.000000+00:00"}
    before = {**late, "claim": "Said in time", "declared_at": "2026-03-01T11:00:00.000000+00:00"}
    ledger = ablated(tmp_path / "late", TWO_ARMS, ran=9, differences={"token": -0.3}, hypotheses=[early, late, before])
    findings = writer.findings_of(ledger.root)
    page = pages.to_markdown(writer.compose(findings))
    assert "Hypothesis “It helps”: supported." in page
    assert "Hypothesis “It helps much” (‡, declared after results): supported." in page
    assert "Hypothesis “Said in time”: supported." in page
    assert (
        "‡ Exploratory, “It helps much”: declared (2026-03-02 09:00 UTC) after 9 of the arm's runs had ended." in page
    )
    run = findings.data.trials.query("arm == 'token'")["trial_id"].iloc[0]
    record = pages.to_markdown(record_document(findings, run))
    assert "Claimed before it was trained: It helps (val" in record
    assert "Claimed before it was trained: It helps much" not in record
    assert "Exploratory, declared (2026-03-02 09:00 UTC) after 9 of the arm's runs had ended: It helps much" in record
