"""How much of its card a process may take."""

from __future__ import annotations

import torch

GIB = 2**30


def hold_to(share: float, *, context_gib: float) -> None:
    """Let this process's allocator take `share` of its card and no more, `context_gib` for CUDA's context taken off.

    What is asked for beyond that raises torch.OutOfMemoryError here, and takes nothing from the card's other processes.
    Does nothing without CUDA.
    """
    if torch.cuda.is_available():
        card_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - context_gib * GIB / card_bytes))
