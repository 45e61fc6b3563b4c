"""The report of a study with every design: tables, CSV against scipy, interim looks, refusals, experiment records."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate import cli, escape
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.render import pages, tables
from ablate.report.render.document import Cell, Code, Column, Document, Listing, Section, Table, notice, words
from ablate.report.sections.summary import summary
from tests import synthetic
from tests.oracles import inference as oracle
from tests.synthetic import ablated, add_trial, designed_study, metrics, study_json


def csv(path: Path) -> Any:
    """A table of the report."""
    return pd.read_csv(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/designed/report."""
    return writer.write(designed_study(tmp_path_factory.mktemp("results") / "designed").root)


def test_every_number_of_ablation_csv_equals_scipy(written: Path):
    table = csv(written / "ablation.csv")
    assert list(table.columns) == [
        "arm", "n", "mean", "ci_low", "ci_high", "baseline_mean", "delta", "delta_low", "delta_high", "p", "p_exact",
        "p_holm", "mde",
    ]  # fmt: skip
    trials = csv(written / "trials.csv")
    done = trials[trials["status"] == "completed"].pivot(index="seed", columns="arm", values="val_loss")
    exact = []
    for row in table.to_dict("records"):
        pairs = done[["baseline", row["arm"]]].dropna()
        own, control = pairs[row["arm"]], pairs["baseline"]
        test, alone = stats.ttest_rel(own, control), stats.ttest_1samp(own, 0.0).confidence_interval(0.95)
        low, high = test.confidence_interval(0.95)
        gaps = own - control
        exact.append(stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=2_000).pvalue)
        found = [
            row[name]
            for name in ("n", "mean", "ci_low", "ci_high", "baseline_mean", "delta", "delta_low", "delta_high")
        ]
        assert found == pytest.approx([len(pairs), own.mean(), *alone, control.mean(), gaps.mean(), low, high])
        assert [row["p"], row["p_exact"]] == pytest.approx([test.pvalue, exact[-1]])
        n, noncentrality = len(pairs), row["mde"] / (gaps.std(ddof=1) / np.sqrt(len(pairs)))
        assert stats.nct.sf(stats.t.ppf(1 - 0.05 / len(table) / 2, n - 1), n - 1, noncentrality) == pytest.approx(0.8)
    assert table["p_holm"].tolist() == pytest.approx(oracle.holm(exact))
    assert table.set_index("arm")["n"]["without_ema"] == 9, "its failed run dropped a pair"


def test_each_design_has_its_table_and_figures(written: Path):
    left_out = csv(written / "tables/leave_one_out.csv")
    assert left_out["without"].tolist()[:2] == ["baseline", "without_query_norm"], "the largest effect first"
    assert len(left_out) == 4
    assert csv(written / "tables/factorial_cells.csv")["cell"].tolist() == ["baseline", *synthetic.CELLS]
    contrasts = csv(written / "tables/contrasts.csv").set_index("contrast")["effect"]
    length, freq = "model.knowledge_length: 4 against 8", "model.ema_update_freq: 20 against 5"
    assert contrasts[length] == pytest.approx((0.06 + 0.16 - 0.02) / 2, abs=0.02)
    assert contrasts[f"{length} × {freq}"] == pytest.approx(0.16 - 0.06 - 0.02, abs=0.03)
    for name in ("interactions", "effects", "curves_arms"):
        assert {path.suffix for path in (written / "figures").glob(f"{name}.*")} == {".svg", ".png", ".pdf"}
    assert (written / "figures/effects.pdf").read_bytes().startswith(b"%PDF")


def test_hypotheses_and_declared_test_of_a_designed_study(written: Path):
    found = csv(written / "tables/hypotheses.csv")
    assert found["verdict"].tolist() == ["refuted", "equivalent"]
    page = (written / "report.md").read_text()
    assert "Hypothesis “Reading a bank helps”: refuted." in page
    assert "their active parameters (trained ones, the embedding table left out) are the baseline's within 2%" in page
    assert "With 10 pairs and 7 arms the smallest adjusted p that can be reached is 0.014." in page, (
        "7 x 2^-9, not 2^-8"
    )
    assert "Pairs dropped because one of the two runs gave no value: 1." in page


def test_interval_is_two_unrounded_csv_columns(written: Path):
    ends = csv(written / "ablation.csv").set_index("arm")
    shown = csv(written / "tables/ablation.csv").set_index("arm")
    for name in ("low", "high"):
        assert shown[f"interval_{name}"]["no_memory"] == ends[f"delta_{name}"]["no_memory"]
        assert np.isnan(shown[f"interval_{name}"]["baseline"])
    for path in (written / "tables").glob("*.csv"):
        text = path.read_text()
        assert "−" not in text, f"{path.name}: a minus sign that no program reads"
        assert not re.search(r"\[[+\d.%]+, ", text), f"{path.name}: an interval as text"


def test_latex_document_is_complete_and_balanced(written: Path):
    text = (written / "report.tex").read_text()
    for name in re.findall(r"\\input\{([^}]+)\}", text) + re.findall(r"\\includegraphics\[[^]]*\]\{([^}]+)\}", text):
        assert (written / name).is_file(), name
    everything = text + "".join(path.read_text() for path in (written / "tables").glob("*.tex"))
    assert everything.isascii() or not re.search(r"[^\x00-\x7fÀ-ſ]", everything), "pdflatex knows every character"
    depth = 0
    for line in re.sub(r"\\[\\{}$&#%_]", "", everything).splitlines():
        depth += line.count("{") - line.count("}")
    assert depth == 0
    for environment in set(re.findall(r"\\begin\{(\w+)\}", everything)):
        assert everything.count(rf"\begin{{{environment}}}") == everything.count(rf"\end{{{environment}}}")


def test_latex_names_characters_that_pdflatex_cannot_print():
    assert escape.latex("汉 é “x” ≤") == r"\codepoint{6C49} é ``x'' $\le$"


def test_latex_joins_no_characters_to_another_one():
    """Its fonts make a dash of two hyphens, so that nobody can copy a flag, and a quote of two commas."""
    assert "--" not in escape.latex("--resume ---")
    assert ",," not in escape.latex("1,,2")
    assert escape.latex("a – b — c, d-e") == "a -- b --- c, d-e", "what is a dash stays one"


PATH = "/home/somebody/" + "x" * 60 + "/results/study_with_a_name/trials/model.knowledge_length-4.parquet"


def test_latex_breaks_long_words_outside_tables_and_in_columns_of_words():
    """They would run over the margin: a path, a hash, the name of an arm."""
    cells = Table("errors", "Errors.", (Column("error", "error", number=False),), ((Cell(PATH, PATH),),), notes=(PATH,))
    blocks = (words(PATH), words(Code(PATH)), notice(PATH), Listing("Log", f"    File {PATH}"))
    texts = [pages.to_latex(Document("", "", "", words(""), (Section("", (block,)),))) for block in blocks]
    for text in [*texts, tables.to_latex(cells)]:
        (line, *_) = [line for line in text.splitlines() if "somebody" in line]
        pieces = re.split(r"\\allowbreak\{\}| |\{\\ttfamily", line)
        assert max(map(len, pieces)) < 40, pieces
        assert "".join(pieces).replace("\\_", "_").count(PATH) == 1
    assert r"\mbox{}~~~~File" in texts[-1], "with its indent"


@pytest.mark.parametrize(("name", "digits"), [("没有记忆" * 6, 48), ("без памяти", 18)])
def test_a_latex_table_gives_letters_of_any_script_their_room(name: str, digits: int):
    """An ideograph is as wide as two digits. Where pdflatex names a letter, it takes six, and the column breaks."""
    columns = (Column("arm", "arm", number=False), Column("value", "value"))
    text = tables.to_latex(Table("arms", "Arms.", columns, ((Cell(name, name), Cell("0.1", 0.1)),)))
    (width,) = re.findall(r"p\{(\d+)pt\}", text)
    assert digits * 5 <= float(width) < 1.2 * digits * 5


def test_latex_says_where_characters_stand_by_their_code_points(tmp_path: Path, written: Path):
    assert "code points" not in (written / "report.tex").read_text()
    arms = {"blind": {"model.memory": "blind"}}
    for name, texts in {
        "asked": {"question": "что?"},
        "claimed": {"hypotheses": [{**HYPOTHESIS, "claim": "汉字"}]},
    }.items():
        ledger = ablated(tmp_path / name, arms, ran=2, **texts)
        out = writer.write(ledger.root, formats=["tex"])
        assert (
            r"\ifdefined\anyfont\else\begin{quote}\small Characters that pdfLaTeX" in (out / "report.tex").read_text()
        )
    table = tmp_path / "claimed" / "report" / "tables" / "hypotheses.tex"
    assert r"\providecommand{\codepoint}" in table.read_text(), "a document of one's own may input it"


HYPOTHESIS = {"claim": "it helps", "arm": "blind", "metric": "val_loss", "min_effect": 0.02}


def test_latex_tables_fit_their_page_or_are_set_in_parts(written: Path):
    columns = tuple(Column(f"column_{index}", f"column number {index}") for index in range(40))
    wide = Table("wide", "Forty.", columns, (tuple(Cell("1.23456789", 1.0) for _ in columns),))
    text = tables.to_latex(wide)
    assert tables.is_wide(wide)
    assert text.count(r"\begin{longtable}") == text.count("continued") + 1 == 3
    assert text.count(r"\begin{tabular}[b]{@{}r@{}}column\\number 0\end{tabular}") == 6, "in both heads of each part"
    page = pages.to_latex(Document("", "", "", words(""), (Section("Wide", (wide,)),)))
    assert r"\begin{landscape}\input{tables/wide.tex}\end{landscape}" in page
    assert "\n\\input{tables/cost.tex}\n" in (written / "report.tex").read_text(), "few columns stand upright"
    for path in (written / "tables").glob("*.tex"):
        assert "resizebox" not in path.read_text(), "type is not shrunk until nobody can read it"


# ---- interim looks


def _tiny(tmp_path: Path, *, seeds: int, **ablation: object) -> Ledger:
    ledger = Ledger(tmp_path / "peeked")
    arms = {"blind": {"model.memory": "blind"}}
    ledger.write_study(study_json(name="peeked", arms=arms, seeds=seeds, ablation=ablation))
    done = ledger.final_ids()
    for seed in range(1, seeds + 1):
        for arm, params in {"baseline": {}, **arms}.items():
            measured = metrics(val_loss=3.0 + 0.01 * seed - 0.1 * (arm == "blind") + 0.001 * (seed % 3))
            if not any(row.seed == seed and row.arm == arm for row in ledger.rows()):
                add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured)
    assert ledger.final_ids() > done
    return ledger


def test_seeds_added_after_a_look_are_marked_exploratory(tmp_path: Path):
    ledger = _tiny(tmp_path, seeds=6)
    assert "‡" not in (writer.write(ledger.root) / "report.md").read_text()
    (look,) = ledger.looks()[0]
    assert (look.planned_seeds, look.shown) == (6, {"blind": (1, 2, 3, 4, 5, 6)})
    writer.write(ledger.root)
    assert len(ledger.looks()[0]) == 1, "the same results again are no other look"
    _tiny(tmp_path, seeds=8)
    page = (writer.write(ledger.root) / "report.md").read_text()
    assert "‡ Exploratory, for blind: seeds were added (6 to 8) after its results on 6 seeds had been seen" in page
    assert re.search(r"\| blind .*0\.0078‡", page), "the p values carry the mark"
    assert len(ledger.looks()[0]) == 2
    rows = csv(ledger.path("report", "ablation.csv"))
    assert rows["p_exact"][0] == pytest.approx(2 / 2**8), "the csv has the number"


def test_study_declared_exploratory_is_marked(tmp_path: Path):
    page = (writer.write(_tiny(tmp_path, seeds=3, exploratory=True).root) / "report.md").read_text()
    assert "the study file declares it so" in page


def test_read_only_study_is_reported_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    ledger = _tiny(tmp_path, seeds=3)
    ledger.path("looks").write_text("a file where the folder should be")  # fails for root too, unlike a mode
    out = writer.write(ledger.root, out=tmp_path / "elsewhere")
    assert (out / "report.md").is_file()
    assert "not recorded that these results were seen" in capsys.readouterr().err


def test_damaged_look_is_reported_as_a_problem(tmp_path: Path):
    ledger = _tiny(tmp_path, seeds=3)
    writer.write(ledger.root)
    path = next(ledger.path("looks").glob("*.json"))
    path.write_text(json.dumps({"at": "yesterday"}))
    assert ledger.looks()[0] == []
    assert path.name in (writer.write(ledger.root) / "report.md").read_text()


# ---- different versions, A/A arms, tuning


def test_trials_of_different_versions_are_refused_or_marked(tmp_path: Path):
    ledger = Ledger(tmp_path / "versions")
    arms = {"blind": {"model.memory": "blind"}}
    ledger.write_study(study_json(name="versions", arms=arms, seeds=3))
    named = ""
    for seed in (1, 2, 3):
        for arm, params in {"baseline": {}, **arms}.items():
            old, measured = arm == "blind" and seed == 2, metrics(val_loss=3.0 + 0.01 * seed)
            versions = "ray 2.60.0, torch 2.12.0" if old else "ray 2.60.0, torch 2.13.0"
            name = add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured, versions=versions)
            named = name if old else named
    with pytest.raises(BadInput, match=rf"versions: {named}: .*--allow-mixed"):
        writer.write(ledger.root)
    page = (writer.write(ledger.root, allow_mixed=True) / "report.md").read_text()
    assert "| blind†" in page
    assert "torch 2.12.0" in page


def test_aa_arm_has_its_own_table_and_is_not_in_holms_family(tmp_path: Path):
    ledger = Ledger(tmp_path / "noise")
    arms = {"again": {"reseed": True}, "blind": {"model.memory": "blind"}}
    ledger.write_study(study_json(name="noise", arms=arms, seeds=6))
    rng = np.random.default_rng(0)
    for seed in range(1, 7):
        for arm, params in {"baseline": {}, "again": {"train.reseed": 1}, "blind": arms["blind"]}.items():
            measured = metrics(val_loss=3.0 - 0.2 * (arm == "blind") + float(rng.normal(0, 0.01)))
            add_trial(ledger, arm=arm, seed=seed, params=params, measured=measured)
    out = writer.write(ledger.root)
    table = csv(out / "ablation.csv").set_index("arm")
    assert np.isnan(table["p_holm"]["again"])
    assert table["p_holm"]["blind"] == pytest.approx(table["p_exact"]["blind"]) == pytest.approx(2 / 2**6)
    assert csv(out / "tables/noise.csv")["AA_arm"].tolist() == ["baseline", "again"]
    assert csv(out / "tables/ablation.csv")["arm"].tolist() == ["baseline", "blind"]
    assert "again" not in summary(writer.findings_of(ledger.root)).plain, "a check is no claim"


def test_tuned_values_are_a_table_in_every_format(tmp_path: Path):
    ledger = Ledger(tmp_path / "tuned")
    arms = {"no_memory": {"model.memory": "none"}}
    tune = {"trials": 4, "over": ["train.lr", "train.schedule"]}
    ledger.write_study(study_json(name="tuned", arms=arms, seeds=3, ablation={"tune_each_arm": tune}))
    chosen = {"baseline": (0.00125, "cosine"), "no_memory": (0.02, "wsd")}
    for seed in range(1, 4):
        for arm, (lr, schedule) in chosen.items():
            params = arms.get(arm, {}) | {"train.lr": lr, "train.schedule": schedule}
            add_trial(ledger, arm=arm, seed=seed, params=params, measured=metrics(val_loss=3.0 + 0.01 * seed))
    out = writer.write(ledger.root, formats=("md", "html", "tex", "csv"))
    table = csv(out / "tables/tuned.csv").set_index("arm")
    assert {arm: tuple(table.loc[arm]) for arm in table.index} == chosen
    for written in ("report.md", "report.html", "tables/tuned.tex"):
        text = (out / written).read_text()
        assert "0.00125" in text, written
        assert "wsd" in text, written


# ---- the experiment record


def test_record_of_a_trial_has_every_section(written: Path, capsys: pytest.CaptureFixture[str]):
    study_dir = written.parent
    trials = csv(written / "trials.csv")
    run = trials[(trials["arm"] == "without_ema") & (trials["seed"] == 2)].iloc[0]
    control = trials[(trials["arm"] == "baseline") & (trials["seed"] == 2)].iloc[0]
    assert writer.main([str(study_dir), "--record", run["trial_id"][:8], "--format", "md,html"]) == cli.DONE
    paths = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in paths] == [f"{run['trial_id']}.md", f"{run['trial_id']}.html"]
    page = paths[0].read_text()
    for part in (
        "## Goal", "## Configuration", "## Environment", "## Progress", "## Results", "## What it writes",
        "## The bank", "## Against a baseline trial", "## Hypotheses of the study", "## Files",
        "How fast should the token memory forget?",
        f"python -m ablate.rerun designed --trial {run['trial_id']} --verify",
        "| **ema** | **off** | **on** |", f"trials/{run['trial_id']}.parquet", f"samples/{run['trial_id']}.json",
        "Without the EMA it is no worse", "1 of 2 samples ended by themselves",
        f"This trial and trial {control['trial_id']}", "one run against one run",
    ):  # fmt: skip
        assert re.sub(r"\s+", " ", part) in re.sub(r"\s+", " ", page), part
    reached = run["val_loss"] <= 2.85
    assert re.search(rf"val_loss \(nats/token\) .*≤ 2\.85 \| {'yes' if reached else 'no'} ", page)
    assert re.search(r"fact_accuracy \(share\) .*≥ 0\.5 \| no ", page)
    for figure in re.findall(r"\]\((figures/[^)]+)\)", page):
        assert (paths[0].parent / figure).is_file()


def test_record_is_chosen_by_best_or_unique_prefix(written: Path):
    findings = writer.findings_of(written.parent)
    trials = findings.data.trials
    best = trials.loc[trials["val_loss"].idxmin(), "trial_id"]
    assert writer.chosen_trial(findings, "best") == best
    with pytest.raises(BadInput, match="no trial that has ended begins so"):
        writer.chosen_trial(findings, "zzz")
    with pytest.raises(BadInput, match="trials begin so; give more of its digits"):
        writer.chosen_trial(
            findings, next(c for c in "0123456789abcdef" if trials["trial_id"].str.startswith(c).sum() > 1)
        )


def test_record_of_a_failed_trial(written: Path):
    findings = writer.findings_of(written.parent)
    failed = findings.failures[0].trial_id
    page = (writer.write_record(findings, failed, formats=["md", "tex"]) / f"{failed}.md").read_text()
    assert "ended as nan" in page
    assert "It has no val\\_loss" in page or "It has no val_loss" in page
