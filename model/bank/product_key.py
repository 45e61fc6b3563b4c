"""Product-key retrieval (Lample et al. 2019, "Large Memory Layers with Product Keys", arXiv 1907.05242, section 3.1).

Scores are [2, P, n], 200 MB a layer at full size. They are computed and used in chunks of as many positions as a cache
holds, and freed after the balance loss. The backward keeps nothing of that size. Its parts are

    of a kept score   s = q . k_i          dq = k_i, dk_i = q             K rows a position, as embedding bags
    of the balance    sum_i g_i mean_P(p)_i      ds = p * (g - p . g) / P       dq, dk: products, computed with the loss

with p the softmax of a position's scores; g comes from the counts and has no gradient.

Letters: B batch, T tokens, P positions (B*T), c positions of a chunk, Q query width, h = Q/2, n = sqrt(N) sub-keys a
half, N entries, K entries selected.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from model.bank.primitives.segment_sum import cache_bytes, device_type, grouped_sum
from model.bank.primitives.top_k import top_k

SCORE_CACHES = 2
"""Caches that the scores of a chunk fill: smaller chunks would be more operators (docs/log.md)."""


class Selection(NamedTuple):
    """K entries for each position, best first: `weight_BTK` sums to 1, `index_BTK` (int64) is i*n + j."""

    weight_BTK: Tensor
    index_BTK: Tensor


class Factors(NamedTuple):
    """The factors of the scores: each half of the query, and the sub-keys of that half."""

    query_BTQ: Tensor
    keys_2nh: Tensor


Scores = list[Tensor]
"""[2, c, n] for each chunk of positions: each half of a query with the sub-keys of that half. No gradient."""


def cosine_factors(query_BTQ: Tensor, keys_2nh: Tensor, temperature_1: Tensor) -> Factors:
    """Factors of the scores temperature * sqrt(h) * cosine, of each half of the query (normalised by
    `normalise_halves`) with its sub-keys. With sqrt(h) the scores of random directions have variance 1 at the initial
    temperature of 1."""
    scale_1 = temperature_1 * math.sqrt(keys_2nh.shape[-1])
    return Factors(query_BTQ * scale_1, F.normalize(keys_2nh, dim=-1))


def normalise_halves(query_BTQ: Tensor) -> Tensor:
    """Each half of the query with norm 1, because each half is compared with its own sub-keys only."""
    return F.normalize(query_BTQ.unflatten(-1, (2, -1)), dim=-1).flatten(-2)


def retrieve(factors: Factors, *, num_selected: int, chunk_bytes: int | None = None) -> tuple[Selection, Scores]:
    """The exact `num_selected` best of all n*n sums of scores, weighted by their softmax; and all scores, for the
    balance loss. The weights are differentiable in both factors.

    `chunk_bytes`: the size of a chunk of scores (default: what a cache holds).
    """
    query_2Ph, keys_2nh = _halves(factors.query_BTQ), factors.keys_2nh
    n, batch = keys_2nh.shape[1], factors.query_BTQ.shape[:-1]
    positions = max(1, (chunk_bytes or SCORE_CACHES * cache_bytes(keys_2nh.device)) // (8 * n))
    with torch.no_grad():
        best, columns, scores = [], [], []
        for query_2ch in query_2Ph.split(positions, dim=1):
            scores.append(query_2ch @ keys_2nh.mT)
            best_2cK, column_2cK = _best(scores[-1], num_selected)
            best.append(best_2cK)
            columns.append(column_2cK)
        kept_PK, rank_2PK = best_pairs(torch.cat(best, dim=1))
        subkey_2PK = torch.cat(columns, dim=1).gather(-1, rank_2PK)
    kept_BTK = cast(Tensor, _Kept.apply(*factors, kept_PK.unflatten(0, batch), subkey_2PK))
    index_BTK = (subkey_2PK[0] * n + subkey_2PK[1]).unflatten(0, batch)
    return Selection(kept_BTK.softmax(dim=-1), index_BTK), scores


def selection_counts(selection: Selection, *, n: int) -> Tensor:
    """How often each sub-key was selected: [2, n], a row for each half; no gradient."""
    index_M = selection.index_BTK.flatten()
    one_M = torch.ones_like(index_M, dtype=torch.float32)
    zeros_n = torch.zeros(n, device=index_M.device)
    return torch.stack([zeros_n.index_add(0, index_M // n, one_M), zeros_n.index_add(0, index_M % n, one_M)])


def balance_loss(factors: Factors, scores: Scores, counts_2n: Tensor) -> Tensor:
    """n * sum_i f_i p_i, averaged over the halves; 1.0 when uniform (Fedus et al. 2021, arXiv 2101.03961, eq. 4-6).

    f: share of the selections with sub-key i, from `counts_2n` (which the caller sums over ranks); p: mean softmax of
    the scores. It uses the two marginals, so nothing has size N. Differentiable in both factors.
    """
    n = factors.keys_2nh.shape[1]
    counts_2n = counts_2n.to(scores[0].dtype)
    pull_2n = n / 2 * counts_2n / counts_2n.sum(dim=-1, keepdim=True)
    if not torch.is_grad_enabled() or not any(factor.requires_grad for factor in factors):
        total_2n = torch.stack([scores_2cn.softmax(dim=-1).sum(dim=1) for scores_2cn in scores]).sum(dim=0)
        return (pull_2n * (total_2n / factors.query_BTQ.shape[:-1].numel())).sum()
    with torch.no_grad():
        balance_and_slopes = _balance_and_slopes(factors, scores, pull_2n)
    return cast(Tensor, _Known.apply(*factors, *balance_and_slopes))


def _balance_and_slopes(factors: Factors, scores: Scores, pull_2n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_i g_i mean_P(p)_i = mean_P(p . g), and its gradients in both factors, a chunk at a time."""
    query_2Ph, keys_2nh = _halves(factors.query_BTQ), factors.keys_2nh
    pull_21n = pull_2n[:, None] / query_2Ph.shape[1]
    slopes, slope_2hn = [], torch.zeros_like(keys_2nh.mT, memory_format=torch.contiguous_format)
    balance = pull_2n.new_zeros(())
    # All chunks use the same two buffers: new memory costs more time than the work on it.
    share_room_2cn, slope_room_2cn = torch.empty_like(scores[0]), torch.empty_like(scores[0])
    for query_2ch, scores_2cn in zip(query_2Ph.split(scores[0].shape[1], dim=1), scores, strict=True):
        c = scores_2cn.shape[1]
        share_2cn = torch.softmax(scores_2cn, dim=-1, out=share_room_2cn[:, :c])
        slope_2cn = torch.mul(share_2cn, pull_21n, out=slope_room_2cn[:, :c])
        pulled_2c1 = slope_2cn.sum(dim=-1, keepdim=True)
        balance += pulled_2c1.sum()
        slope_2cn.addcmul_(share_2cn, pulled_2c1, value=-1)
        slopes.append(slope_2cn @ keys_2nh)
        slope_2hn.baddbmm_(query_2ch.mT, slope_2cn)  # a fifth faster than [n, h] on CPU
    slope_BTQ = torch.cat(slopes, dim=1).transpose(0, 1).reshape(factors.query_BTQ.shape)
    return balance, slope_BTQ, slope_2hn.mT.contiguous()


def _halves(query_BTQ: Tensor) -> Tensor:
    """[2, P, h], a view where the query is contiguous."""
    return query_BTQ.unflatten(-1, (2, -1)).flatten(0, -3).transpose(0, 1)


class _Known(torch.autograd.Function):
    """A loss whose gradients in both factors were computed with it."""

    @staticmethod
    def forward(ctx: Any, query_BTQ: Tensor, keys_2nh: Tensor, loss: Tensor, *slopes: Tensor) -> Tensor:
        del query_BTQ, keys_2nh
        ctx.save_for_backward(*slopes)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        slope_BTQ, slope_2nh = ctx.saved_tensors
        return slope_BTQ * upstream, slope_2nh * upstream, None, None, None


class _Kept(torch.autograd.Function):
    """The kept scores, as a function of their factors."""

    @staticmethod
    def forward(ctx: Any, query_BTQ: Tensor, keys_2nh: Tensor, kept_BTK: Tensor, subkey_2PK: Tensor) -> Tensor:
        ctx.save_for_backward(query_BTQ, keys_2nh, subkey_2PK)
        return kept_BTK.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_BTK: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query_BTQ, keys_2nh, subkey_2PK = ctx.saved_tensors
        (_, n, h), (_, P, K) = keys_2nh.shape, subkey_2PK.shape
        # Halves of positions, and sub-keys, as the rows of [2P, h] and [2n, h].
        row_RK = (subkey_2PK.transpose(0, 1) + torch.arange(0, 2 * n, n, device=keys_2nh.device)[:, None]).reshape(
            -1, K
        )
        slope_RK = slope_BTK.reshape(P, K).repeat_interleave(2, dim=0)
        slope_Rh = F.embedding_bag(row_RK, keys_2nh.reshape(2 * n, h), per_sample_weights=slope_RK, mode="sum")
        row_S, order_S = row_RK.flatten().sort(stable=True)
        slope_S = slope_RK.flatten()[order_S]
        query_Rh = query_BTQ.reshape(2 * P, h)
        slope_2nh = grouped_sum(query_Rh, order_S // K, weight_S=slope_S, group_S=row_S, groups=2 * n)
        return slope_Rh.view(query_BTQ.shape), slope_2nh.view(keys_2nh.shape), None, None


def best_pairs(best_2PK: Tensor) -> tuple[Tensor, Tensor]:
    """The K largest sums of one best score of each half: (sums [P, K], ranks in each half [2, P, K]), best first.

    A pair (a-th best, b-th best) has at least (a+1)(b+1) sums at or above its own, so only the pairs with
    (a+1)(b+1) <= K can be among the best K: 50 of the 256 at K = 16.
    """
    K = best_2PK.shape[-1]
    rank_2M = _candidate_pairs(K, best_2PK.device)
    kept_PK, pair_PK = top_k(best_2PK[0][:, rank_2M[0]] + best_2PK[1][:, rank_2M[1]], K)
    return kept_PK, rank_2M[:, pair_PK]


def _best(scores_2cn: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """(values, columns) of the K best, best first.

    They are in the K groups with the largest maxima. On CPU, where the cost of the K largest grows with the elements,
    it searches the maxima and then those groups only.
    """
    n = scores_2cn.shape[-1]
    group = _group(n, K) if device_type(scores_2cn.device) == "cpu" else 1
    if group == 1:
        return top_k(scores_2cn, K)
    groups = n // group  # group j: columns j, j + groups, j + 2 groups, ...
    scores_2cgj = scores_2cn.unflatten(-1, (group, groups))
    _, group_2cK = top_k(scores_2cgj.amax(dim=-2), K)
    candidate_2cgK = scores_2cgj.gather(-1, group_2cK[..., None, :].expand(-1, -1, group, -1))
    values_2cK, at_2cK = top_k(candidate_2cgK.flatten(-2), K)
    return values_2cK, at_2cK // K * groups + group_2cK.gather(-1, at_2cK % K)


def _group(n: int, K: int) -> int:
    """Columns of a group. Measured with 2^6 to 2^12 columns and K of 8, 16, 32: about 128 groups are fastest while K
    groups hold at most 256 candidates; rows of up to 256 are sorted without a branch."""
    group = 1
    while n // group > 128 and n % (2 * group) == 0 and 2 * group * K <= 256:
        group *= 2
    return group


@torch.compiler.assume_constant_result
def _candidate_pairs(K: int, device: torch.device) -> Tensor:
    """[2, M]: the ranks (a, b) of the pairs that can be among the best K. A compiler treats them as a constant."""
    return cached_pairs(K, device)


@functools.lru_cache(maxsize=32)
def cached_pairs(K: int, device: torch.device) -> Tensor:
    """The same, kept between calls."""
    pairs = [(a, b) for a in range(K) for b in range(K) if (a + 1) * (b + 1) <= K]
    return torch.tensor(pairs, device=device).T.contiguous()
