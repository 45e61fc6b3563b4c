"""The fast paths of the token memory against their slow twins."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bank.bank_read import read_tokens
from model.bank.encode import _first_maximum  # pyright: ignore[reportPrivateUsage]
from model.bank.primitives.segment_sum import grouped_sum
from model.bank.product_key import Factors, Selection, balance_loss, retrieve, selection_counts
from model.layers import SwiGLU
from tests.model.probes import peak_bytes
from tests.oracles import token_memory as oracle


def random_selection(positions: int, *, entries: int, K: int, seed: int) -> Selection:
    generator = torch.Generator().manual_seed(seed)
    index = torch.stack([torch.randperm(entries, generator=generator)[:K] for _ in range(positions)])
    weight = torch.rand(positions, K, generator=generator, dtype=torch.float64).softmax(dim=-1)
    return Selection(weight, index)


@settings(max_examples=1000, deadline=None)
@given(n=st.integers(1, 12), K=st.integers(1, 12), half=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_retrieval_equals_an_exhaustive_top_k(n: int, K: int, half: int, seed: int) -> None:
    K = min(K, n)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(3, 2 * half, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, n, half, generator=generator, dtype=torch.float64)
    found, _ = retrieve(Factors(query, keys), num_selected=K)
    for position in range(3):
        weights, indices = oracle.retrieve(query[position], keys, K)
        torch.testing.assert_close(found.weight_BTK[position], weights)
        assert found.index_BTK[position].tolist() == indices.tolist()


def factors_of(n: int, *, positions: int = 15, seed: int = 0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(positions, 12, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, n, 6, generator=generator, dtype=torch.float64)
    return Factors(query.requires_grad_(), keys.requires_grad_())


def scores_of(factors: Factors) -> torch.Tensor:
    """All of them: [2, P, n]."""
    halves = factors.query_BTQ.chunk(2, dim=-1)
    return torch.stack([half @ keys.T for half, keys in zip(halves, factors.keys_2nh, strict=True)])


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, None])
@pytest.mark.parametrize(("n", "K"), [(2048, 16), (256, 16), (128, 3), (100, 2), (64, 8), (99, 4), (256, 1)])
def test_retrieval_among_many_sub_keys_equals_top_k_of_all_sums(n: int, K: int, chunk_bytes: int | None) -> None:
    factors = factors_of(n, positions=3)
    found, scores = retrieve(factors, num_selected=K, chunk_bytes=chunk_bytes)
    first, second = scores_of(factors)
    best = (first[..., :, None] + second[..., None, :]).flatten(-2).topk(K, dim=-1)
    assert torch.equal(found.index_BTK, best.indices)
    torch.testing.assert_close(found.weight_BTK, best.values.softmax(dim=-1))
    torch.testing.assert_close(torch.cat(scores, dim=1), scores_of(factors))
    at_once = 3 if chunk_bytes is None else max(1, chunk_bytes // (8 * n))
    assert len(scores) == math.ceil(3 / at_once)


def test_retrieval_with_ties_keeps_the_largest_sums() -> None:
    """With equal scores any choice is right, but the kept sums must be the largest ones, each entry once."""
    first, second = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 2.0])
    found, _ = retrieve(Factors(torch.ones(1, 2), torch.stack([first, second])[..., None]), num_selected=3)
    rows, columns = found.index_BTK[0] // 3, found.index_BTK[0] % 3
    assert (first[rows] + second[columns]).tolist() == [3.0, 3.0, 3.0]
    assert len(set(found.index_BTK[0].tolist())) == 3


@pytest.mark.parametrize("chunk_bytes", [1, 1_000, None])
@pytest.mark.parametrize("shape", [(15,), (3, 5)])
def test_retrieval_and_balance_equal_autograd_through_all_scores(
    shape: tuple[int, ...], chunk_bytes: int | None
) -> None:
    """Both losses and their gradients, together: kept scores and balance meet in the same factors."""
    flat = factors_of(40)
    factors = Factors(flat.query_BTQ.detach().view(*shape, 12).requires_grad_(), flat.keys_2nh)
    found, scores = retrieve(factors, num_selected=4, chunk_bytes=chunk_bytes)
    counts = selection_counts(found, n=40)
    upstream = torch.randn(found.weight_BTK.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = (upstream * found.weight_BTK).sum() + 3 * balance_loss(factors, scores, counts)

    scores = scores_of(flat)
    rows, columns = found.index_BTK.view(15, 4) // 40, found.index_BTK.view(15, 4) % 40
    kept = (scores[0].gather(1, rows) + scores[1].gather(1, columns)).softmax(dim=-1)
    literal = (upstream.view(15, 4) * kept).sum() + 3 * oracle.balance(scores, found.index_BTK.view(15, 4))
    torch.testing.assert_close(ours, literal)
    for gradient, expected in zip(torch.autograd.grad(ours, factors), torch.autograd.grad(literal, flat), strict=True):
        torch.testing.assert_close(gradient.view_as(expected), expected)


def test_retrieval_saves_no_tensor_as_large_as_its_scores() -> None:
    """For the backward: the factors, which others keep too, their gradients, and K numbers a position."""
    factors, kept = factors_of(512, positions=600), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        found, scores = retrieve(factors, num_selected=4)
        loss = found.weight_BTK.sum() + balance_loss(factors, scores, selection_counts(found, n=512))
    assert kept
    assert max(tensor.numel() for tensor in kept) < 600 * 512 / 10
    loss.backward()
    assert factors.keys_2nh.grad is not None


@pytest.mark.parametrize("chunk_bytes", [1, 2**30])
def test_read_tokens_equals_the_literal_read(chunk_bytes: int) -> None:
    selection = random_selection(7, entries=25, K=5, seed=1)
    bank = torch.randint(0, 40, (25, 3), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    table = torch.randn(40, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = oracle.decode(selection.weight_BTK, selection.index_BTK, bank, table)
    torch.testing.assert_close(read_tokens(selection, bank, table, chunk_bytes=chunk_bytes), expected)


@pytest.mark.parametrize("chunk_bytes", [1, 2**28])
def test_read_tokens_passes_gradcheck(chunk_bytes: int) -> None:
    selection = random_selection(4, entries=9, K=2, seed=1)
    bank = torch.randint(0, 11, (9, 3), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    table = torch.randn(11, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    weight = selection.weight_BTK.clone().requires_grad_()

    def read(weight: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return read_tokens(Selection(weight, selection.index_BTK), bank, table, chunk_bytes=chunk_bytes)

    assert torch.autograd.gradcheck(read, (weight, table))


def test_read_tokens_holds_at_most_an_eighth_of_the_literal_read() -> None:
    """Forward and backward, without E's gradient, at 4 x 256 tokens, dim 256 (shape 1), L 8, K 16."""
    P, K, L, D, V, N = 1_024, 16, 8, 256, 6_400, 65_536
    generator = torch.Generator().manual_seed(0)
    bank = torch.randint(0, V, (N, L), generator=generator, dtype=torch.int32)
    table = torch.randn(V, D, generator=generator).requires_grad_()
    weight = torch.rand(P, K, generator=generator).requires_grad_()
    index = torch.randint(0, N, (P, K), generator=generator)

    def literal() -> None:
        rows_PKLD = table[bank[index].long()]
        (weight[..., None] * rows_PKLD.mean(dim=2)).sum(dim=1).sum().backward()

    def ours(table: torch.Tensor) -> None:
        read_tokens(Selection(weight, index), bank, table).sum().backward()

    # The weights' gradient comes first, while E's does not exist yet; then E's, which is not the read's to answer for.
    held = max(peak_bytes(lambda: ours(table.detach())), peak_bytes(lambda: ours(table)) - 4 * V * D)
    assert peak_bytes(literal) >= 4 * P * K * L * D
    assert held <= 4 * P * K * L * D / 8


@pytest.mark.parametrize("longest", [None, 1, 3, 1000])
def test_grouped_sum_is_index_add_of_weighted_rows(longest: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0, 2, 2, 5, 5, 5, 5, 5])  # groups 1, 3, 4 and 6 are empty
    position = torch.randint(0, 6, group.shape, generator=generator)
    weight = torch.randn(len(group), generator=generator, dtype=torch.float64)
    expected = torch.zeros(7, 4, dtype=torch.float64).index_add(0, group, weight[:, None] * rows[position])
    ours = grouped_sum(rows, position, weight_S=weight, group_S=group, groups=7, longest=longest)
    torch.testing.assert_close(ours, expected)


def test_balance_equals_the_formula_and_is_one_when_uniform() -> None:
    factors = factors_of(4, positions=6)
    selection, scores = retrieve(factors, num_selected=3)
    ours = balance_loss(factors, scores, selection_counts(selection, n=4))
    torch.testing.assert_close(ours, oracle.balance(scores_of(factors), selection.index_BTK))
    with torch.no_grad():
        without_gradients = balance_loss(factors, scores, selection_counts(selection, n=4))
    torch.testing.assert_close(without_gradients, ours)
    level = Factors(torch.zeros(4, 2), torch.zeros(2, 4, 1))
    every_entry = Selection(torch.ones(1, 16) / 16, torch.arange(16)[None])
    _, even = retrieve(level, num_selected=4)
    assert balance_loss(level, even, selection_counts(every_entry, n=4)).item() == pytest.approx(1.0)


def test_fusion_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    net = SwiGLU(dim_in=8, hidden=4, dim_out=4).double()
    u, m = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).unbind()
    fused = net(torch.cat([u, m], dim=-1))
    for row in range(3):
        expected = oracle.fuse(u[row], m[row], net.gate.weight, net.value.weight, net.down.weight)
        torch.testing.assert_close(fused[row], expected)


@pytest.mark.parametrize("columns", [64, 640, 37])
def test_first_maximum_takes_the_first_on_ties(columns: int) -> None:
    logits = torch.randint(0, 4, (50, columns), generator=torch.Generator().manual_seed(0)).float()
    value, column = _first_maximum(logits)
    assert torch.equal(value, logits.amax(dim=-1))
    assert column.tolist() == [row.tolist().index(max(row.tolist())) for row in logits]
