"""Measures what a trial takes while the user's code runs: memory of its processes, and how fast it goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

_GIB = 2**30
_EVERY_S = 0.5


class Meters:
    """Samples the resident memory of this process's tree, or of the tree that `root` begins, and the GPU memory that
    the tree holds. Inside `sampling`."""

    def __init__(self) -> None:
        self.root: int | None = None
        self._rss = self._gpu = 0.0
        self._last = (time.monotonic(), 0)
        self._handles: list[Any] | None = None

    def begin(self, progress: int) -> None:
        """Measure speed from here: a resumed trial begins where it was."""
        self._last = (time.monotonic(), progress)

    @contextmanager
    def sampling(self) -> Iterator[Meters]:
        """Sample twice a second, in a thread."""
        over = threading.Event()

        def sample() -> None:
            while not over.wait(_EVERY_S):
                self.look()

        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()

    def look(self) -> None:
        """Take one sample."""
        with suppress(psutil.Error):
            tree = _tree(self.root)
            rss = 0
            for process in tree:
                with suppress(psutil.Error):
                    rss += process.memory_info().rss
            self._rss = max(self._rss, rss / _GIB)
            self._gpu = max(self._gpu, self._held({process.pid for process in tree}))

    def metrics(self, *, progress: int) -> dict[str, float]:
        """Peaks so far in GiB, and the speed since the last report in units of the budget a second."""
        self.look()
        found = {"peak_rss_gib": self._rss, "peak_gib": self._gpu or self._rss} if self._rss else {}
        now_s = time.monotonic()
        if progress > self._last[1] and now_s > self._last[0]:
            found["tokens_per_s"] = (progress - self._last[1]) / (now_s - self._last[0])
        self._last = (now_s, progress)
        if self._gpu:
            found["nvml_used_gib"] = self._gpu
        return found

    def device(self) -> str:
        """The name of the GPU whose memory was held; `cpu` where none was."""
        if not self._gpu or not self._handles:
            return "cpu"
        import pynvml

        return str(pynvml.nvmlDeviceGetName(self._handles[0]))

    def _held(self, pids: set[int]) -> float:
        """GPU memory that these processes hold, in GiB; 0 where NVML does not say."""
        if self._handles is None:
            self._handles = _gpus()
        if not self._handles:
            return 0.0
        import pynvml

        held = 0
        for handle in self._handles:
            with suppress(pynvml.NVMLError):
                running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
                held += sum(each.usedGpuMemory or 0 for each in running if each.pid in pids)
        return held / _GIB


def _tree(root: int | None) -> list[psutil.Process]:
    top = psutil.Process(root)
    return [top, *top.children(recursive=True)]


def _gpus() -> list[Any]:
    import pynvml  # not at the top: it is needed where there are GPUs

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
