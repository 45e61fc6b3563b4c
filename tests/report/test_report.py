"""The report of a study with a search and an ablation: files, content, refusals."""

from __future__ import annotations

import csv
import io
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import ablate
from ablate import cli, formatting
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.report.sections.summary import summary
from ablate.study.dataset import read
from tests import ROOT, synthetic
from tests.synthetic import SPACE, add_search, add_trial, full_study, metrics, study_json


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/ema/report of 12 search trials and 3 arms on 6 seeds."""
    return writer.write(full_study(tmp_path_factory.mktemp("results") / "ema").root)


def test_report_writes_every_format_and_leaves_no_temporary_file(written: Path):
    names = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    assert {"report.md", "report.html", "trials.csv", "ablation.csv"} <= names
    for label in ("best", "trials", "slice_model_ema_decay", "ablation", "bank_use", "floors", "failures", "cost"):
        assert {f"tables/{label}.{suffix}" for suffix in ("md", "tex", "csv")} <= names
    for label in ("curves_search", "curves_arms", "effects", "slice_model_knowledge_length"):
        assert {f"figures/{label}.{suffix}" for suffix in ("svg", "png")} <= names
    assert not [name for name in names if name.endswith(".tmp")]


def test_html_page_fetches_nothing_and_has_unique_ids(written: Path):
    page = (written / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)=["'](?!#)([^"']+)""", page)
    assert outside == [], "no image, script or style is fetched"
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(ids), "what figures refer to is in the page"


def test_html_page_shows_results_reasons_and_provenance(written: Path):
    text = re.sub(r"<[^>]+>", "", (written / "report.html").read_text())
    for part in (
        "How fast should the token memory forget?",
        "36 of 36 planned trials have ended (30 completed, 4 pruned, 1 lost, 1 nan)",
        "exploratory",
        "24 more completed trials are needed (6 completed)",
        "NonFiniteLoss: loss is nan at step 60",
        "the worker&#39;s node was removed",
        "may be credited to its memory",
        "The gain of ema_off, if it is one, is not credited to its memory",
        "one trial has no interval",
        "the smallest adjusted p that can be reached is 0.094, so the declared test cannot reject here",
        "&lt;b&gt;was&lt;/b&gt;",
        "0123456789abcdef0123456789abcdef01234567",
    ):
        assert part in text, part


@pytest.mark.figures
def test_figures_and_page_are_reproducible(written: Path, tmp_path: Path):
    again = writer.write(written.parent, out=tmp_path / "again")
    for path in sorted((written / "figures").glob("*.svg")):
        ET.fromstring(path.read_text())
        assert path.read_bytes() == (again / "figures" / path.name).read_bytes(), path.name
    assert (written / "report.html").read_bytes() == (again / "report.html").read_bytes()


def test_csv_format_writes_csv_files_only(written: Path, tmp_path: Path):
    out = writer.write(written.parent, formats=["csv"], out=tmp_path)
    assert {path.suffix for path in out.rglob("*") if path.is_file()} == {".csv"}


def test_latex_rows_have_as_many_cells_as_columns(written: Path):
    for path in (written / "tables").glob("*.tex"):
        text = path.read_text()
        for part in text.split(r"\begin{longtable}{")[1:]:
            layout, *lines = part.splitlines()
            columns = re.sub(r">\{\\raggedright\\arraybackslash\}p\{\d+pt\}", "p", layout.removesuffix("}"))
            assert re.fullmatch(r"[lrp]+", columns), layout
            rows = [line for line in lines if line.endswith(r" \\")]
            assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}, path.name


def test_trials_of_different_commits_are_refused_or_marked(tmp_path: Path):
    ledger = Ledger(tmp_path / "mixed")
    ledger.write_study(study_json(name="mixed", space=SPACE, trials=5))
    add_search(ledger, count=4, failed=False)
    params = synthetic.draw(np.random.default_rng(9))
    odd = add_trial(ledger, params=params, measured=metrics(val_loss=3.1), git_commit="f" * 40)
    with pytest.raises(BadInput, match=rf"git_commit: {odd}: trials of the search differ .*--allow-mixed"):
        writer.write(ledger.root)
    assert not (ledger.root / "report").exists(), "nothing is written"
    page = (writer.write(ledger.root, allow_mixed=True) / "report.md").read_text()
    assert f"{odd}†" in page
    assert "Trials of different code, budgets, data or versions are compared here" in page


def test_importances_are_shown_from_thirty_trials_on(tmp_path: Path):
    ledger = Ledger(tmp_path / "long")
    ledger.write_study(study_json(name="long", space=SPACE, trials=30))
    add_search(ledger, count=30, failed=False)
    out = writer.write(ledger.root, formats=["md"])
    rows = list(csv.reader(io.StringIO((out / "tables/importances.md").read_text()), delimiter="|"))
    assert {row[1].strip() for row in rows[2:]} == {entry["key"] for entry in SPACE}
    assert (out / "figures/importances.svg").is_file()


def test_several_objectives_have_a_best_trial_each_and_a_pareto_set(tmp_path: Path):
    ledger = Ledger(tmp_path / "two")
    objectives = [{"metric": "val_loss", "mode": "min"}, {"metric": "fact_accuracy", "mode": "max"}]
    ledger.write_study(study_json(name="two", space=SPACE, trials=3, objectives=objectives))
    rng, pairs = np.random.default_rng(2), [(3.0, 0.9), (2.8, 0.5), (3.1, 0.4)]
    ids = [
        add_trial(ledger, params=synthetic.draw(rng), measured=metrics(val_loss=loss, fact_accuracy=right))
        for loss, right in pairs
    ]
    out = writer.write(ledger.root)
    front = (out / "tables/pareto.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in front] == [ids[1], ids[0]]
    assert (out / "tables/best_fact_accuracy.csv").is_file()
    said = summary(writer.findings_of(ledger.root)).plain
    assert "The highest fact_accuracy of the search is 0.90" in said
    assert "The Pareto set has 2 trials of the search" in said


def test_html_page_fits_a_narrow_screen(written: Path):
    page = (written / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table") == page.count('<div class="wide" tabindex="0"><table') > 5, "each in a box that scrolls"
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "overflow-x: auto" in style
    assert "svg { display: block; max-width: 100%; height: auto; }" in style
    assert not re.search(r"margin[^;]*:[^;]*-\d", style), "nothing hangs out of the column"
    widths = re.findall(r"(?<!max-)(?<!min-)width: ([\d.]+)(rem|px|em)", style)
    assert widths == [], "only the column's greatest width is given, and tables fill it"


def _rules(style: str, *, media: str = "") -> dict[str, str]:
    """Selector -> what the style sheet declares for it, outside of @media or inside of one."""
    plain, *blocks = re.split(r"@media ", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
    text = plain if not media else next(block for block in blocks if block.startswith(media)).partition("{")[2]
    found: dict[str, str] = {}
    for selectors, declared in re.findall(r"([^{}]+)\{([^{}]*)\}", text):
        for selector in selectors.split(","):
            found[selector.strip()] = found.get(selector.strip(), "") + declared
    return found


def test_no_long_word_is_wider_than_a_small_screen(written: Path):
    """Names of arms have up to 100 characters, and a screen of 320 pixels shows 40."""
    rules = _rules((written / "report.html").read_text().partition("<style>")[2].partition("</style>")[0])
    for selector in ("h1", "h2", "h3", "p", ".question", "figcaption", "code", "td.long", ".listing pre"):
        assert "overflow-wrap" in rules[selector], selector
    least = re.findall(r"min-width: ([\d.]+)rem", " ".join(rules.values()))
    assert max(map(float, least)) * 16 < 320 - 2 * 16, "a cell's least width fits between the margins"


def test_a_wide_table_is_not_cut_on_paper(written: Path):
    """There it cannot scroll: a cell may be broken anywhere, so any number of columns fits."""
    page = (written / "report.html").read_text()
    style = page.partition("<style>")[2].partition("</style>")[0]
    screen, paper = _rules(style), _rules(style, media="print")
    assert "width: 100%" in screen["table"]
    for selector in ("th", "td", "td.number", "td.long"):  # as specific as what they replace
        assert all(
            part in paper[selector] for part in ("min-width: 0", "white-space: normal", "overflow-wrap: anywhere")
        )
    assert {
        selector for selector, declared in screen.items() if "nowrap" in declared or "min-width" in declared
    } <= set(paper)


def test_a_table_without_rows_is_a_sentence(tmp_path: Path):
    ledger = synthetic.ablated(tmp_path / "whole", synthetic.TWO_ARMS, ran=2)
    out = writer.write(ledger.root)
    for name in ("report.md", "report.html", "report.tex"):
        text = (out / name).read_text()
        assert "Every trial that ended completed." in text
        assert "Trials that did not complete, with their reasons" not in text
    numbers = [int(number) for number in re.findall(r"^\*\*Table (\d+)\.", (out / "report.md").read_text(), re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert (out / "tables" / "failures.csv").read_text().count("\n") == 1, "its file has the head"


def test_a_loaded_study_shows_itself_in_a_few_lines(written: Path):
    lines = repr(ablate.load(written.parent)).splitlines()
    assert lines[0] == "study ema: 36 of 36 trials have ended (30 completed, 4 pruned, 1 nan, 1 lost)"
    assert lines[1:] == ["How fast should the token memory forget?", ".trials: 36 rows, .history: 320 reports"]


def test_the_parts_of_a_loaded_study_show_themselves_in_a_few_lines(written: Path):
    study = ablate.load(written.parent)
    parts = (study.facts, study.trainer, study.completion, study.space, study.objectives, Ledger(study.path))
    assert all(len(repr(part)) < 600 for part in (*parts, writer.findings_of(study.path)))
    row = repr(Ledger(study.path).rows()[0])
    assert "config_json" not in row
    assert len(row) < 1_500


def test_a_study_that_has_not_begun_shows_itself_too(tmp_path: Path):
    ledger = Ledger(tmp_path / "new")
    ledger.write_study(study_json(name="new", question="", space=SPACE, trials=3))
    assert repr(ablate.load(ledger.root)).splitlines() == [
        "study new: 0 of 3 trials have ended", ".trials: 0 rows, .history: 0 reports",
    ]  # fmt: skip


def test_load_returns_trials_and_history(written: Path):
    study = ablate.load(written.parent)
    assert len(study.trials) == study.trials_arrow.num_rows == 36
    assert set(study.history["trial_id"]) == set(study.trials["trial_id"])
    assert study.study["question"] == "How fast should the token memory forget?"


def test_folder_with_a_foreign_study_json_is_refused(tmp_path: Path):
    (tmp_path / "study.json").write_text('{"study": "x"}')
    with pytest.raises(BadInput, match=r"study\.json: question"):
        read(tmp_path)


def test_command_prints_the_folder_and_the_summary(written: Path, capsys: pytest.CaptureFixture[str]):
    study_dir = written.parent
    arguments = [study_dir.name, "--results", str(study_dir.parent), "--format", "md"]
    assert writer.main(arguments) == cli.DONE
    path, words = capsys.readouterr().out.strip().split("\n")
    assert Path(path) == written
    assert words.startswith("36 of 36 planned trials have ended")


def test_unknown_format_is_refused_in_one_line(written: Path, capsys: pytest.CaptureFixture[str]):
    code = cli.guarded(lambda: writer.main([str(written.parent), "--format", "md,pdf"]))
    assert code == cli.BAD_INPUT
    assert capsys.readouterr().err == "--format: pdf: no such format; choose from md, html, tex, csv\n"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (formatting.plus_minus(5.31249, 0.0213), "5.312 ± 0.021"),
        (formatting.plus_minus(5.31249, float("nan")), "5.312"),
        (formatting.names(list("abcdefgh")), "a, b, c, d, e, f, g, h"),
        (formatting.names(list("abcdefghij")), "a, b, c, d, e, f, g and 3 more"),
        (formatting.fixed(-0.0004, 3), "0.000"),
        (formatting.fixed(0.12, 2, sign=True), "+0.12"),
        (formatting.fixed(-1234.5, 1), "−1,234.5"),
        (formatting.significant(0.000123456), "0.0001235"),
        (formatting.significant(float("nan")), "—"),
        (formatting.interval(-0.1, 0.25, 2, sign=True), "[−0.10, +0.25]"),
        (formatting.p_value(0.03125), "0.031"),
        (formatting.p_value(1e-9), "<0.0001"),
        (formatting.p_value(1.0), "1.0"),
        (formatting.duration(7_500), "2 h 5 min"),
        (formatting.duration(59.7), "1 min 0 s"),
    ],
)
def test_formatting_of_numbers(found: str, expected: str):
    assert found == expected


COMMITTED = ("memory", "control")


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_report_is_what_this_version_writes(name: str, tmp_path: Path) -> None:
    committed = ROOT / "results" / name
    study = shutil.copytree(committed, tmp_path / name, ignore=shutil.ignore_patterns("report"))
    out = writer.write(study, formats=("md", "tex", "csv"))
    fresh, kept = (
        {str(path.relative_to(folder)) for path in folder.rglob("*.*")} for folder in (out, committed / "report")
    )
    assert fresh | {"report.html"} == kept
    for file in sorted(fresh):
        if file.endswith((".md", ".tex")):
            assert (out / file).read_text() == (committed / "report" / file).read_text(), file


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_example_can_be_reported_and_names_no_machine(name: str, tmp_path: Path) -> None:
    """From a clone, before anything is trained; on a copy, since a report keeps that results were looked at."""
    committed = ROOT / "results" / name
    study = shutil.copytree(committed, tmp_path / name)
    folder = writer.write(study)
    fresh = csv.DictReader((folder / "ablation.csv").read_text(encoding="utf-8").splitlines())
    kept = csv.DictReader((committed / "report" / "ablation.csv").read_text(encoding="utf-8").splitlines())
    assert list(fresh) == list(kept)
    assert set(ablate.load(study).trials["host"]) == {"example"}
    texts = [path for path in committed.rglob("*") if path.suffix in (".json", ".md", ".tex", ".html", ".csv")]
    assert [
        path for path in texts if re.search(r'["\' (](/tmp|/home|/root|/work)/', path.read_text(encoding="utf-8"))
    ] == []
