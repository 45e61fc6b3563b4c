"""What a piece of code does to the device: how often it waits for it, how many bytes it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "item")


class Operations(TorchDispatchMode):
    """Counts the operations that run inside, backward included. `waits` are those whose result's size or value the host
    must know; a look-up by a mask is one, and its name does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.all[name] += 1
        if any(wait in name for wait in WAITS):
            self.waits[name] += 1
        if name in {"index", "index_put", "index_put_"} and any(
            index is not None and index.dtype in {torch.bool, torch.uint8} for index in args[1]
        ):
            self.waits["mask"] += 1
        return func(*args, **(kwargs or {}))


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that `work` held at once beyond what there was, by the CPU allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = work()
    del kept
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]  # pyright: ignore[reportOptionalMemberAccess]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, held)
    return peak
