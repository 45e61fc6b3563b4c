"""What the documentation says is there, is there; and what is there is documented."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ablate import cli, columns
from ablate.records.schema import HISTORY_COLUMNS, TRIAL_ENDS, TRIAL_STARTS
from ablate.spec import distributions, study_file
from ablate.spec.models import (
    Ablation,
    Asha,
    EarlyStopping,
    Hypothesis,
    Objective,
    Optimizer,
    Resources,
    Tracking,
    TuneEachArm,
)
from ablate.spec.reader import SECTIONS
from model.api import KEYS, PRESETS
from tests import ROOT
from tests.study_files import resolve

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = ("ablate.sweep", "ablate.report", "ablate.rerun", "ablate.status", "model.train", "model.bank")
STUDY_SECTIONS = {
    "objective.": Objective,
    "optimizer.": Optimizer,
    "early_stopping.": EarlyStopping,
    "early_stopping.asha.": Asha,
    "ablation.": Ablation,
    "ablation.tune_each_arm.": TuneEachArm,
    "hypotheses.": Hypothesis,
    "resources.": Resources,
    "tracking.": Tracking,
}


def flags_of(command: str) -> set[str]:
    """The flags that a command's own --help names."""
    shown = subprocess.run([sys.executable, "-m", command, "--help"], capture_output=True, text=True, check=True)
    assert "example" in shown.stdout, f"{command} --help has no example"
    # argparse sets flags off by two blanks; the examples may name flags of other commands.
    return set(re.findall(r"^  (--[a-z-]+)", shown.stdout, flags=re.MULTILINE)) - {"--help"}


def rows(first_header: str) -> Iterator[list[str]]:
    """The cells of every README table whose header begins so."""
    table = re.search(rf"^\| {re.escape(first_header)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, flags=re.MULTILINE)
    assert table, f"README has no table {first_header}"
    for line in table[1].splitlines():
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_its_flags_are_documented(command: str):
    assert f"python -m {command}" in README
    documented = {match[1] for cells in rows(f"`{command}`") if (match := re.match(r"`(--[a-z-]+)", cells[0]))}
    assert documented == flags_of(command)


def test_every_command_is_one_that_the_readme_lists():
    mains = {path.stem for path in (ROOT / "ablate").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert {f"ablate.{name}" for name in mains - {"columns"}} | {"model.train", "model.bank"} == set(COMMANDS)


@pytest.mark.parametrize("section", ["model", "train", "data", "eval"])
def test_the_configuration_reference_is_the_configuration(section: str):
    tiny, seed = resolve("tiny", {}), resolve("seed-1.4.6", {"data.train": "x"})
    keys = []
    for key, in_tiny, in_seed, about in rows(f"`{section}.` key"):
        keys.append(key.strip("`"))
        assert about, key
        for config, shown in ((tiny, in_tiny), (seed, in_seed)):
            value = config[keys[-1]]
            assert value in (_read(shown), "x"), f"{key}: README says {shown}, it is {value}"
    assert keys == [key for key in KEYS if key.startswith(f"{section}.")]


def _read(shown: str) -> object:
    for kind in (int, float):
        try:
            return kind(shown)
        except ValueError:
            continue
    return None if shown == "—" else shown


def test_the_study_files_reference_is_complete_and_its_defaults_are_true():
    documented = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("key")}
    expected = {f"{prefix}{name}" for prefix, model in STUDY_SECTIONS.items() for name in model.model_fields}
    assert documented.keys() == expected | {"study", "question", "base.preset", "search", "targets"}
    assert {key.split(".")[0] for key in documented} == set(SECTIONS)
    for prefix, model in STUDY_SECTIONS.items():
        for name, field in model.model_fields.items():
            shown = documented[prefix + name]
            if model is not Objective:  # its defaults are the reader's
                assert shown == (
                    "needed" if field.is_required() else _written(field.get_default(call_default_factory=True))
                )


def _written(default: object) -> str:
    """A default as a study file would have it; `none` for what is left out."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return f"[{', '.join(default)}]"
    return "none" if default in (None, {}) else str(default)


def test_every_preset_and_distribution_is_named():
    for name in PRESETS:
        assert f"`{name}`" in README
    assert {cells[0].strip("`{").split(":")[0] for cells in rows("distribution")} == set(distributions._KINDS)


def test_exit_codes_are_those_of_the_code():
    codes = [int(cells[0]) for cells in rows("exit code")]
    assert codes == [cli.DONE, cli.DIFFERENT, cli.BAD_INPUT, cli.NO_SUCCESS, cli.INTERRUPTED]


def test_the_study_in_the_readme_is_a_valid_one(tmp_path: Path):
    block = re.search(r"```yaml\n(study:.*?)```", README, flags=re.DOTALL)
    assert block
    path = tmp_path / "study.yaml"
    path.write_text(block[1], encoding="utf-8")
    assert study_file.load(path).ablation is not None
    assert set(yaml.safe_load(block[1])) == set(SECTIONS)


def test_columns_md_is_current():
    written = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")
    assert written == columns.page(), "run: python -m ablate.columns > docs/columns.md"
    for column in (*TRIAL_STARTS, *TRIAL_ENDS, *HISTORY_COLUMNS):
        assert f"`{column.name}`" in written


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/log.md"])
def test_links_lead_somewhere(page: str):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{page} links to {target}"


def test_every_module_has_its_line_in_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    modules = {
        str(path.relative_to(ROOT))
        for package in ("ablate", "model", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    documented = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, flags=re.MULTILINE))
    assert documented == modules


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
