"""The compacted copy equals the parts and is ignored when stale; reads of some columns."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablate.records import study_reader
from ablate.records.ledger import Ledger
from tests import synthetic
from tests.study_files import METRICS
from tests.synthetic import SPACE, add_search, add_trial, study_json


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Five trials, one of them in two attempts."""
    ledger = Ledger(tmp_path / "long")
    ledger.write_study(study_json(name="long", space=SPACE))
    names = add_search(ledger, count=4, failed=False)
    params = synthetic.draw(synthetic.np.random.default_rng(9))
    name = add_trial(ledger, params=params, share=0.4, final=False)
    assert add_trial(ledger, params=params, measured=synthetic.metrics(val_loss=2.9)) == name
    assert len({*names, name}) == 5
    return ledger


def test_the_copy_equals_the_parts(ledger: Ledger):
    assert study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    copied, (trials, _), (history, _) = (
        study_reader.read(ledger.root, metrics=METRICS),
        study_reader.trials(ledger.root, metrics=METRICS),
        study_reader.history(ledger.root, metrics=METRICS),
    )  # fmt: skip
    assert copied.trials.equals(trials)
    assert copied.history.equals(history)
    assert copied.problems == ()
    narrow = study_reader.read(ledger.root, metrics=METRICS, columns=["trial_id", "step", "val_loss"])
    assert narrow.history.equals(history.select(["trial_id", "step", "val_loss"]))


def test_reading_some_columns_gives_the_same_rows(ledger: Ledger):
    whole, names = study_reader.history(ledger.root, metrics=METRICS)[0], ["trial_id", "tokens_seen"]
    assert study_reader.history(ledger.root, metrics=METRICS, columns=names)[0].equals(whole.select(names)), (
        "repeated steps are cut too"
    )


def test_a_stale_copy_is_ignored(ledger: Ledger):
    assert study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    copy = ledger.path("compact", "trials.parquet")
    before = copy.read_bytes()
    add_trial(
        ledger, params=synthetic.draw(synthetic.np.random.default_rng(11)), measured=synthetic.metrics(val_loss=2.5)
    )
    assert study_reader.read(ledger.root, metrics=METRICS).trials.num_rows == 6
    assert copy.read_bytes() == before, "reading writes nothing"
    assert study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    assert copy.read_bytes() != before
    part = next(ledger.path("trials").glob("*.parquet"))
    os.utime(part, ns=(1, 1))
    ledger.path("compact", "history.parquet").write_bytes(b"PAR1 nonsense")
    assert study_reader.read(ledger.root, metrics=METRICS).trials.num_rows == 6


def test_a_study_with_an_unreadable_part_gets_no_copy(ledger: Ledger):
    ledger.path("trials", "aaaaaaaaaaaa.parquet").write_bytes(b"PAR1 cut off")
    assert not study_reader.compact(ledger.root, metrics=METRICS, at_least=1)
    assert "aaaaaaaaaaaa.parquet" in study_reader.read(ledger.root, metrics=METRICS).problems[0]


def test_a_small_study_has_no_copy(ledger: Ledger):
    assert not ledger.compact()
    assert not ledger.path("compact").exists()
