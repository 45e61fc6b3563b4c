"""`refresh: frequency`: moves sub-keys that no query selects, and rewrites the entries that only they lead to.

The sub-keys decide which entries a query reaches. Rewriting an entry that no query selects would change nothing: its
keys have to move to where the queries are. A sub-key is a row of one half of a layer. It is dead when no position of
any micro-batch selected it through `refresh_after` updates. A dead row becomes

    key = |k| * (q / |q| + 0.1 * noise / sqrt(h)),        noise ~ N(0, 1)^h

where q is its half of a query of the present micro-batch and |k| the mean norm of that half's other keys. (At its own
length a normalised query would outscore every learned key; at theirs, similar queries select it.) Adam's moments of the
row become 0.

The layers share the bank, so an entry is rewritten only where no layer can reach it after this update. It gets one
recent feature: in a bank of tokens all its slots get the nearest token of a u, and its residual what the token leaves
out of u; a vector becomes the query. Frozen entries stay, and with `ema: off` all entries.

Draws come from a stream named by the step, and every rank uses rank 0's queries and features.

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
from model.bank.primitives.ranks import from_first_rank
from model.config import Config, reseeded, stream_seed

NOISE = 0.1
SEEDS = 256
"""Features that each layer draws to rewrite entries with."""


def note(bank: MemoryBank, reads: list[Read]) -> None:
    """Note, after every micro-batch, which rows were selected: they get -1, which the next update raises to 0. Does not
    wait for the device."""
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
    """Count an update, reset the rows that are now dead, and rewrite the entries that only they led to.

    `sub_keys`: those of each layer that reads. Waits for the device once where no row is dead. Every rank must call it.
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
        others_n.fill_(1)  # all are dead, so there are no other norms
    size = (norm_n * others_n).sum() / others_n.sum()
    noise_Mh = torch.randn(query_Mh.shape, generator=generator).to(query_Mh.device)
    place_Mh = F.normalize(query_Mh, dim=-1) + NOISE * noise_Mh / query_Mh.shape[-1] ** 0.5
    keys_2nh[half, index_M] = (size * place_Mh).to(keys_2nh.dtype)


def _unreachable(dead_X2n: Tensor) -> Tensor:
    """Entries (i, j) that no layer can reach: their row i or column j is dead in each. int64 [S]."""
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
    """`count` positions of this micro-batch, drawn with replacement; rank 0's on every rank. fp32 [count, F]."""
    values_PF = values_BTF.flatten(0, -2)
    position_M = torch.randint(len(values_PF), (count,), generator=generator).to(values_PF.device)
    return from_first_rank(values_PF[position_M].float().contiguous())
