"""The levels of the looks, against their definition and against a published table; sequential p values."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from ablate.spec import spending
from ablate.spec.spending import Looks, levels, sequential_p
from tests.oracles import spending as oracle


@pytest.mark.parametrize(("sizes", "alpha"), [((8, 12, 16), 0.05), ((3, 7), 0.01), ((5, 6, 24), 0.025)])
def test_each_look_spends_its_part_of_the_error(sizes: tuple[int, ...], alpha: float):
    found = levels(sizes, alpha)
    for count, size in enumerate(sizes, start=1):
        assert oracle.crossed(found[:count], sizes) == pytest.approx(oracle.spent(size / sizes[-1], alpha), abs=2e-6)
    assert oracle.spent(1.0, alpha) == pytest.approx(alpha)


def test_five_equal_looks_have_the_published_bounds():
    """Two-sided, 0.05: 4.877, 3.357, 2.680, 2.290, 2.031 (Reboussin, DeMets, Kim and Lan 2000, Control. Clin. Trials
    21:190)."""
    bounds = [float(stats.norm.isf(level / 2)) for level in levels((2, 4, 6, 8, 10), 0.05)]
    assert bounds == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


def test_levels_grow_with_the_looks_and_with_the_error():
    sizes = spending.sizes(first=8, most=40, step=4)
    assert sizes == (8, 12, 16, 20, 24, 28, 32, 36, 40)
    small, large = levels(sizes, 0.01), levels(sizes, 0.05)
    assert list(large) == sorted(large)
    assert all(a < b for a, b in zip(small, large, strict=True))
    assert large[-1] < 0.05


@pytest.mark.parametrize("ps", [[0.001], [0.2, 0.003], [1e-4, 0.5, 0.5], [0.4, 0.3, 0.03], [0.02, math.nan, 0.01]])
def test_a_sequential_p_is_the_smallest_error_at_which_a_look_rejects(ps: list[float]):
    sizes = (6, 9, 12)
    known = [p if not math.isnan(p) else 1.0 for p in ps]
    assert sequential_p(ps, sizes) == pytest.approx(oracle.sequential_p(known, lambda a: levels(sizes, a)), rel=1e-3)


def test_a_sequential_p_never_grows_and_is_1_without_evidence():
    sizes = (6, 9, 12)
    assert math.isnan(sequential_p([], sizes))
    assert sequential_p([1.0], sizes) == sequential_p([math.nan], sizes) == 1.0
    assert sequential_p([0.001, 0.9, 0.9], sizes) == sequential_p([0.001], sizes)
    for look, level in enumerate(levels(sizes, 0.0125)):
        assert sequential_p([1.0] * look + [level], sizes) == pytest.approx(0.0125, rel=1e-5)


def test_the_first_look_that_can_reject_has_patterns_enough():
    looks = Looks((8, 12, 16, 20), 0.05, first_seed=1)
    assert looks.first_that_can_reject(1) == 12
    assert looks.first_that_can_reject(6) == 16
    assert Looks((4, 5), 0.05, first_seed=1).first_that_can_reject(1) is None
    assert list(looks.seeds(3)) == [1, 2, 3]
