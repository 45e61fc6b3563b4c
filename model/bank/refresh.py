"""`refresh: frequency`: a sub-key that nothing selects gets another place, and what only it led to another content.

Which entries a query reaches depends on the sub-keys, so rewriting an entry nobody selects revives nothing: its keys
have to move to where the queries are. A sub-key is a row of one layer's half; it is dead when no position of any
micro-batch selected it through `refresh_after` updates, each with the micro-batches before it. A dead row becomes

    key = |k| * (q / |q| + 0.1 * noise / sqrt(h)),        noise ~ N(0, 1)^h

where q is its half of a query of the present micro-batch and |k| the mean norm of that half's other keys. (Taken at its
own length a normalised query would outscore every learned key; with theirs it is selected by its like.) Adam's moments
of the row are cleared. The bank is shared by the layers, so an entry is re-seeded only where every layer is without a
way to it, by the same update: each such entry gets one recent feature, encoded: all its slots the nearest token of a u,
a vector the query itself, a residual what the token leaves out of u. Frozen entries are left alone, and all entries
with `ema: off`.

Draws come from a stream named by the step; rank 0's queries and features are everybody's.

Letters: X layers that read, n = sqrt(N) sub-keys a half, h = Q/2, P positions, M features drawn, S entries, L, D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.bank import feature_cache
from model.bank.encode import nearest_tokens, output_head
from model.bank.memory import Read
from model.bank.memory_bank import MemoryBank
from model.bank.ranks import from_first_rank
from model.config import Config, reseeded, stream_seed

NOISE = 0.1
SEEDS = 256
"""Features drawn a layer to re-seed entries from."""


def note(bank: MemoryBank, reads: list[Read]) -> None:
    """After every micro-batch: a row that was selected is at -1, from which the next update brings it to 0. Waits for
    nothing."""
    used_X2n = torch.stack([read.counts_2n for read in reads]) > 0
    bank.idle_X2n.masked_fill_(used_X2n, -1)


@torch.no_grad()
def refresh(
    bank: MemoryBank,
    reads: list[Read],
    *,
    sub_keys: Sequence[Tensor],
    table_VD: Tensor,
    optimizer: torch.optim.Optimizer,
    config: Config,
    step: int,
) -> None:
    """One update has passed: count it, reset the rows that are dead by now, re-seed what they led to.

    Waits for the device once where nothing is dead. Every rank must call it.
    """
    model_config = config.model
    bank.idle_X2n += 1
    dead_X2n = bank.idle_X2n >= model_config.refresh_after
    rows = dead_X2n.nonzero().tolist()
    if not rows:
        return
    generator = torch.Generator().manual_seed(
        stream_seed(reseeded(config.train.seed, config.train.reseed), f"refresh/{step}")
    )
    for reader, (keys_2nh, read) in enumerate(zip(sub_keys, reads, strict=True)):
        for half in (0, 1):
            dead = [row for x, a_half, row in rows if (x, a_half) == (reader, half)]
            if dead:
                query_Mh = _drawn(read.query_BTQ, count=len(dead), generator=generator).chunk(2, dim=-1)[half]
                index_M = torch.tensor(dead, device=keys_2nh.device)
                _reset(keys_2nh, half, index_M, query_Mh, generator=generator)
                for name in ("exp_avg", "exp_avg_sq"):
                    if name in optimizer.state[keys_2nh]:
                        optimizer.state[keys_2nh][name][half, index_M] = 0
    if model_config.ema == "on":
        entry_S = _unreachable(dead_X2n)
        entry_S = entry_S[entry_S >= model_config.frozen_entries]
        pool_MD = torch.cat([_drawn(read.features_BTD, count=SEEDS, generator=generator) for read in reads])
        pick_S = torch.randint(len(pool_MD), (len(entry_S),), generator=generator).to(entry_S.device)
        _seed_entries(bank, entry_S, pool_MD, pick_S, table_VD=table_VD)
    bank.idle_X2n.masked_fill_(dead_X2n, 0)
    bank.refreshed += len(rows)


def _reset(keys_2nh: Tensor, half: int, index_M: Tensor, query_Mh: Tensor, *, generator: torch.Generator) -> None:
    norm_n = keys_2nh[half].norm(dim=-1)
    others_n = torch.ones_like(norm_n).index_fill_(0, index_M, 0)
    if len(index_M) == len(norm_n):
        others_n.fill_(1)  # all are dead: their own norms are all there is
    size = (norm_n * others_n).sum() / others_n.sum()
    noise_Mh = torch.randn(query_Mh.shape, generator=generator).to(query_Mh.device)
    place_Mh = F.normalize(query_Mh, dim=-1) + NOISE * noise_Mh / query_Mh.shape[-1] ** 0.5
    keys_2nh[half, index_M] = (size * place_Mh).to(keys_2nh.dtype)


def _unreachable(dead_X2n: Tensor) -> Tensor:
    """Entries (i, j) to which no layer has a way left: its row i or its column j is dead in each. int64 [S]."""
    cut_nn = torch.ones(dead_X2n.shape[-1], dead_X2n.shape[-1], dtype=torch.bool, device=dead_X2n.device)
    for first_n, second_n in dead_X2n:
        cut_nn &= first_n[:, None] | second_n[None, :]
    return cut_nn.flatten().nonzero().flatten()


def _seed_entries(bank: MemoryBank, entry_S: Tensor, pool_MD: Tensor, pick_S: Tensor, *, table_VD: Tensor) -> None:
    if bank.config.memory == "vector":
        bank.vectors_NQ[entry_S] = pool_MD[pick_S].to(bank.vectors_NQ.dtype)
        return
    pool_MD = pool_MD.to(table_VD.dtype)
    token_M = nearest_tokens(pool_MD, head_VD=output_head(table_VD, bank.config))
    bank.tokens_NL[entry_S] = token_M[pick_S].to(bank.tokens_NL.dtype)[:, None]
    if bank.config.memory == "hybrid":
        bank.residual_NR[entry_S] = ((pool_MD - table_VD[token_M]) @ bank.sketch_RD.T)[pick_S]
    if bank.has_cache:
        feature_cache.forget(bank, entry_S)


def _drawn(values_BTF: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
    """`count` positions of this micro-batch, drawn with replacement; rank 0's, on every rank. fp32 [count, F]."""
    values_PF = values_BTF.flatten(0, -2)
    position_M = torch.randint(len(values_PF), (count,), generator=generator).to(values_PF.device)
    return from_first_rank(values_PF[position_M].float().contiguous())
