"""Measures a model on held-out text: its loss, what reading its bank is worth, how it uses the entries.

Letters: R rows of T tokens, B rows at a time, N entries, X layers that read, D dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.config import stream_seed
from model.data import IGNORED, FixedRows
from model.loss import token_nats
from model.metrics import Metrics
from model.transformer import Output, Transformer


@dataclass(frozen=True)
class Loss:
    """Sum of nats over `tokens` targets; of these `object_nats` over the `object_tokens` that belong to an object."""

    nats: float
    tokens: int
    object_nats: float = 0.0
    object_tokens: int = 0

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def parts(self) -> dict[str, float]:
        """Nats a token of the objects, and of all other text; empty where no objects are known."""
        rest = self.tokens - self.object_tokens
        if not self.object_tokens or not rest:
            return {}
        return {
            "val_object_nats": self.object_nats / self.object_tokens,
            "val_rest_nats": (self.nats - self.object_nats) / rest,
        }


@dataclass
class Usage:
    """How each layer used the bank in a pass, summed over positions: counts of each entry, exp of the entropy of the
    read weights, the read."""

    counts_XN: Tensor
    spread_X: Tensor
    read_XD: Tensor
    positions: int = 0
    balance: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, *, layers: int, entries: int, dim: int, device: torch.device) -> Usage:
        """A usage before the first forward."""
        return cls(
            counts_XN=torch.zeros(layers, entries, device=device),
            spread_X=torch.zeros(layers, device=device),
            read_XD=torch.zeros(layers, dim, device=device),
        )

    def add(self, output: Output) -> None:
        """Count one forward."""
        for layer, read in enumerate(output.reads):
            weight, index = read.selection
            flat = index.flatten()
            self.counts_XN[layer].index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
            self.spread_X[layer] += torch.special.entr(weight).sum(dim=-1).exp().sum()
            self.read_XD[layer] += read.read_BTD.flatten(0, -2).sum(dim=0)
        self.positions += output.hidden_BTD.shape[0] * output.hidden_BTD.shape[1]
        self.balance.append(output.balance)

    def remember(self, model: Transformer) -> None:
        """Write the counts, summed over layers, to the bank's buffers: `python -m model.bank` shows them."""
        model.bank.used_N.copy_(self.counts_XN.sum(dim=0))
        model.bank.used_tokens.fill_(self.positions)

    def metrics(self, *, num_selected: int) -> Metrics:
        """Coverage, effective entries, read entropy and balance of the pass."""
        counts_XN, entries = self.counts_XN.double(), self.counts_XN.shape[1]
        layers, draws = counts_XN.shape[0], counts_XN.sum().item()
        share_XN = counts_XN / counts_XN.sum(dim=1, keepdim=True)
        effective_X = torch.special.entr(share_XN).sum(dim=1).exp()
        read_X = self.spread_X.double() / self.positions / num_selected
        return {
            "coverage": (counts_XN.sum(dim=0) > 0).double().mean().item(),
            "coverage_uniform": 1 - math.exp(-draws / entries),
            "coverage_window_tokens": self.positions,
            "coverage_by_layer": (counts_XN > 0).double().mean(dim=1).tolist(),
            "effective_entries": effective_X.sum().item() / layers,
            "effective_entries_by_layer": effective_X.tolist(),
            "read_entropy": read_X.sum().item() / layers,
            "read_entropy_by_layer": read_X.tolist(),
            "balance_loss": torch.stack(self.balance).mean().item(),
        }


@torch.no_grad()
def text_loss(
    model: Transformer,
    rows: FixedRows,
    *,
    batch_size: int,
    usage: Usage | None = None,
    replace_reads_XD: Tensor | None = None,
) -> Loss:
    """Cross-entropy over all targets of the rows."""
    device = model.table.weight.device
    nats_2 = torch.zeros(2, dtype=torch.float64, device=device)
    of_object_RT = np.zeros(rows.y.shape, bool) if rows.facts is None else rows.facts >= 0
    for start in range(0, len(rows.x), batch_size):
        part = slice(start, start + batch_size)
        x_BT, y_BT = (torch.from_numpy(ids[part]).to(device) for ids in (rows.x, rows.y))
        output = model(x_BT, None, replace_reads_XD, _right(rows, part, device))
        nats_P = token_nats(output.hidden_BTD.flatten(0, 1), model.table.weight, y_BT.flatten())
        of_object_P = torch.from_numpy(of_object_RT[part]).to(device).flatten()
        nats_2 += torch.stack([nats_P.sum(), (nats_P * of_object_P).sum()])
        if usage is not None:
            usage.add(output)
    nats, object_nats = nats_2.tolist()
    return Loss(nats, int((rows.y != IGNORED).sum()), object_nats, int(of_object_RT.sum()))


def _right(rows: FixedRows, part: slice, device: torch.device) -> Tensor | None:
    return None if rows.entries is None else torch.from_numpy(rows.entries[part]).to(device)


def bank_use(model: Transformer, rows: FixedRows, *, batch_size: int, base: Loss, usage: Usage) -> dict[str, float]:
    """What reading is worth, nats a token: the loss with the bank's rows permuted, with the read zeroed, and with each
    layer's read replaced by its mean over the same text (from `usage`), each minus the unchanged loss."""
    mean_XD = usage.read_XD / usage.positions

    def replaced(read_XD: Tensor) -> float:
        return text_loss(model, rows, batch_size=batch_size, replace_reads_XD=read_XD).mean - base.mean

    with model.bank.permuted(_some_order(usage.counts_XN.shape[1]).to(model.table.weight.device)):
        permuted = text_loss(model, rows, batch_size=batch_size).mean - base.mean
    return {
        "bank_use_nats": permuted,
        "bank_zero_nats": replaced(torch.zeros_like(mean_XD)),
        "bank_mean_nats": replaced(mean_XD),
    }


def _some_order(entries: int) -> Tensor:
    """A fixed permutation, the same for all trials with banks of one size."""
    generator = torch.Generator().manual_seed(stream_seed(0, "bank permutation"))
    return torch.randperm(entries, generator=generator)


@torch.no_grad()
def continuation_nats(
    model: Transformer,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    batch_size: int,
    seq_len: int,
    entries: Sequence[int] | None = None,
) -> Tensor:
    """The cost of each continuation given its prompt, nats, [pairs]. A long pair loses the start of its prompt.
    `entries`: the entry that an oracle hands over while a pair's continuation is predicted.

    Raises AssertionError for a continuation that does not fit into `seq_len`.
    """
    device = model.table.weight.device
    costs = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        rows = [[*prompt, *rest][-(seq_len + 1) :] for prompt, rest in batch]
        width = max(map(len, rows))
        x_BT, y_BT = np.zeros((len(rows), width - 1), np.int64), np.full((len(rows), width - 1), IGNORED)
        right_BT = np.full_like(x_BT, -1)
        for b, (row, (_, rest)) in enumerate(zip(rows, batch, strict=True)):
            assert 0 < len(rest) < len(row), "a continuation fits into a row, after at least one token"
            x_BT[b, : len(row) - 1] = row[:-1]
            predicts = slice(len(row) - 1 - len(rest), len(row) - 1)
            y_BT[b, predicts] = rest
            if entries is not None:
                right_BT[b, predicts] = entries[start + b]
        right = None if entries is None else torch.from_numpy(right_BT).to(device)
        hidden_PD = model(torch.from_numpy(x_BT).to(device), right_BT=right).hidden_BTD.flatten(0, 1)
        nats_P = token_nats(hidden_PD, model.table.weight, torch.from_numpy(y_BT).to(device).flatten())
        costs.append(nats_P.view(len(rows), -1).sum(dim=1).cpu())
    return torch.cat(costs)


def bank_diversity(bank_NL: Tensor) -> float:
    """The number of different tokens in an entry, mean over the bank."""
    sorted_NL = bank_NL.sort(dim=1).values
    return 1 + (sorted_NL[:, 1:] != sorted_NL[:, :-1]).float().sum(dim=1).mean().item()
