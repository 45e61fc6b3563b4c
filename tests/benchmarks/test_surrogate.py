"""The surrogate's surface is what its formulas say, and its races are run by the suite's own search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ablate.spec import study_file
from benchmarks import _surface, surrogate
from benchmarks._surface import Process
from benchmarks.surrogate import Setting
from tests import synthetic


def process(*, noise: float = 0.05) -> Process:
    rng = np.random.default_rng(0)
    points_NP = rng.random((20, 2))
    values_N = np.sin(3 * points_NP[:, 0]) + points_NP[:, 1] ** 2 + rng.normal(0, 0.05, 20)
    return Process(points_NP, values_N, lengths_P=np.array([0.5, 0.8]), signal=1.0, noise=noise)


def kernel(made: Process, one_P: np.ndarray, other_P: np.ndarray) -> float:
    return made.signal**2 * float(np.exp(-(((one_P - other_P) / made.lengths_P) ** 2).sum() / 2))


def test_the_mean_is_the_formulas():
    """k(x)^T (K + s^2 I)^-1 (y - m) + m, entry by entry; without noise it goes through the values."""
    made, count = process(), 20
    covariance = np.array([[kernel(made, p, q) for q in made.points_NP] for p in made.points_NP])
    inverse = np.linalg.inv(covariance + made.noise**2 * np.eye(count))
    mean = np.ones(count) @ inverse @ made.values_N / (np.ones(count) @ inverse @ np.ones(count))
    at_P = np.array([0.3, 0.6])
    row = np.array([kernel(made, at_P, p) for p in made.points_NP])
    assert made.mean(at_P[None])[0] == pytest.approx(mean + row @ inverse @ (made.values_N - mean))
    exact = process(noise=1e-5)
    assert exact.mean(exact.points_NP) == pytest.approx(exact.values_N, abs=1e-3)


def test_left_out_errors_are_those_of_leaving_out():
    made = process()
    expected = []
    for index in range(20):
        keep = np.arange(20) != index
        points, values = made.points_NP[keep], made.values_N[keep]
        covariance = np.array([[kernel(made, p, q) for q in points] for p in points]) + made.noise**2 * np.eye(19)
        row = np.array([kernel(made, made.points_NP[index], p) for p in points])
        expected.append(made.values_N[index] - made._mean - row @ np.linalg.solve(covariance, values - made._mean))
    assert made.left_out() == pytest.approx(np.array(expected))


def test_a_fit_finds_what_matters_and_what_is_noise():
    rng = np.random.default_rng(1)
    points_NP = rng.random((60, 2))
    fitted = _surface.fit(points_NP, np.sin(6 * points_NP[:, 0]) + rng.normal(0, 0.1, 60))
    assert fitted.noise == pytest.approx(0.1, rel=0.4)
    assert fitted.lengths_P[1] > 2 * fitted.lengths_P[0], "the second parameter does nothing"


def test_parameters_are_measured_as_their_distributions_do():
    search = study_file.load(surrogate.STUDY).search
    low = {"model.ema_decay": 0.3, "model.ema_update_freq": 1, "model.knowledge_length": 4,
           "train.balance_loss_coef": 0.01}  # fmt: skip
    high = {"model.ema_decay": 0.999, "model.ema_update_freq": 50, "model.knowledge_length": 32,
            "train.balance_loss_coef": 1.0}  # fmt: skip
    assert _surface.unit(search, low) == pytest.approx(np.zeros(4))
    assert _surface.unit(search, high) == pytest.approx(np.ones(4))
    middle = {**low, "model.ema_decay": 1 - np.sqrt(0.7 * 0.001), "train.balance_loss_coef": 0.1}
    assert _surface.unit(search, middle) == pytest.approx([0.5, 0, 0, 0.5])


def test_runs_are_exported_without_where_they_ran(tmp_path: Path):
    ledger = synthetic.full_study(tmp_path / "s")
    count = _surface.export(ledger.root, path=tmp_path / "runs.csv")
    runs = _surface.read(tmp_path / "runs.csv")
    assert len(runs.params) == count == len(runs.values_NR) > 0
    assert runs.tokens_R[-1] == synthetic.BUDGET
    text = (tmp_path / "runs.csv").read_text()
    assert "example" not in text
    assert "/" not in text


def test_the_committed_runs_have_every_rung_and_no_machine():
    runs = _surface.read()
    assert len(runs.params) >= 60
    assert np.isfinite(runs.values_NR).all()
    assert runs.tokens_R == tuple(20_480 * rung for rung in range(1, 11))
    assert set(runs.params[0]) == set(study_file.load(surrogate.STUDY).search)
    assert "/" not in _surface.RUNS.read_text(encoding="utf-8")


def test_the_surface_is_over_the_space_of_the_shipped_search():
    shipped = Path(surrogate.__file__).parent.parent / "search_spaces" / "ema.yaml"
    assert study_file.load(surrogate.STUDY).search == study_file.load(shipped).search


@pytest.mark.slow  # a benchmark
def test_a_race_is_repeatable_and_stopping_saves_tokens():
    settings = (Setting("random"), Setting("gp", min_tokens=100_000))
    found = surrogate.race(settings, 0, noise="measured", trials=6)
    assert found == surrogate.race(settings, 0, noise="measured", trials=6)
    assert all(0 < ratio <= 1 and started >= 1 for ratio, started in found)
    ends = list(surrogate.simulate(settings[1], seed=0, noise="smooth", trials=8))
    assert {status for *_, status in ends} == {"completed", "pruned"}
    assert min(tokens for tokens, *_ in ends) == 102_400, "the first report at 100,000 tokens or more"
    assert max(tokens for tokens, *_ in ends) == 204_800


@pytest.mark.slow
def test_the_quick_form_prints_every_line(capsys: pytest.CaptureFixture[str]):
    assert surrogate.main(["--quick", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["lines"]) == 2 * len(surrogate.QUICK_SETTINGS)
    assert len(answer["rungs"]) == 10
    assert set(answer["best"]) == {"smooth", "measured"}
    for line in answer["lines"]:
        assert 0 < line["lower"] <= line["median"] <= line["upper"] <= 1
