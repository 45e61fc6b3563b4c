"""Every shipped study file loads and plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate import sweep
from ablate.scheduling.packing import fit
from ablate.scheduling.placement import Node
from ablate.spec import study_file
from ablate.study import dry_run
from tests import ROOT

OWN_TEXT = ("ema_4090", "balance_1.4.7")
"""Studies of data files that the user supplies."""

FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def test_search_spaces_holds_the_shipped_studies():
    assert {"balance_1.4.7", "components", "control", "ema", "ema_4090", "factorial", "memory", "smoke"} <= {
        path.stem for path in FILES
    }


@pytest.mark.parametrize(
    "path",
    # Most of the time goes into predicting peaks; one study of each size shows how.
    [
        pytest.param(path, marks=[] if path.stem in ("ema", "ema_4090") else pytest.mark.slow, id=path.stem)
        for path in FILES
    ],
)
def test_a_shipped_study_loads_plans_and_fits_one_gpu(path: Path):
    study = study_file.load(path)
    assert study.study == path.stem
    slots = fit(study.resources, nodes=[Node.of("here", cpus=8, gpus=1)], cuda=True)
    run = dry_run.describe(study, slots, card="NVIDIA GeForce RTX 4090")
    assert run.total >= 2
    cautions = sweep.cautions_of(study, run, earlier=None)
    said = [warning for warning in (*run.warnings, *cautions) if "no such file" not in warning]
    assert said == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_study_loads(path: Path):
    assert study_file.load(path).study == path.stem


@pytest.mark.parametrize("path", [path for path in FILES if path.stem not in OWN_TEXT], ids=lambda path: path.stem)
def test_shipped_studies_of_built_in_data_need_no_data_file(path: Path):
    assert not study_file.missing_data(study_file.load(path))
