"""Where a trial's worker runs, and its last output, read from outside when the worker cannot send it itself."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from dataclasses import dataclass

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.running.output import Spool

_DUMP = signal.SIGUSR1
_DUMP_S = 0.5
"""Seconds for writing a stack. C code writes it, so it works even if the interpreter hangs."""
_FETCH_S = 10.0


@dataclass(frozen=True)
class Place:
    """Where a trial runs: node (hex), process id, output, placement group (hex). `reused`: process and group are Tune's
    own and serve later trials too."""

    node_id: str
    pid: int
    group_id: str
    spool: Spool
    reused: bool = False

    @classmethod
    def here(cls, *, reused: bool = False) -> Place:
        """This process's place. From now on the process writes its stack to its output on SIGUSR1."""
        group = get_current_placement_group()
        assert group is not None, "Train and Tune place their processes in groups"
        faulthandler.register(_DUMP, file=2, all_threads=True)
        return cls(ray.get_runtime_context().get_node_id(), os.getpid(), group.id.hex(), Spool.here(), reused=reused)


def worker_output(place: Place, *, stack: bool) -> str:
    """The tail of a worker's output. With `stack` the worker, which must be alive, first writes its stack."""
    if place.node_id == ray.get_runtime_context().get_node_id():
        return _read(place, stack)
    there = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
    try:
        return ray.get(
            ray.remote(num_cpus=0)(_read).options(scheduling_strategy=there).remote(place, stack), timeout=_FETCH_S
        )
    except (GetTimeoutError, RayError) as error:
        return f"(the output is on node {place.node_id}, which does not answer: {type(error).__name__})\n"


def _read(place: Place, stack: bool) -> str:
    if stack:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(place.pid, _DUMP)
            time.sleep(_DUMP_S)
    return place.spool.tail()
