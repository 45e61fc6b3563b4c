"""Measures what a model knows: the cost of a fact's object, and whether it is the cheapest of its relation's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.data import Probe
from model.data.tokenizer import Tokenizer
from model.evaluate.losses import continuation_nats
from model.transformer import Transformer


def fact_metrics(
    model: Transformer,
    probes: Sequence[Probe],
    *,
    tokenizer: Tokenizer,
    limit: int,
    batch_size: int,
    seq_len: int,
    entry_of_fact: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """fact_nll (nats an object) and fact_accuracy of the first `limit` probes of each kind, and of seen and held-out
    paraphrases together. A kind without probes is absent. Where m objects tie for the first place, each counts as 1/m
    of a right answer: in bf16 costs are often equal. `entry_of_fact`: of the entries that `read: oracle` hands over."""
    metrics: dict[str, float] = {}
    for kind in ("seen", "heldout", "kb_only"):
        chosen = [probe for probe in probes if probe.kind == kind][:limit]
        if not chosen:
            continue
        nll, accuracy = _score(model, chosen, entry_of_fact, tokenizer, batch_size=batch_size, seq_len=seq_len)
        metrics[f"fact_nll_{kind}"], metrics[f"fact_accuracy_{kind}"] = nll, accuracy
    for name in ("fact_nll", "fact_accuracy"):
        parts = [metrics[f"{name}_{kind}"] for kind in ("seen", "heldout") if f"{name}_{kind}" in metrics]
        if parts:
            metrics[name] = sum(parts) / len(parts)
    return metrics


def _score(
    model: Transformer,
    probes: Sequence[Probe],
    entry_of_fact: NDArray[np.int64] | None,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    seq_len: int,
) -> tuple[float, float]:
    pairs, owner, right = [], [], []
    for number, probe in enumerate(probes):
        prefix = [tokenizer.eos_id, *tokenizer.encode_one(probe.prefix)]
        for candidate, ids in zip(probe.candidates, tokenizer.encode(probe.candidates), strict=True):
            pairs.append((prefix, ids))
            owner.append(number)
            right.append(candidate == probe.object)
    told = None if entry_of_fact is None else [int(entry_of_fact[probes[number].fact]) for number in owner]
    nats = continuation_nats(model, pairs, batch_size=batch_size, seq_len=seq_len, entries=told)
    owner_M, right_M = torch.tensor(owner), torch.tensor(right)
    cost_right = nats[right_M]  # one a probe, in order
    best = torch.full((len(probes),), torch.inf, dtype=nats.dtype).scatter_reduce(0, owner_M, nats, reduce="amin")
    first = torch.bincount(owner_M[nats == best[owner_M]], minlength=len(probes))
    return cost_right.mean().item(), ((cost_right == best) / first).mean().item()
