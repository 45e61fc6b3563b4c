"""results/memory, the committed example, is of an earlier version: this version gives its trials the same ids."""

from __future__ import annotations

import pytest

from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.spec import study_file
from ablate.study import compatibility, study_json
from ablate.trials import plan
from ablate.trials.trial import trial_id
from tests import ROOT
from tests.study_files import TRAINER

LEDGER = Ledger(ROOT / "results" / "memory")


def test_ids_are_recomputed_from_the_recorded_configurations() -> None:
    rows = LEDGER.rows()
    assert len(rows) == 80
    assert [trial_id(row.arm, TRAINER.read(row.config_json), row.seed) for row in rows] == [
        row.trial_id for row in rows
    ]


def test_ids_are_recomputed_from_the_study_file() -> None:
    study = study_file.load(ROOT / "search_spaces" / "memory.yaml")
    planned = {trial.trial_id for trial in plan.arm_trials(study, study.base)}
    assert planned == {row.trial_id for row in LEDGER.rows()}


def test_the_studys_identity_is_recomputed_from_the_study_file() -> None:
    study = study_file.load(ROOT / "search_spaces" / "memory.yaml")
    before = LEDGER.read_study()
    now = study_json.describe(study, data_hash=before["provenance"]["data_hash"])
    assert before["identity"] == now["identity"]
    assert set(study.trainer.description.later_keys) & set(now["spec"]["base"]) - set(before["spec"]["base"])
    compatibility.check(study, before, now, rows=LEDGER.rows())


def test_another_base_is_refused_by_the_key_that_differs_and_not_by_a_later_one() -> None:
    before = LEDGER.read_study()
    for key, value in {"train.lr": 1e-3, "train.memory_lr_scale": 2.0}.items():
        study = study_file.load(ROOT / "search_spaces" / "memory.yaml", sets=[f"base.{key}={value}"])
        now = study_json.describe(study, data_hash=before["provenance"]["data_hash"])
        with pytest.raises(BadInput, match=f": base.{key}: changed: study memory exists with another base"):
            compatibility.check(study, before, now, rows=LEDGER.rows())
