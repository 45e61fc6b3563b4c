"""What docs/your-own-trainer.md and examples/ show is run as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ablate import cli, rerun, sweep
from ablate.records.ledger import Ledger
from ablate.spec import study_file
from tests import ROOT

PAGE = (ROOT / "docs" / "your-own-trainer.md").read_text(encoding="utf-8")


def go(path: Path, results: Path, *flags: str) -> Ledger:
    argv = [str(path), "--results", str(results), *flags]
    assert cli.guarded(lambda: sweep.main(argv)) == cli.DONE
    ledger = Ledger(results / study_file.load(path).study)
    assert {row.status for row in ledger.rows()} == {"completed"}, ledger.rows()[0].error
    assert rerun.main([str(ledger.root), "--verify"]) == cli.DONE
    return ledger


def test_the_page_works_at_first_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has a model.py and a config.py, too; called from another one, with paths relative to that."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    script, study = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL) for kind in ("python", "yaml"))
    assert script
    assert study
    (folder / "train.py").write_text("import model, config\n" + script[1])
    (folder / "study.yaml").write_text(study[1] + "tracking: {swanlab: disabled}\n")
    for name in ("model", "config"):
        (folder / f"{name}.py").write_text("")
    ledger = go(Path("mine/study.yaml"), Path("results"), "--inline")
    assert len(ledger.rows()) == 8 + 2 * 6


def test_the_pages_command_is_a_valid_trainer(tmp_path: Path) -> None:
    block = re.findall(r"```yaml\n(trainer:\n  command.*?)```", PAGE, re.DOTALL)[0]
    (tmp_path / "train.py").write_text("")
    path = tmp_path / "study.yaml"
    path.write_text(f"study: mine\n{block}search: {{lr: {{loguniform: [1e-4, 1e-2]}}}}\n")
    assert study_file.load(path).base.budget == 2_000


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "examples"


def test_a_function_without_a_library(examples: Path, tmp_path: Path) -> None:
    go(examples / "walk" / "study.yaml", tmp_path / "results", "--inline", "--trials", "2")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [(), ("--inline",)], ids=["ray", "inline"])
def test_a_gpt_that_knows_nothing_of_ablate(examples: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    short = ("ablation.seeds=1", "ablation.exploratory=true", "base.budget=20")
    flags = [flag for each in short for flag in ("--set", each)]
    ledger = go(examples / "gpt" / "study.yaml", tmp_path / "results", *how, *flags)
    assert all(0 < row.metrics["val_loss"] < 5 for row in ledger.rows())
