"""Product-key retrieval (Lample et al. 2019, "Large Memory Layers with Product Keys", arXiv 1907.05242, section 3.1).

Letters: B batch, T tokens, Q query width, n = sqrt(N) sub-keys a half, N entries, K entries selected.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Selection(NamedTuple):
    """K entries a position: `weight_BTK` sums to 1, `index_BTK` (int64) is i*n + j, best first."""

    weight_BTK: Tensor
    index_BTK: Tensor


class HalfScores(NamedTuple):
    """Scores of every sub-key, a half each; what the balance loss reads."""

    first_BTn: Tensor
    second_BTn: Tensor


def half_scores(query_BTQ: Tensor, keys_2nh: Tensor) -> HalfScores:
    """Each half of the query against its own sub-keys; h = Q/2."""
    first_BTh, second_BTh = query_BTQ.chunk(2, dim=-1)
    return HalfScores(first_BTh @ keys_2nh[0].T, second_BTh @ keys_2nh[1].T)


def cosine_scores(query_BTQ: Tensor, keys_2nh: Tensor, temperature_1: Tensor) -> HalfScores:
    """temperature * sqrt(h) * cosine of each half of the query (given normalised, see `normalise_halves`) with its
    sub-keys. sqrt(h) gives the scores of random directions variance 1, so a temperature of 1 is where to start."""
    scale_1 = temperature_1 * math.sqrt(keys_2nh.shape[-1])
    return half_scores(query_BTQ * scale_1, F.normalize(keys_2nh, dim=-1))


def normalise_halves(query_BTQ: Tensor) -> Tensor:
    """Each half of the query with norm 1: a half meets its own sub-keys only, so each is an angle of its own."""
    return F.normalize(query_BTQ.unflatten(-1, (2, -1)), dim=-1).flatten(-2)


def select(scores: HalfScores, *, num_selected: int) -> Selection:
    """The num_selected best of all n*n sums, exactly, from the best K of each half; softmax of the kept scores.

    A pair (a-th best, b-th best) has at least (a+1)(b+1) sums at or above its own, so only the pairs with
    (a+1)(b+1) <= K can be among the best K: 50 of the 256 at K = 16. Choosing needs no gradient; the scores that were
    chosen are read again with one, so the backward touches K numbers a half and not K*K.
    """
    K, n = num_selected, scores.first_BTn.shape[-1]
    with torch.no_grad():
        first_BTK, row_BTK = _best(scores.first_BTn, K)
        second_BTK, column_BTK = _best(scores.second_BTn, K)
        a_P, b_P = _candidate_pairs(K, scores.first_BTn.device).unbind()
        pair_BTK = (first_BTK[..., a_P] + second_BTK[..., b_P]).topk(K, dim=-1).indices
        row_BTK = row_BTK.gather(-1, a_P[pair_BTK])
        column_BTK = column_BTK.gather(-1, b_P[pair_BTK])
    kept_BTK = scores.first_BTn.gather(-1, row_BTK) + scores.second_BTn.gather(-1, column_BTK)
    return Selection(weight_BTK=kept_BTK.softmax(dim=-1), index_BTK=row_BTK * n + column_BTK)


def selection_shares(selection: Selection, *, n: int) -> Tensor:
    """How often each sub-key was selected, [2, n] counts, a half a row; no gradient."""
    index_M = selection.index_BTK.flatten()
    one_M = torch.ones_like(index_M, dtype=torch.float32)
    zeros_n = torch.zeros(n, device=index_M.device)
    return torch.stack([zeros_n.index_add(0, index_M // n, one_M), zeros_n.index_add(0, index_M % n, one_M)])


def balance_loss(scores: HalfScores, counts_2n: Tensor) -> Tensor:
    """n * sum_i f_i p_i, averaged over the halves; 1.0 when uniform (Fedus et al. 2021, arXiv 2101.03961, eq. 4-6).

    f: share of the selections with sub-key i, from `counts_2n` (summed over ranks by the caller); p: mean softmax of
    the scores. On the two marginals, so nothing is N-sized.
    """
    n = scores.first_BTn.shape[-1]
    share_2n = counts_2n / counts_2n.sum(dim=-1, keepdim=True)
    mean_2n = torch.stack([_mean_softmax(half.flatten(0, -2)) for half in scores])
    return n * (share_2n * mean_2n).sum(dim=-1).mean()


def _mean_softmax(scores_Pn: Tensor) -> Tensor:
    """Mean over positions of softmax over sub-keys, [n]."""
    return _MeanSoftmax.apply(scores_Pn)  # pyright: ignore[reportReturnType]


class _MeanSoftmax(torch.autograd.Function):
    """d/ds sum_i g_i p_i = softmax(s) * (g - softmax(s) . g) / P: one product of [P, n], where autograd spreads g over
    all positions first."""

    @staticmethod
    def forward(ctx: Any, scores_Pn: Tensor) -> Tensor:
        share_Pn = scores_Pn.softmax(dim=-1)
        ctx.save_for_backward(share_Pn)
        return share_Pn.mean(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_n: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (share_Pn,) = ctx.saved_tensors
        slope_n = slope_n / len(share_Pn)
        return (slope_n - (share_Pn * slope_n).sum(dim=-1, keepdim=True)).mul_(share_Pn)


def _best(scores_BTn: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """(values, columns) of the K best, best first.

    They stand in the K groups with the largest maxima, so on CPU, where `topk` costs by the element, it looks at n/g
    maxima and then at K*g scores, g being about sqrt(n/K).
    """
    n = scores_BTn.shape[-1]
    group = 2 ** round(math.log2(n / K) / 2)
    if scores_BTn.device.type != "cpu" or group == 1 or n % group or n < 8 * K:
        values_BTK, column_BTK = scores_BTn.topk(K, dim=-1)
        return values_BTK, column_BTK
    groups = n // group  # group j: columns j, j + groups, j + 2 groups, ...
    best_BTK = scores_BTn.unflatten(-1, (group, groups)).amax(dim=-2).topk(K, dim=-1, sorted=False).indices
    offset_g1 = torch.arange(0, n, groups, device=scores_BTn.device)[:, None]
    candidate_BTC = (best_BTK[..., None, :] + offset_g1).flatten(-2)
    values_BTK, at_BTK = scores_BTn.gather(-1, candidate_BTC).topk(K, dim=-1)
    return values_BTK, candidate_BTC.gather(-1, at_BTK)


@torch.compiler.assume_constant_result
def _candidate_pairs(K: int, device: torch.device) -> Tensor:
    """[2, P]: the ranks (a, b) of the pairs that can be among the best K. A compiler takes them for a constant."""
    return _cached_pairs(K, device)


@functools.lru_cache(maxsize=32)
def _cached_pairs(K: int, device: torch.device) -> Tensor:
    pairs = [(a, b) for a in range(K) for b in range(K) if (a + 1) * (b + 1) <= K]
    return torch.tensor(pairs, device=device).T.contiguous()
