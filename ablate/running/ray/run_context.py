"""The run context: what the processes of all trials share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.running.ray.coordinator import Coordinator
from ablate.running.trial import StudyContext
from ablate.trainers import STOP_S, Train
from ablate.trials.trial import Trial

if TYPE_CHECKING:
    from ablate.scheduling.packing import Slots

RETRIES = 2
"""How often a lost trial (its process or node died) is tried again from its last checkpoint."""


@dataclass(frozen=True)
class RunContext:
    """What a trial's driver and workers need besides the trial; the same for all trials of a run.

    `storage`: Train's own files; `cuda`: whether a worker sees a GPU that torch can use; `card_gib`: the memory of such
    a GPU, 0 if unknown (a trial's share of it is in the trial); `reuse`: whether Tune's actors, in which trials without
    workers train, are kept for the next trial; `grace_s`: seconds that an interrupted trial has to return.
    """

    context: StudyContext
    train: Train
    coordinator: Coordinator
    slots: Slots
    storage: str
    cuda: bool
    card_gib: float = 0.0
    grace_s: float = STOP_S
    reuse: bool = True


def run_name(trial: Trial, *, tries: int = 1) -> str:
    """The trial's name in the dashboard: study, arm and id, and the number of a later try."""
    return f"{trial.study}-{trial.arm}-{trial.trial_id}" + (f"-try{tries}" if tries > 1 else "")
