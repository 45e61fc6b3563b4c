"""results/memory, the committed example, is of an earlier version: this version gives its trials the same ids."""

from __future__ import annotations

from ablate.records.ledger import Ledger
from ablate.spec import study_file
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


def test_a_later_key_is_part_of_an_id_only_where_it_changes_something() -> None:
    row = LEDGER.rows()[0]
    config = TRAINER.read(row.config_json)
    for key, value in TRAINER.description.later_keys.items():
        assert config[key] == value
        assert trial_id(row.arm, config.override({key: value}), row.seed) == row.trial_id
    changed = config.override({"model.memory_heads": 2})
    assert trial_id(row.arm, changed, row.seed) != row.trial_id
