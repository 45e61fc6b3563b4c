"""What a trial gets, and how many trials fit at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate import formatting
from ablate.errors import BadInput
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources

_SLACK = 1e-9
"""Absorbs rounding: 1 / 0.1 may be slightly below ten in floating point."""


@dataclass(frozen=True)
class Slots:
    """What every worker of a trial gets, and how many trials run at once. `gpu_per_worker` below 1 shares a GPU;
    without workers the trial's one process gets the resources of a worker."""

    cpu_per_worker: float
    gpu_per_worker: float
    workers: int
    concurrent: int

    @property
    def processes(self) -> int:
        """The number of processes in which a trial trains."""
        return max(1, self.workers)


def fit(resources: Resources, *, nodes: Sequence[Node], cuda: bool) -> Slots:
    """Fit trials onto idle nodes. A worker lives on one node, whose scarcest resource decides. `gpu: auto` is a whole
    GPU with CUDA.

    Raises BadInput, which names what is missing, where no trial fits, or where its workers would share a CUDA GPU.
    """
    gpu = (1.0 if cuda else 0.0) if resources.gpu == "auto" else float(resources.gpu)
    processes = resources.processes
    if cuda and processes > 1 and 0 < gpu <= 0.5:
        rule = "two workers of a trial would share a GPU, which NCCL refuses"
        raise BadInput("resources", "gpu", f"{processes} x {gpu:g}", rule, "use gpu: auto or 1, a GPU for each worker")
    by_cpu = [math.floor(node.cpus / resources.cpu + _SLACK) for node in nodes]
    by_gpu = [_workers_on_cards(gpu, len(node.cards)) for node in nodes] if gpu else by_cpu
    held = sum(map(min, by_cpu, by_gpu))
    if held >= processes:
        return Slots(resources.cpu, gpu, resources.workers, held // processes)
    largest = max(nodes, key=lambda node: (min(gpu, len(node.cards)), node.cpus))
    cpus, gpus = f"{largest.cpus:g} CPUs", formatting.count(len(largest.cards), "GPU")
    if sum(by_gpu) < processes <= sum(by_cpu):
        key, each, rule = "gpu", gpu, f"only {gpus} available"
        hint = "lower resources.gpu or resources.workers, or use gpu: auto"
    else:
        key, each, rule = "cpu", resources.cpu, f"only {cpus} available"
        hint = "lower resources.cpu or resources.workers"
    if len(nodes) > 1:
        rule = f"{held} fit on {len(nodes)} nodes (the largest has {cpus} and {gpus})"
    raise BadInput("resources", key, f"{processes} x {each:g}", rule, hint)


def _workers_on_cards(gpu: float, gpus: int) -> int:
    """How many workers fit on so many GPUs. A worker with a share below 1 uses one GPU: shares of two do not add up."""
    if gpu >= 1:
        return math.floor(gpus / gpu + _SLACK)
    return math.floor(1 / gpu + _SLACK) * gpus
