"""The K largest of every row, however they are found."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model import bags
from model.product_key import _best, _group  # pyright: ignore[reportPrivateUsage]
from model.top_k import WIDEST, _largest_columns, top_k  # pyright: ignore[reportPrivateUsage]

finite = st.floats(width=32, allow_nan=False)


def literal(row: list[float], K: int) -> list[int]:
    """The K columns by value, the lower first on ties."""
    return sorted(range(len(row)), key=lambda column: (-row[column], column))[:K]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.lists(finite, min_size=1, max_size=40), st.data())
def test_every_order_of_floats_is_kept(row: list[float], data: st.DataObject) -> None:
    """Both signs, infinities, subnormal numbers, ties. Zero is as large as minus zero in Python, and larger here."""
    row = [value + 0.0 for value in row]
    K = data.draw(st.integers(1, len(row)))
    values, columns = top_k(torch.tensor([row]), K)
    assert columns[0].tolist() == literal(row, K)
    assert values[0].tolist() == [row[column] for column in literal(row, K)]


@pytest.mark.parametrize("width", [16, 50, WIDEST, WIDEST + 1])
def test_equals_torchs_own(width: int) -> None:
    values = normal(2, 7, width)
    best = values.topk(16, dim=-1)
    for rows in (values, values.mT.contiguous().mT, values[:, ::2]):
        found, columns = top_k(rows, 16)
        expected = rows.topk(16, dim=-1)
        assert torch.equal(found, expected.values)
        assert torch.equal(columns, expected.indices)
    with bags.pretending("cuda", cache=2**20):
        assert torch.equal(top_k(values, 16)[1], best.indices)


def test_float64_is_not_rounded() -> None:
    row = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 + 2e-12]], dtype=torch.float64)
    assert top_k(row, 2)[1].tolist() == [[2, 1]]


def test_a_diverged_row_still_names_columns_that_exist() -> None:
    values = torch.full((2, 64), math.nan)
    values[1, :60] = -math.inf
    columns = top_k(values, 16)[1]
    assert columns.shape == (2, 16)
    assert all(len(set(row)) == 16 and set(row) <= set(range(64)) for row in columns.tolist())
    assert set(columns[1, :4].tolist()) == {60, 61, 62, 63}


def test_the_input_stays_as_it_was() -> None:
    values = normal(3, 64)
    before = values.clone()
    top_k(values, 8)
    assert torch.equal(values, before)


def test_the_operator_is_what_it_says_to_compilers() -> None:
    torch.library.opcheck(_largest_columns, (normal(2, 5, 64), 8))


@pytest.mark.parametrize("K", [1, 8, 16, 32, 200])
@pytest.mark.parametrize("n", [200, 256, 300, 512, 1000, 1024, 1331, 2048, 4096])
def test_groups_hold_all_of_the_best(n: int, K: int) -> None:
    scores = normal(2, 3, n, seed=n)
    values, columns = _best(scores, K)
    expected = scores.topk(K, dim=-1)
    assert torch.equal(values, expected.values)
    assert torch.equal(columns, expected.indices)


@pytest.mark.parametrize(
    ("n", "K", "group"),
    [(64, 16, 1), (256, 16, 2), (1024, 16, 8), (2048, 16, 16), (4096, 8, 32), (4096, 32, 8), (999, 16, 1)],
)
def test_so_many_columns_are_a_group(n: int, K: int, group: int) -> None:
    assert _group(n, K) == group
