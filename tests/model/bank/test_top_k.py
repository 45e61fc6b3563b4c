"""The K largest of every row, however they are found."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.bank.primitives import segment_sum
from model.bank.primitives.top_k import WIDEST, _largest_columns, top_k  # pyright: ignore[reportPrivateUsage]
from model.bank.product_key import _best, _group  # pyright: ignore[reportPrivateUsage]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.lists(finite, min_size=1, max_size=40), st.data())
def test_top_k_equals_sorting_of_any_floats(row: list[float], data: st.DataObject) -> None:
    """Both signs, subnormal numbers, ties."""
    K = data.draw(st.integers(1, len(row)))
    values, columns = top_k(torch.tensor([row]), K)
    assert values[0].tolist() == sorted(row, reverse=True)[:K]
    assert [row[column] for column in columns[0].tolist()] == values[0].tolist()
    assert len(set(columns[0].tolist())) == K


def test_top_k_orders_ties_by_column() -> None:
    assert top_k(torch.tensor([[1.0, 2.0, 1.0, 2.0, 0.0, 1.0]]), 4)[1].tolist() == [[1, 3, 0, 2]]


@pytest.mark.parametrize("width", [16, 50, WIDEST, WIDEST + 1])
def test_top_k_equals_torch_topk(width: int) -> None:
    values = normal(2, 7, width)
    best = values.topk(16, dim=-1)
    for rows in (values, values.mT.contiguous().mT, values[:, ::2]):
        found, columns = top_k(rows, 16)
        expected = rows.topk(16, dim=-1)
        assert torch.equal(found, expected.values)
        assert torch.equal(columns, expected.indices)
    with segment_sum.pretending("cuda", cache=2**20):
        assert torch.equal(top_k(values, 16)[1], best.indices)


def test_top_k_does_not_round_float64() -> None:
    row = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 + 2e-12]], dtype=torch.float64)
    assert top_k(row, 2)[1].tolist() == [[2, 1]]


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_top_k_of_a_non_finite_row_gives_existing_columns(worst: float) -> None:
    values = normal(2, 64)
    values[1, :60] = worst
    columns = top_k(values, 16)[1]
    assert columns.shape == (2, 16)
    assert set(columns.flatten().tolist()) <= set(range(64))
    assert torch.equal(columns[0], values[0].topk(16).indices), "the other rows are unaffected"


def test_top_k_does_not_change_its_input() -> None:
    values = normal(3, 64)
    before = values.clone()
    top_k(values, 8)
    assert torch.equal(values, before)


def test_largest_columns_passes_opcheck() -> None:
    torch.library.opcheck(_largest_columns, (normal(2, 5, 64), 8))


@pytest.mark.parametrize("K", [1, 8, 16, 32, 200])
@pytest.mark.parametrize("n", [200, 256, 300, 512, 1000, 1024, 1331, 2048, 4096])
def test_best_of_groups_equals_torch_topk(n: int, K: int) -> None:
    scores = normal(2, 3, n, seed=n)
    values, columns = _best(scores, K)
    expected = scores.topk(K, dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(columns, expected.indices)


@pytest.mark.parametrize(
    ("n", "K", "group"),
    [(64, 16, 1), (256, 16, 2), (1024, 16, 8), (2048, 16, 16), (4096, 8, 32), (4096, 32, 8), (999, 16, 1)],
)
def test_group_sizes(n: int, K: int, group: int) -> None:
    assert _group(n, K) == group
