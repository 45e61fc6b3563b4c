"""The next steps' batches, prepared while this one trains.

What a step reads is a pure function of the step, so looking ahead changes nothing but the time: the order is that of
asking, and a resumed run goes on where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

THREAD = "prefetch"
"""How its thread is called."""


class Prefetcher(Generic[T]):
    """`take(step)` is `read(step)`, prepared by one thread at most `ahead` steps before it is asked for.

    Steps are taken in the order of `steps`, each once. What `read` raises is raised by the `take` of its step, after
    all that came before it. The thread lives within the `with` block; it ends with the batch that it is at. With
    `ahead` 0 there is no thread, and `take` reads.
    """

    def __init__(self, read: Callable[[int], T], *, steps: range, ahead: int) -> None:
        self._read, self._steps, self._ahead = read, iter(steps), ahead
        self._waiting: deque[tuple[int, Future[T]]] = deque()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD)  # starts no thread before it has work

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> T:
        """The batch of `step`, which is the next of the steps."""
        if not self._ahead:
            return self._read(step)
        while len(self._waiting) <= self._ahead and (later := next(self._steps, None)) is not None:
            self._waiting.append((later, self._pool.submit(self._read, later)))
        prepared, batch = self._waiting.popleft()
        assert prepared == step, f"step {step} was asked for, and step {prepared} is the next"
        return batch.result()


def ahead_on(device: torch.device) -> int:
    """How far to look ahead: on CUDA the host is free while the card works; a CPU has no idle core to prepare with, and
    its batches are made in a thousandth of a step (docs/log.md)."""
    return 2 if device.type == "cuda" else 0


def on_host(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor that `device` can fetch without the host waiting: pinned on CUDA."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # a thread of its own would open a context on card 0
        return tensor.pin_memory()
