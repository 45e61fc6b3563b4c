"""What a run costs: time, memory, how busy the GPU is. Reading a meter may wait for the device; a step never does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import torch

GIB = 2**30


class Stopwatch:
    """Total time of one kind of work since the last reading. On CUDA it records events, so starting and stopping does
    not wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds, self._count = 0.0, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the work inside the `with` block as one piece."""
        if self._cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._spans.append((begin, end))
        else:
            begin_s = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begin_s
        self._count += 1

    def read_s(self) -> tuple[float, int]:
        """(seconds, pieces of work) since the last reading; starts again from zero."""
        if self._spans:
            torch.cuda.synchronize()
            self._seconds = sum(begin.elapsed_time(end) for begin, end in self._spans) / 1e3
        reading = self._seconds, self._count
        self._spans, self._seconds, self._count = [], 0.0, 0
        return reading


class _Resident:
    """The peak of this process's resident memory since `restart`, in GiB.

    It is the kernel's mark. Where the kernel does not take back the mark of an earlier run, the largest sample stands
    in for it, until this run passes that mark.
    """

    def __init__(self) -> None:
        self._earlier_gib, self._sampled_gib = 0.0, 0.0

    def restart(self) -> None:
        """Begin a run: take the kernel's mark back to what is resident now (Linux; proc(5), clear_refs)."""
        with contextlib.suppress(OSError):  # another system, or a sandbox without it
            Path("/proc/self/clear_refs").write_text("5")
        self._sampled_gib, mark_gib = _resident_gib(), _mark_gib()
        self._earlier_gib = mark_gib if mark_gib > 1.01 * self._sampled_gib else 0.0  # the kernel counts by batches

    def peak_gib(self) -> float:
        """The peak so far."""
        self._sample()
        mark_gib = _mark_gib()
        return mark_gib if mark_gib > self._earlier_gib else self._sampled_gib

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Take samples in a thread inside the `with` block, where the kernel's mark is an earlier run's."""
        if not self._earlier_gib:
            yield
            return
        ended = Event()
        thread = Thread(target=self._sample_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _sample_until(self, ended: Event) -> None:
        while not ended.wait(_SAMPLE_S):
            self._sample()

    def _sample(self) -> None:
        self._sampled_gib = max(self._sampled_gib, _resident_gib())


_SAMPLE_S = 0.02


def _resident_gib() -> float:
    return psutil.Process().memory_info().rss / GIB


def _mark_gib() -> float:
    """The most that was resident at once. On Linux not by getrusage, which counts what the process that started this
    one had resident, too."""
    with contextlib.suppress(OSError):
        mark = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if mark is not None:
            return int(mark[1]) * 1024 / GIB
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


resident = _Resident()
"""The meter of this process."""


def reset_peaks() -> None:
    """Reset the peaks of memory, for a run in a process that trained before.

    Memory that an earlier run freed and the C library keeps counts as resident, so glibc gives it back first.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # a C library that is not glibc
            ctypes.CDLL(None).malloc_trim(0)
    resident.restart()


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Peaks since `reset_peaks` in GiB: the allocator's on CUDA, the process's elsewhere."""
    rss_gib = resident.peak_gib()
    if device.type != "cuda":
        return {"peak_rss_gib": rss_gib, "peak_gib": rss_gib}
    reserved_gib = torch.cuda.max_memory_reserved(device) / GIB
    return {
        "peak_allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "peak_reserved_gib": reserved_gib,
        "peak_rss_gib": rss_gib,
        "peak_gib": reserved_gib,
    }


def nvml_memory(device: torch.device) -> dict[str, float]:
    """`nvml_used_gib`: what this process holds of its GPU, context included. Empty where NVML does not say (another
    process namespace, no permission, no GPU)."""
    if device.type != "cuda":
        return {}
    import pynvml

    try:
        handle = _nvml_handle(device)
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        processes += pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return {}
    held = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return {"nvml_used_gib": max(held) / GIB} if held and None not in held else {}


def hold_to_share(share: float, *, context_gib: float) -> None:
    """Let this process's allocator take `share` of its GPU's memory and no more; `context_gib` of it is CUDA's context.

    What is asked for beyond that raises torch.OutOfMemoryError here, and takes nothing from the GPU's other processes.
    Does nothing without CUDA.
    """
    if torch.cuda.is_available():
        gpu_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, share - context_gib * GIB / gpu_bytes))


class Peaks:
    """The largest readings of a run: of the allocator's and the process's peaks, and of what NVML says."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seen: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """Read the meters, and return the largest values so far."""
        for name, gib in (memory_metrics(self._device) | nvml_memory(self._device)).items():
            self._seen[name] = max(gib, self._seen.setdefault(name, gib))
        return dict(self._seen)


def gpu_utilisation(device: torch.device) -> dict[str, float]:
    """`gpu_util_pct` where NVML answers for this device; otherwise empty."""
    if device.type != "cuda":
        return {}
    import pynvml

    try:
        return {"gpu_util_pct": float(pynvml.nvmlDeviceGetUtilizationRates(_nvml_handle(device)).gpu)}
    except pynvml.NVMLError:
        return {}


def _nvml_handle(device: torch.device) -> Any:
    """NVML's handle of a GPU, by its UUID: NVML numbers all GPUs of the machine, torch only those the process sees."""
    import pynvml

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(device).uuid
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
