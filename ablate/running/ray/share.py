"""Limits a trial to its share of a GPU from inside its process: limits the allocator, and checks usage at every report.

A trial that needs more fails before other trials on the GPU do. The driver then decides whether to try it again with a
larger share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from ablate.running.ray.coordinator import Coordinator
from ablate.running.trial import TryAgain, failure_of
from ablate.scheduling.admission import Usage
from ablate.trainers import Config, Report, Result, Train, Verdict
from ablate.trials.trial import Trial


class OverShare(MemoryError):
    """The process holds more GPU memory than its share."""


class ShareLimitedTrain:
    """Wraps a `Train` to keep it within the trial's share. Remembers the usage in the last report, and whether the
    trial `ran_out_of_memory`."""

    def __init__(self, trial: Trial, *, train: Train, coordinator: Coordinator, card_gib: float) -> None:
        self._trial, self._train, self._coordinator = trial, train, coordinator
        self._share = trial.gpu_fraction or 0.0
        self._allowed_gib = self._share * card_gib if card_gib and 0 < self._share < 1 else None
        self._metrics: Mapping[str, Any] = {}
        self.ran_out_of_memory = False

    def taken(self) -> Usage:
        """The resources that the trial has used so far, and where."""
        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids()["GPU"]
        gpu = gpus[0] if len(gpus) == 1 else None
        context_gib = self._trial.config.trainer.context_gib
        return Usage.of(self._metrics, context_gib=context_gib, node=context.get_node_id(), card=gpu)

    def __call__(self, config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        """See `Trainer.train`. Raises TryAgain if the trial ran out of its share of a GPU."""

        def look(now: Report) -> Verdict:
            self._metrics = now.metrics
            self._check()
            return report(now)

        if 0 < self._share < 1:
            config.trainer.hold_to_share(self._share)
        try:
            return self._train(config, look, checkpoint_dir=checkpoint_dir)
        except (MemoryError, RuntimeError) as error:
            if config.trainer.failure_kind(error) != "oom" or not self._share:
                raise
            self.ran_out_of_memory = True
            self._coordinator.ran_out_of_memory(self._trial.trial_id, failure_of(error, trainer=config.trainer))
            raise TryAgain(str(error)) from error

    def _check(self) -> None:
        if self._allowed_gib is None or "nvml_used_gib" not in self._metrics:
            return
        used_gib = self._metrics["nvml_used_gib"]
        if used_gib > self._allowed_gib:
            raise OverShare(f"holds {used_gib:.2f} GiB of GPU memory, its share is {self._allowed_gib:.2f} GiB")
