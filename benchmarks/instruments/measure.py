"""Measuring on a machine that others may use too: two works in turn, medians of ratios, bytes from the allocator."""

from __future__ import annotations

import ctypes
import gc
import operator
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded; it tells of every start and stop otherwise

from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long a comparison goes on: `rounds` of both works, fewer (but `least`) once `budget_s` seconds are spent."""

    rounds: int
    least: int
    budget_s: float


@dataclass(frozen=True)
class Comparison:
    """`ratio`: median over the rounds of (time of the first / time of the second); the medians of both, seconds."""

    ratio: float
    first_s: float
    second_s: float
    rounds: int


def compare(first: Work, second: Work, *, effort: Effort, warm_up: int = 1) -> Comparison:
    """Run both in turn, the order turned round each time, so that what slows the machine down slows both."""
    for _ in range(warm_up):
        first()
        second()
    first_s: list[float] = []
    second_s: list[float] = []
    begun_s = time.perf_counter()
    while len(first_s) < effort.rounds:
        if len(first_s) >= effort.least and time.perf_counter() - begun_s > effort.budget_s:
            break
        if len(first_s) % 2:
            second_s.append(seconds(second))
            first_s.append(seconds(first))
        else:
            first_s.append(seconds(first))
            second_s.append(seconds(second))
    ratios = [one / other for one, other in zip(first_s, second_s, strict=True)]
    return Comparison(median(ratios), median(first_s), median(second_s), len(ratios))


def seconds(work: Work) -> float:
    """Wall time of one run."""
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s


def peak_bytes(work: Work) -> int:
    """The most that is allocated at a time during `work`, beyond what was there before, by the CPU allocator's own
    account: what operators take and give back inside is counted too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = work()  # what it returns lives until the end
    kineto = profiler.profiler
    assert kineto is not None, "a profile that has ended has results"
    results = kineto.kineto_results
    assert results is not None, "a profile that has ended has results"
    changes = [event for event in results.events() if event.name() == "[memory]"]
    nbytes = operator.methodcaller("nbytes")  # which the type stubs do not know
    live = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        live += nbytes(event)
        peak = max(peak, live)
    del kept
    return peak


def peak_resident_bytes(work: Work) -> int:
    """The most memory that the process holds during `work`, beyond what it held before, as Linux counts it: for work
    of millions of operators, each of which `peak_bytes` would keep a note of."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before would be used again without being counted
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is now
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 2**10
