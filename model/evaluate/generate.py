"""Writes samples, and measures whether they end and whether they repeat."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from model.transformer import Transformer

REPETITION_WINDOW = 8


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    temperature: float,
    eos_id: int,
    pad_id: int,
    seq_len: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """Continue every prompt until EOS, `new_tokens`, or the positions' end; returns the new tokens, EOS included.

    Temperature 0 takes the most likely token. All prompts are one batch, padded on the right: attention is causal, so
    the padding after a position does not affect it.
    """
    device = model.table.weight.device
    length_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = min(seq_len, int(length_B.max()) + new_tokens)
    ids_BT = torch.full((len(prompts), width), pad_id, device=device)
    for row, prompt in enumerate(prompts):
        ids_BT[row, : len(prompt)] = torch.tensor(prompt, device=device)
    row_B, start_B, ended_B = torch.arange(len(prompts), device=device), length_B.clone(), length_B >= width
    for _ in range(new_tokens):
        if ended_B.all():
            break
        longest = int(length_B.max())
        hidden_BTD = model(ids_BT[:, :longest]).hidden_BTD
        logits_BV = model.logits(hidden_BTD[row_B, length_B - 1]).float()
        next_B = _choose(logits_BV, temperature=temperature, generator=generator)
        ids_BT[row_B[~ended_B], length_B[~ended_B]] = next_B[~ended_B]
        length_B = torch.where(ended_B, length_B, length_B + 1)
        ended_B = ended_B | (next_B == eos_id) | (length_B >= width)
    return [ids_BT[row, int(start_B[row]) : int(length_B[row])].tolist() for row in range(len(prompts))]


def _choose(logits_BV: Tensor, *, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits_BV.argmax(dim=-1)
    # Drawn on the CPU, so that one generator gives the same samples on every device.
    share_BV = (logits_BV / temperature).softmax(dim=-1).cpu()
    return torch.multinomial(share_BV, 1, generator=generator).squeeze(-1).to(logits_BV.device)


def text_metrics(continuations: Sequence[Sequence[int]], *, eos_id: int) -> dict[str, float]:
    """eos_rate, distinct_2 (Li et al. 2016, arXiv 1510.03055) and repetition_rate of the samples.

    Samples without a pair of tokens have no distinct_2, and samples without tokens no repetition_rate.
    """
    metrics = {"eos_rate": sum(eos_id in tokens for tokens in continuations) / len(continuations)}
    pairs = [pair for tokens in continuations for pair in pairwise(tokens)]
    if pairs:
        metrics["distinct_2"] = len(set(pairs)) / len(pairs)
    repeats = [
        token in tokens[max(0, at - REPETITION_WINDOW) : at]
        for tokens in continuations
        for at, token in enumerate(tokens)
    ]
    if repeats:
        metrics["repetition_rate"] = sum(repeats) / len(repeats)
    return metrics
