"""Draws translate to parameters and back; which trials are audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.search import samplers
from tests import study_files


def test_decode_is_the_inverse_of_encode(tmp_path: Path):
    study = study_files.load(tmp_path)
    for decay in (0.3, 0.7, 0.9, 0.999):
        params = {"model.ema_decay": decay, "model.knowledge_length": 8}
        assert samplers.decode(study.search, samplers.encode(study.search, params)) == pytest.approx(params)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.25, 0.3, 0.5, 1.0])
def test_the_audited_share_holds_from_the_first_trials_on(fraction: float):
    for seed in range(5):
        chosen = [samplers.audited(number, fraction=fraction, seed=seed) for number in range(400)]
        for count in range(1, 401):
            assert abs(sum(chosen[:count]) - count * fraction) <= 1 + 1e-9
    draws = {tuple(samplers.audited(n, fraction=0.1, seed=seed) for n in range(40)) for seed in range(5)}
    assert len(draws) == 5, "another seed audits other trials"


def test_a_fraction_of_zero_audits_nothing():
    assert not any(samplers.audited(number, fraction=0.0, seed=0) for number in range(100))
