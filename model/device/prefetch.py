"""Prepares the batches of the next steps while the present step trains.

A batch is a pure function of its step, so prefetching changes the time and nothing else, and a resumed run reads what
an uninterrupted one reads.
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
"""The name of its thread."""


class Prefetcher(Generic[T]):
    """`take(step)` returns `read(step)`, which one thread prepares at most `ahead` steps early.

    Take each of `steps` once and in order. An exception of `read` is raised by the `take` of its step. The thread lives
    within the `with` block; at its end it finishes the batch that it is reading. With `ahead` 0 there is no thread, and
    `take` reads.
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
        """The batch of `step`, which must be the next of the steps."""
        if not self._ahead:
            return self._read(step)
        while len(self._waiting) <= self._ahead and (later := next(self._steps, None)) is not None:
            self._waiting.append((later, self._pool.submit(self._read, later)))
        prepared, batch = self._waiting.popleft()
        assert prepared == step, f"step {step} was asked for, and step {prepared} is the next"
        return batch.result()


def ahead_on(device: torch.device) -> int:
    """How many steps to prepare. On CUDA the host is idle while the GPU works. A CPU has no idle core, and its batches
    take a thousandth of a step (docs/log.md)."""
    return 2 if device.type == "cuda" else 0


def on_host(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor that `device` can copy without the host waiting: pinned on CUDA."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    with torch.cuda.device(device):  # another thread would open a context on GPU 0
        return tensor.pin_memory()
