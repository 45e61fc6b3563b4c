"""A Train run without helper processes: the driver is the controller, and only workers import torch.

`DataParallelTrainer.fit` starts six processes: a controller, a queue for reports to Tune, a cleaner of placement
groups, a manager of datasets, a barrier, and the worker. The trials need the machine's cores, and each process costs a
second of training time (docs/log.md). The overridden methods are Ray's own hooks. If a later Ray renames them, the
overrides are not called and a trial only starts slower.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import ray.train
from ray import tune
from ray.train import BackendConfig, Result
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ablate.running.environment import forget_launchers

_OMITTED_CALLBACKS = (DatasetsCallback, PlacementGroupCleanerCallback)
"""Callbacks that start a process each. There are no datasets, and reaper.py removes a dead run's placement groups."""

_TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for each other."""


class GroupTrainer(DataParallelTrainer):
    """A DataParallelTrainer whose control loop runs in the process that calls `fit`, a Tune actor."""

    def _create_default_callbacks(self) -> list[Any]:
        return [one for one in super()._create_default_callbacks() if not isinstance(one, _OMITTED_CALLBACKS)]

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        controller = _named_controller(self.run_config.name or "trial")(**parts)
        asyncio.run(controller.run())
        return controller.get_result()


def _named_controller(name: str) -> type[TrainController]:
    """A controller class whose workers the dashboard lists under `name`."""

    class Worker(RayTrainWorker):
        def __repr__(self) -> str:
            return name

    class Group(WorkerGroup):
        _worker_cls = Worker

    class Controller(TrainController):
        worker_group_cls = Group

    return Controller


class ReportToTune(UserCallback):
    """Sends rank 0's reports to Tune from the controller, which waits until Tune has read them.

    `gone` is called when a worker fails. After a preemption Train restarts the group by itself, perhaps much later.
    """

    def __init__(self, *, gone: Callable[[], object]) -> None:
        self._gone = gone

    def after_report(self, run_context: object, metrics: list[dict[str, Any]], checkpoint: object) -> None:  # noqa: ARG002
        tune.report(metrics[0])

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        self._gone()


class RendezvousConfig(BackendConfig):
    """Tells workers where rank 0 is. Those that need a process group join it themselves, see `join`."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Rendezvous


class _Rendezvous(Backend):
    share_cuda_visible_devices = True  # NCCL needs every GPU of a node visible to each worker

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ARG002
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_rendezvous, {"MASTER_ADDR": address, "MASTER_PORT": str(port)})


def _set_rendezvous(values: Mapping[str, str]) -> None:
    """Runs in the worker, whose cluster may have been started by another launcher. Pickling `os.environ.update` itself
    would send, and update, a copy of the driver's environment."""
    forget_launchers()
    os.environ.update(values)


def join(*, cuda: bool) -> None:
    """Join the process group of this worker's ranks, as torchrun sets it up: NCCL with CUDA, gloo without."""
    import torch
    import torch.distributed as dist
    from ray.train.torch import get_device

    context = ray.train.get_context()
    ranks: Mapping[str, int] = {
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ.update({name: str(value) for name, value in ranks.items()})
    if cuda:
        device = get_device()
        torch.cuda.set_device(device)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    else:
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method="env://",
        rank=ranks["RANK"],
        world_size=ranks["WORLD_SIZE"],
        timeout=_TIMEOUT,
    )
