"""Scales, edges and groups of searched parameters."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analyze.search.space import Dimension

DECAY = Dimension("model.ema_decay", "one_minus_loguniform", 0.3, 0.999)
FREQ = Dimension("model.ema_update_freq", "logint", 1, 50)
LENGTH = Dimension("model.knowledge_length", "choice", float("nan"), float("nan"), (4, 8, 16, 32))
COEF = Dimension("train.balance_loss_coef", "loguniform", 0.01, 1.0)


@pytest.mark.parametrize(
    ("dimension", "middle"),
    [
        (DECAY, 1 - (0.7 * 0.001) ** 0.5),
        (COEF, 0.1),
        (Dimension("train.lr", "uniform", 0.0, 4.0), 2.0),
    ],
)
def test_position_is_on_the_scale_of_the_distribution(dimension: Dimension, middle: float):
    assert dimension.position(middle) == pytest.approx(0.5)
    assert dimension.at(0.5) == pytest.approx(middle)
    assert dimension.at(0.0) == pytest.approx(dimension.low)
    assert dimension.at(1.0) == pytest.approx(dimension.high)


def test_edge_of_ranges_and_ordered_choices():
    assert [COEF.edge(value) for value in (0.01, 0.0125, 0.0127, 0.1, 0.79, 0.8, 1.0)] == [
        "lower", "lower", "", "", "", "upper", "upper",
    ]  # fmt: skip
    assert DECAY.edge(0.99) == "", "0.99 of [0.3, 0.999] is inside on the scale that was searched"
    assert [LENGTH.edge(value) for value in (4, 8, 32)] == ["first", "", "last"]
    unordered = Dimension("model.kb_fit", "choice", 0, 0, ("head", "tail", "chunk"))
    assert unordered.edge("head") == "", "words have no order"
    assert Dimension("x", "choice", 0, 0, (True, False)).edge(True) == ""
    assert Dimension("x", "choice", 0, 0, (4, 32, 8)).edge(4) == "", "numbers not written in order have none either"


def test_choices_are_grouped_for_every_column_type():
    groups = LENGTH.groups([8.0, 32, np.int64(4), 8])
    assert [(group.label, int(group.mask.sum())) for group in groups] == [("4", 1), ("8", 2), ("16", 0), ("32", 1)]
    mixed = Dimension("x", "choice", 0, 0, ("all", 2, None, True))
    assert [int(group.mask.sum()) for group in mixed.groups(["2", "all", None, True])] == [1, 1, 1, 1]


def test_every_value_is_in_one_bin():
    rng = np.random.default_rng(0)
    for dimension in (DECAY, COEF, FREQ):
        values = [dimension.at(position) for position in [*rng.uniform(size=98), 0.0, 1.0]]
        stored = [round(value) for value in values] if dimension.whole else values
        groups = dimension.groups(stored)
        assert len(groups) == 8
        assert np.array_equal(sum(group.mask.astype(int) for group in groups), np.ones(100))
        assert min(int(group.mask.sum()) for group in groups[2:]) > 0, "equal widths on the scale of the draws"


def test_groups_of_whole_numbers():
    assert [group.label for group in FREQ.groups([1, 5, 50])] == ["1 to 3", "4 to 13", "14 to 50"]
    few = Dimension("model.n_layers", "int", 1, 4)
    assert [group.label for group in few.groups([1.0, 4.0])] == ["1", "2", "3", "4"]
    assert few.read(3.0) == 3
    assert isinstance(few.read(3.0), int)
