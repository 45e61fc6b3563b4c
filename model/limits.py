"""How much of its card a process may take."""

from __future__ import annotations

import torch

from model.footprint import CONTEXT_GIB

GIB = 2**30


def hold_to(share: float) -> None:
    """Let this process's allocator take `share` of its card and no more, the context's part taken off.

    What is asked for beyond that raises torch.OutOfMemoryError here, and takes nothing from the card's other processes.
    Does nothing without CUDA.
    """
    if torch.cuda.is_available():
        card_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(allocator_fraction(share, card_bytes=card_bytes))


def allocator_fraction(share: float, *, card_bytes: int) -> float:
    """What of a share of a card of so many bytes is left for the allocator."""
    return max(0.0, share - CONTEXT_GIB * GIB / card_bytes)
