"""Hostile text in studies, arms, documents and errors is shown as text, and no name leads out of its folder."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from ablate import escape, status
from ablate.cli import BAD_INPUT, DONE, guarded
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report import writer
from ablate.running import live
from ablate.running.progress import StudyProgress
from ablate.running.ray.trial import run_name
from ablate.running.runner import Event
from ablate.running.trial import failure_of
from ablate.spec.models import Objective
from ablate.trials.trial import Trial
from tests import study_files, synthetic
from tests.fakes import fake_trial
from tests.synthetic import add_trial, metrics, study_json

STRINGS = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=x>&lt;b&gt;<!-- --></style></title>",
    "latex": "\\input{/etc/passwd}\\write18{id} $x^2$ %c #1 a_b {} ~^ \\\\[5cm] \\begin{x} \\verb|x| ``''",
    "latex row": "[5cm] *[2cm] & x",
    "markdown": "# h\n- a\n![i](http://x/y.png) [x](javascript:y) **b** `c` ~~d~~ | e | <http://x> [r]: http://x\n\n```\nf",
    "formula": "=cmd|' /C calc'!A0",
    "formula, plus": "+1+cmd",
    "formula, at": "@SUM(1)",
    "paths": "../../../etc/passwd",
    "ansi": "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b[2J\x1b[1;1H\x9b1m\x1bc",
    "controls": "a\rb\bc\x07d\x00e\x7ff\x85g\u2028h",
    "right to left": "\u202egnp.exe \u2066abc\u2069 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "scripts": "汉字 日本語 Ελληνικά Кириллица हिन्दी ภาษา Ħħĸŉŧſ ÀÿŁß ﷽ Z̧͢a̸l̛g͝o",
    "emoji": "👩‍👩‍👧 🏳️‍🌈 🌊 \U0001f1e9\U0001f1ea",
    "long": "x" * 1_000_000,
    "long words": "汉字 & $ \\ " * 100_000,
}
PLAIN = "a plain text"
STUDIES = {
    "plain": PLAIN,
    "everything": " ".join(text for text in STRINGS.values() if len(text) < 1_000),
    "formula": STRINGS["formula"],
    "latex row": STRINGS["latex row"],
    "markdown": STRINGS["markdown"],
    "long": STRINGS["long words"],
}
HOSTILE = [name for name in STUDIES if name != "plain"]


def hostile_study(root: Path, text: str) -> Ledger:
    """A study with an ablation and a search in which every free text is `text`."""
    ledger = Ledger(root)
    arms = {text: {"model.memory": "blind"}, "other": {"model.memory": "none"}}
    claim = {"claim": text, "arm": text, "metric": "val_loss", "min_effect": 0.01}
    study = study_json(name=text, question=text, arms=arms, seeds=3, space=synthetic.SPACE, hypotheses=[claim])
    provenance = {
        **study["provenance"],
        **dict.fromkeys(("git_commit", "host", "device", "platform", "data_hash"), text),
    }
    ledger.write_study({**study, "command": text, "provenance": provenance})
    synthetic.add_search(ledger, count=4)
    for seed in (1, 2, 3):
        for arm, overrides in {"baseline": {}, **arms}.items():
            loss = 3.0 + 0.01 * seed + (0.003 if arm == "other" else 0.001) * (seed - 2)
            add_trial(ledger, arm=arm, seed=seed, params=overrides, measured=metrics(val_loss=loss))
    add_trial(ledger, arm=text, seed=4, params=arms[text], status="error", error=(text[:2_000], text), share=0.1)
    for trial_id in ledger.final_ids():
        ledger.write_samples(trial_id, [{"prompt": text, "continuation": text, "ended": False}])
    return ledger


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Name of a text -> the report of its study, written at first use."""

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            ledger = hostile_study(tmp_path_factory.mktemp("r") / "s", STUDIES[name])
            self[name] = writer.write(ledger.root, allow_mixed=True)
            return self[name]

    made = Made()
    _ = made["everything"], made["plain"]  # before `hardly_drawn`: with every figure
    return made


class Elements(HTMLParser):
    """The kinds of elements and attributes of a page, and its links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, str]] = set()
        self.links: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds |= {(tag, ""), *((tag, name) for name, _ in attrs)}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src", "xlink:href")}


@pytest.mark.parametrize("name", HOSTILE)
def test_text_adds_no_html_element_attribute_or_link(name: str, reports: Mapping[str, Path]):
    page = (reports[name] / "report.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert found.kinds <= Elements((reports["plain"] / "report.html").read_text(encoding="utf-8")).kinds
    assert all(link.startswith("#") for link in found.links)
    assert all(char.isprintable() or char == "\n" for char in page)
    assert len(page) < 4_000_000


def test_the_html_check_detects_unescaped_text():
    page = "<p>{}</p>"
    assert not Elements(page.format(STRINGS["html"])).kinds <= Elements(page.format(PLAIN)).kinds


@pytest.mark.parametrize("name", HOSTILE)
def test_text_adds_no_markdown_markup_or_cell(name: str, reports: Mapping[str, Path]):
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def kinds(folder: Path) -> tuple[set[str], Counter[str]]:
        tokens = reader.parse((folder / "report.md").read_text(encoding="utf-8"))
        flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
        pictures = [str(token.attrs["src"]) for token in flat if token.type == "image"]
        assert all(re.fullmatch(r"figures/[\w-]+\.svg", source) for source in pictures), pictures
        counted = Counter(token.type for token in tokens if token.type in ("heading_open", "tr_open", "td_open"))
        return {token.type for token in flat}, counted

    assert kinds(reports[name])[0] <= kinds(reports["plain"])[0]
    assert kinds(reports[name])[1] == kinds(reports["plain"])[1]


_ESCAPED = re.compile(
    r"\\textbackslash\{\}|\\text(?:asciicircum|asciitilde|less|greater|bar|quotedbl|quotesingle|asciigrave)\{\}"
    r"|\\codepoint\{[0-9A-F]{4,6}\}|\\[{}$&#%_]|\$[^$\n]{0,20}\$|\\(?:ldots|dag|ddag)\{\}|%\n|^\{\}|---?|~|``|''|\\kern0pt"
)


@pytest.mark.parametrize("name", STRINGS)
def test_text_adds_no_latex_command(name: str):
    rest = _ESCAPED.sub("", escape.latex(STRINGS[name]))
    assert not re.search(r"[\\{}$&#%_^~]", rest)
    assert max(map(len, escape.latex(STRINGS[name]).split("\n"))) < 50_000
    assert not escape.latex(STRINGS[name]).startswith(("[", "*"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pdflatex", "lualatex", "xelatex"])
@pytest.mark.parametrize("name", HOSTILE)
def test_latex_compiles_the_report(name: str, engine: str, reports: Mapping[str, Path]):
    if shutil.which(engine) is None:
        pytest.skip(f"needs {engine}")
    command = [engine, "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "report.tex"]
    done = subprocess.run(command, cwd=reports[name], capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2_000:]
    assert (reports[name] / "report.pdf").is_file()


@pytest.mark.parametrize("name", HOSTILE)
def test_text_adds_no_csv_formula_and_no_odd_file_name(name: str, reports: Mapping[str, Path]):
    folder = reports[name]
    for path in folder.rglob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), (path.name, cell[:80])
                assert not cell.startswith("-") or re.fullmatch(r"-[\d.e+-]+", cell), (path.name, cell[:80])
    files = [path for path in folder.parent.parent.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,160}", path.name) for path in files), "file names are plain"
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {
        ".md", ".tex", ".csv", ".svg", ".png", ".pdf", ".html"
    }  # fmt: skip


csv.field_size_limit(10_000_000)


@pytest.mark.parametrize("name", ["everything", pytest.param("long", marks=pytest.mark.slow)])
def test_commands_print_no_control_characters(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = STUDIES[name]
    ledger = hostile_study(tmp_path / "s", text)
    print(escape.printable(status.render(status.collect(ledger))))
    assert guarded(lambda: writer.main([str(ledger.root), "--format", "md", "--allow-mixed"])) == DONE
    assert guarded(lambda: writer.main([str(ledger.root), "--record", text[:300].replace("\0", "")])) == BAD_INPUT

    def fail() -> int:
        raise BadInput(text, text, text, text, text)

    assert guarded(fail) == BAD_INPUT
    said = capsys.readouterr()
    assert all(char.isprintable() or char == "\n" for char in said.out + said.err)
    assert said.err.count("\n") == 2
    assert max(map(len, said.err.split("\n"))) <= 2_000


@pytest.mark.parametrize("name", STRINGS)
def test_live_view_prints_no_control_characters(name: str):
    text = STRINGS[name]
    out = io.StringIO()
    study_progress = StudyProgress(Objective(metric="val_loss", mode="min"), planned=2)
    view = live.View(study_progress, console=Console(file=out, force_terminal=True, color_system=None, width=200))
    trial = Trial(text, study=text, arm=text, seed=0, config=fake_trial(0).config, params={text: text})
    with view:
        view.say(text[:5_000])
        view.on_event(Event(trial, "started"))
        view.on_event(Event(trial, "ended", row=study_files.row(trial, status="error")))
    ours = re.sub(r"\x1b\[(\?25[lh]|\d*[AK]|2K|0m|1m|\d+G)|\r", "", out.getvalue())
    assert all(char.isprintable() or char == "\n" for char in ours), repr(ours[:400])


@pytest.mark.parametrize("name", STRINGS)
def test_error_message_is_stored_as_one_utf8_line(name: str):
    for text in (STRINGS[name], STRINGS[name] + "\ud800"):
        message = failure_of(ValueError(text), trainer=study_files.TRAINER).message
        assert message.isprintable()
        assert len(message) <= 600
        message.encode()


@pytest.mark.parametrize(
    "bad",
    ["../x", "..", ".", "a/b", "/abs", "a\\b", "-rf", ".hidden", "a\nb", "a b", "ä", "x" * 101, "", "latest", "a\0"],
)
def test_study_and_arm_names_that_are_paths_are_refused(bad: str, tmp_path: Path):
    text = study_files.GOOD.replace("study: tides", f'study: "{_quoted(bad)}"')
    with pytest.raises(BadInput):
        study_files.load(tmp_path, text=text)
    if bad != "latest":
        arms = study_files.GOOD + f'ablation: {{seeds: 6, arms: {{"{_quoted(bad)}": {{model.memory: none}}}}}}\n'
        with pytest.raises(BadInput):
            study_files.load(tmp_path, text=arms)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\0", "\\0")


def test_longest_names_are_valid_file_names(tmp_path: Path):
    name = "x" * 100
    arms = f"ablation: {{seeds: 6, arms: {{{name}: {{model.memory: none}}}}}}\n"
    spec = study_files.load(tmp_path, text=study_files.GOOD.replace("study: tides", f"study: {name}") + arms)
    trial = Trial("0" * 12, study=spec.study, arm=f"calibrate.{name}", seed=0, config=spec.base, params={})
    (tmp_path / run_name(trial, tries=3)).mkdir()


def test_row_with_a_path_as_trial_id_writes_no_file_outside(tmp_path: Path):
    """A ledger from an untrusted archive: a row whose id is a path is not read and is reported as a problem."""
    import pyarrow.parquet as pq

    ledger = synthetic.full_study(tmp_path / "s")
    path = sorted((ledger.root / "trials").glob("*.parquet"))[0]
    table = pq.read_table(path)
    index = table.schema.get_field_index("trial_id")
    bad: Any = ["../../evil"]
    pq.write_table(table.set_column(index, "trial_id", [bad]), path)
    assert len(ledger.trials()) == 35
    assert any("its row is of another trial than its name says" in problem for problem in ledger.problems())
    writer.write(ledger.root)
    assert not list(tmp_path.rglob("evil*"))
    assert escape.file_name("../../evil") == "_._.._evil"
