"""Product-key retrieval (Lample et al. 2019, "Large Memory Layers with Product Keys", arXiv 1907.05242, section 3.1).

Letters: B batch, T tokens, Q query width, n = sqrt(N) sub-keys a half, N entries, K entries selected.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor


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


def select(scores: HalfScores, *, num_selected: int) -> Selection:
    """The num_selected best of all n*n sums, exactly, from the best K of each half; softmax of the kept scores.

    A pair (a-th best, b-th best) has at least (a+1)(b+1) sums at or above its own, so only the pairs with
    (a+1)(b+1) <= K can be among the best K: 50 of the 256 at K = 16. Choosing needs no gradient; the scores that were
    chosen are read again with one, so the backward touches K numbers a half and not K*K.
    """
    K, n = num_selected, scores.first_BTn.shape[-1]
    with torch.no_grad():
        first_BTK, row_BTK = scores.first_BTn.topk(K, dim=-1)
        second_BTK, column_BTK = scores.second_BTn.topk(K, dim=-1)
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
    mean_2n = torch.stack([half.softmax(dim=-1).flatten(0, -2).mean(dim=0) for half in scores])
    return n * (share_2n * mean_2n).sum(dim=-1).mean()


@torch.compiler.assume_constant_result
def _candidate_pairs(K: int, device: torch.device) -> Tensor:
    """[2, P]: the ranks (a, b) of the pairs that can be among the best K. A compiler takes them for a constant."""
    return _cached_pairs(K, device)


@functools.lru_cache(maxsize=32)
def _cached_pairs(K: int, device: torch.device) -> Tensor:
    pairs = [(a, b) for a in range(K) for b in range(K) if (a + 1) * (b + 1) <= K]
    return torch.tensor(pairs, device=device).T.contiguous()
