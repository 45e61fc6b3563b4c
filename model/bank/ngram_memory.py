"""`ngram`: tables that hashes of the last tokens address (Engram, Cheng et al. 2026, arXiv 2601.07372).

A positive control: what follows two or three tokens is known to be worth storing, and a table can store it.

Letters: B batch, T tokens, S tables, n tokens of the longest n-gram, R rows of all tables, w width of a row, E = S*w,
D dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.bank.layer_inputs import LayerInputs
from model.config import NGRAM_HEADS, NGRAM_ORDERS, ModelConfig, ngram_primes, row_memory, stream_seed
from model.layers import NORM_EPS, SwiGLU


class NgramMemory(nn.Module):
    """SwiGLU(u) + g * W_v e, with e the rows of the last tokens and g = sigmoid(rms(u) . rms(W_k e) / sqrt(D)).

    `rows_RE` holds the tables one after another.
    """

    prime_S: Tensor
    offset_S: Tensor
    factor_nS: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes, primes = row_memory(config), ngram_primes(config.ngram_rows)
        width = sizes.touched * sizes.width
        self.before = config.vocab_size
        """The id before the first token: no token has it."""
        self.rows_RE = nn.Parameter(torch.empty(sizes.rows, sizes.width), requires_grad=config.memory_rows == "trained")
        self.key = nn.Linear(width, config.dim, bias=False)
        self.value = nn.Linear(width, config.dim, bias=False)
        self.net = SwiGLU(dim_in=config.dim, hidden=sizes.hidden, dim_out=config.dim)
        offsets = [sum(primes[:table]) for table in range(len(primes))]
        self.register_buffer("prime_S", torch.tensor(primes), persistent=False)
        self.register_buffer("offset_S", torch.tensor(offsets), persistent=False)
        self.register_buffer("factor_nS", torch.tensor(hash_factors()).T.contiguous(), persistent=False)

    def forward(self, u_BTD: Tensor, inputs: LayerInputs) -> tuple[Tensor, None]:
        """The gate compares directions, so that it starts near 1/2 whatever the scale of the rows."""
        row_BTS = self.offset_S + hashes(inputs.ids_BT, self.factor_nS, before=self.before) % self.prime_S
        e_BTE = F.embedding(row_BTS, self.rows_RE).flatten(-2)
        match_BT1 = (rms(u_BTD) * rms(self.key(e_BTE))).sum(dim=-1, keepdim=True)
        gate_BT1 = (match_BT1 / math.sqrt(u_BTD.shape[-1])).sigmoid()
        return self.net(u_BTD) + gate_BT1 * self.value(e_BTE), None


def rms(x_BTD: Tensor) -> Tensor:
    """Each state divided by the root of its mean square."""
    return F.rms_norm(x_BTD, (x_BTD.shape[-1],), eps=NORM_EPS)


def hashes(ids_BT: Tensor, factor_nS: Tensor, *, before: int) -> Tensor:
    """For each position and table the exclusive or, over the token's distance i back, of factor_nS[i] * id: [B, T, S],
    whole numbers from 0 on. The id `before` stands where a row has not begun."""
    reach, T = factor_nS.shape[0] - 1, ids_BT.shape[1]
    padded = F.pad(ids_BT, (reach, 0), value=before)
    mixed_BTS = ids_BT[..., None] * factor_nS[0]
    for back in range(1, reach + 1):
        mixed_BTS = mixed_BTS ^ (padded[:, reach - back : reach - back + T, None] * factor_nS[back])
    return mixed_BTS


def hash_factors() -> list[list[int]]:
    """[S, n]: for each table an odd factor below 2^31 for each token that it hashes, the last one first, and 0 for the
    others. A product with an id is below 2^63, so that every device computes the same. The same in every run."""
    longest = max(NGRAM_ORDERS)
    return [
        [stream_seed(0, f"ngram/{order}/{head}/{back}") % 2**31 | 1 if back < order else 0 for back in range(longest)]
        for order in NGRAM_ORDERS
        for head in range(NGRAM_HEADS)
    ]
