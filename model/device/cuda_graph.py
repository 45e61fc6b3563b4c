"""Replays the forward and backward of a micro-batch as one CUDA graph: the host launches once, and not a thousand
kernels one by one. A small model's step is bound by these launches (docs/gpu.md).

The kernels are the same ones, so the numbers are the same bit for bit. What depends on values or on the step (the
optimiser with its learning rate, the bank's update) stays outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

WARM_UP = 3
"""Calls before the recording: libraries choose and load their kernels in the first ones."""


class Recorded(Generic[T]):
    """`work(*tensors)`, recorded in the call after WARM_UP calls and replayed from then on.

    Each call must bring tensors of the same shapes, on the device or in pinned memory. A replay's result is in the same
    tensors as the result before. `failed` says why nothing could be recorded; the calls then compute as they did.
    """

    def __init__(self, work: Callable[..., T], device: torch.device) -> None:
        self._work, self._device = work, device
        self._stream = torch.cuda.Stream(device)
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: tuple[Tensor, ...] = ()
        self._result: Any = None
        self.failed: str | None = None

    def __call__(self, *tensors: Tensor) -> T:
        """Compute, or replay."""
        self._calls += 1
        if self._graph is None and self._calls > WARM_UP and self.failed is None:
            self._record(tensors)
        if self._graph is None:
            return self._beside(tensors)
        for given, tensor in zip(self._given, tensors, strict=True):
            given.copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._result

    def _beside(self, tensors: tuple[Tensor, ...]) -> T:
        """On the stream of the recording, so that whatever the first calls keep is used by the recording too."""
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = self._work(*(tensor.to(self._device, non_blocking=True) for tensor in tensors))
        here.wait_stream(self._stream)
        return result

    def _record(self, tensors: tuple[Tensor, ...]) -> None:
        self._given = tuple(torch.empty_like(tensor, device=self._device) for tensor in tensors)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        try:
            # Only this thread is held to what a recording allows: the prefetcher pins memory meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._result = self._work(*self._given)
        except RuntimeError as error:
            # No memory for a second set of activations, or an operator that cannot be recorded.
            self._result, self._given = None, ()
            self.failed = str(error).partition("\n")[0]
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        else:
            self._graph = graph
