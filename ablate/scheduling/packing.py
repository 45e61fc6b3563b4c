"""What a trial takes, and how many trials fit at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate import formatting
from ablate.errors import BadInput
from ablate.scheduling.placement import Node
from ablate.spec.models import Resources

_SLACK = 1e-9
"""Against 1 / 0.1 being a hair under ten in floating point."""


@dataclass(frozen=True)
class Slots:
    """What every worker of a trial gets, and how many trials run at once. `gpu_per_worker` below 1 shares a card;
    without workers the trial's one process gets what a worker would."""

    cpu_per_worker: float
    gpu_per_worker: float
    workers: int
    concurrent: int

    @property
    def processes(self) -> int:
        """In how many processes a trial trains."""
        return max(1, self.workers)


def fit(resources: Resources, *, nodes: Sequence[Node], cuda: bool) -> Slots:
    """Fit trials onto a machine or a cluster, idle: a worker lives on one node, whose scarcest resource decides.
    `gpu: auto` is a whole card with CUDA.

    Raises BadInput, saying what is missing, where not one trial fits, or its workers would share a card of CUDA's.
    """
    gpu = (1.0 if cuda else 0.0) if resources.gpu == "auto" else float(resources.gpu)
    processes = resources.processes
    if cuda and processes > 1 and 0 < gpu <= 0.5:
        rule = "two workers of a trial would share a card, which NCCL refuses"
        raise BadInput("resources", "gpu", f"{processes} x {gpu:g}", rule, "use gpu: auto or 1, a card for each worker")
    by_cpu = [math.floor(node.cpus / resources.cpu + _SLACK) for node in nodes]
    by_gpu = [_workers_on_cards(gpu, len(node.cards)) for node in nodes] if gpu else by_cpu
    held = sum(map(min, by_cpu, by_gpu))
    if held >= processes:
        return Slots(resources.cpu, gpu, resources.workers, held // processes)
    largest = max(nodes, key=lambda node: (min(gpu, len(node.cards)), node.cpus))
    cpus, gpus = f"{largest.cpus:g} CPUs", formatting.count(len(largest.cards), "GPU")
    if sum(by_gpu) < processes <= sum(by_cpu):
        key, each, there = "gpu", gpu, f"{gpus} are there"
        hint = "lower resources.gpu or resources.workers, or use gpu: auto"
    else:
        key, each, there = "cpu", resources.cpu, f"{cpus} are there"
        hint = "lower resources.cpu or resources.workers"
    if len(nodes) > 1:
        there = f"{held} fit on {len(nodes)} nodes, the best of which has {cpus} and {gpus}"
    raise BadInput("resources", key, f"{processes} x {each:g}", there, hint)


def _workers_on_cards(gpu: float, gpus: int) -> int:
    """A worker lives on one card if it takes a share of one: shares left over on two cards do not add up."""
    if gpu >= 1:
        return math.floor(gpus / gpu + _SLACK)
    return math.floor(1 / gpu + _SLACK) * gpus
