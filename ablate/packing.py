"""What a trial takes, and how many trials fit at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ablate.errors import BadInput
from ablate.spec_models import Resources

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


def fit(resources: Resources, *, cpus: float, gpus: float, cuda: bool) -> Slots:
    """Fit trials onto a machine or a cluster: the scarcest resource decides. `gpu: auto` is a whole card with CUDA.

    Raises BadInput, saying what is missing, where not one trial fits.
    """
    gpu = (1.0 if cuda else 0.0) if resources.gpu == "auto" else float(resources.gpu)
    processes = resources.processes
    by_cpu = math.floor(cpus / (resources.cpu * processes) + _SLACK)
    if by_cpu < 1:
        asked = f"{processes} x {resources.cpu:g}"
        cure = "lower resources.cpu or resources.workers"
        raise BadInput("resources", "cpu", asked, f"{cpus:g} CPUs are there", cure)
    concurrent = by_cpu
    if gpu > 0:
        by_gpu = _workers_on_cards(gpu, gpus) // processes
        if by_gpu < 1:
            asked = f"{processes} x {gpu:g}"
            cure = "lower resources.gpu or resources.workers, or use gpu: auto"
            raise BadInput("resources", "gpu", asked, f"{gpus:g} GPUs are there", cure)
        concurrent = min(by_cpu, by_gpu)
    return Slots(resources.cpu, gpu, resources.workers, concurrent)


def _workers_on_cards(gpu: float, gpus: float) -> int:
    """A worker lives on one card if it takes a share of one: shares left over on two cards do not add up."""
    if gpu >= 1:
        return math.floor(gpus / gpu + _SLACK)
    return math.floor(1 / gpu + _SLACK) * math.floor(gpus + _SLACK)
