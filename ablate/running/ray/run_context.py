"""What a trial's processes are told, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.running.ray.coordinator import Coordinator
from ablate.running.trial import StudyContext
from ablate.trainers import Train
from ablate.trials.trial import Trial

if TYPE_CHECKING:
    from ablate.scheduling.packing import Slots

RETRIES = 2
"""How often a trial that was lost, its process or node dead, is tried again from its last checkpoint."""


@dataclass(frozen=True)
class RunContext:
    """What a trial's driver and workers need to know beside the trial: the same for all trials of a run.

    `storage` is where Train keeps its own notes; `cuda` says whether a worker sees a card that torch can use, and
    `card_gib` what such a card holds, 0 where that is not known (a trial's share of it stands on the trial); `reuse`
    whether the processes of Tune's own, in which trials without workers train, are kept for the next trial.
    """

    context: StudyContext
    train: Train
    coordinator: Coordinator
    slots: Slots
    storage: str
    cuda: bool
    card_gib: float = 0.0
    reuse: bool = True


def run_name(trial: Trial, *, tries: int = 1) -> str:
    """How the dashboard calls the trial: study, arm and id; a later try says so."""
    return f"{trial.study}-{trial.arm}-{trial.trial_id}" + (f"-try{tries}" if tries > 1 else "")
