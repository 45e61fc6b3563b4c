"""What the documentation says is there, is there; and what is there is documented. docs/reference/: tests/reference."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from ablate.reference import __main__ as reference
from ablate.reference import commands
from ablate.spec import study_file
from ablate.spec.reader import SECTIONS
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
GUIDES = [page for page in PAGES if page.startswith("docs/") and "/decisions/" not in page]
"""What a user reads; a decision is found by its folder."""


def test_the_readme_fits_a_few_screens():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("command", reference.parsers())
def test_a_command_is_in_the_readme(command: str):
    assert f"| `python -m {command}" in README


def test_the_readmes_study_is_the_one_that_gave_the_answer():
    shown = yaml.safe_load(_yaml_block(README))
    assert shown == yaml.safe_load((ROOT / "search_spaces" / "memory.yaml").read_text(encoding="utf-8"))


def test_the_readmes_answer_is_the_reports():
    report = (ROOT / "results" / "memory" / "report" / "report.md").read_text(encoding="utf-8").splitlines()
    section = README.partition("## The answer it gives")[2].partition("\n## ")[0].splitlines()
    quoted = [line.removeprefix("> ") for line in section if line.startswith(("> ", "|"))]
    assert len(quoted) == 13, "the answer, and a table of ten arms with its two lines of header"
    assert not [line for line in quoted if line not in report]


def test_the_example_of_a_study_is_valid_and_has_every_section(tmp_path: Path):
    block = _yaml_block((ROOT / "docs" / "studies.md").read_text(encoding="utf-8"))
    path = tmp_path / "study.yaml"
    path.write_text(block, encoding="utf-8")
    assert study_file.load(path).ablation is not None
    assert set(yaml.safe_load(block)) == set(SECTIONS) - {"trainer"}, "docs/your-own-trainer.md has that one"


def test_every_study_that_comes_along_is_listed():
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    assert not [
        path.name for path in (ROOT / "search_spaces").glob("*.yaml") if f"(../search_spaces/{path.name})" not in text
    ]


def test_every_benchmark_is_listed():
    listed = re.findall(
        r"^\| `(\w+(?:\.\w+)?)` \|", (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), flags=re.M
    )
    commands = [path for path in (ROOT / "benchmarks").rglob("*.py") if "\ndef main(" in path.read_text("utf-8")]
    modules = {path.relative_to(ROOT / "benchmarks").with_suffix("").as_posix().replace("/", ".") for path in commands}
    assert set(listed) == modules - {"instruments.one_run"} | {"gpu.sh"}


def _yaml_block(page: str) -> str:
    block = re.search(r"```yaml\n(study:.*?)```", page, flags=re.DOTALL)
    assert block
    return block[1]


# ---- links, paths and commands in the prose


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    path = ROOT / page
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)#?([^)\s]*)\)", path.read_text(encoding="utf-8")):
        there = path.parent / target if target else path
        assert there.exists(), f"{page} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in _anchors(there.read_text(encoding="utf-8")), f"{page} links to {target}#{anchor}"


def _anchors(page: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme_or_by_a_page_that_is():
    reached, left = set[Path](), [ROOT / "README.md"]
    while left:
        path = left.pop()
        if path not in reached:
            reached.add(path)
            targets = re.findall(r"\]\((?!https?://)([^)#\s]+\.md)", path.read_text(encoding="utf-8"))
            left += [(path.parent / target).resolve() for target in targets]
    assert not [page for page in GUIDES if ROOT / page not in reached]


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_the_files_that_developers_are_sent_to_are_there(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    paths = re.findall(r"`((?:ablate|model|tests|benchmarks|docs)/[\w/.]*)`", text)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_every_folder_is_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for package in ("ablate", "model"):
        for path in (ROOT / package).glob("*/__init__.py"):
            assert re.search(rf"\b{path.parent.name}/", text), f"{package}/{path.parent.name}"


@pytest.mark.parametrize("page", ["README.md", *GUIDES])
def test_flags_in_the_prose_are_flags_of_the_command(page: str):
    """`python -m ablate.sweep ... --dry-run`, wherever a page shows a command line."""
    flags = {
        name: {flag for action in commands.actions(parser) for flag in action.option_strings}
        for name, parser in reference.parsers().items()
    }
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    for name, line in re.findall(r"python -m ((?:ablate|model)\.\w+)([^`\n|#]*)", text):
        if name in flags:
            assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) - {"--help"} <= flags[name], f"{page}: {name}{line}"


# ---- dependencies


def test_constraints_pin_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "one NAME==VERSION a line, no +cpu"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        re.split(r"[\[<>=]", name)[0] for name in [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    ]
    assert {_normal(name) for name in asked} <= {_normal(line.split("==")[0]) for line in lines}


def test_an_extra_that_no_constraint_pins_is_pinned_itself():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: asked for name, asked in project["optional-dependencies"].items() if name != "dev"}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", one) for asked in extras.values() for one in asked)
    assert "[dev]'" in (ROOT / "Makefile").read_text(), "`make install` installs no extra but the developer's"


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")
