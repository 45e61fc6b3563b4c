"""Who may start: trials are sized before they wait, let in where they fit, and let in again, larger, after an `oom`.

What a trial reports about itself corrects the size of later ones like it. Knows no Ray; the gate's rules are
`placement`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ablate.scheduling.corrections import Corrections, MemoryClass, memory_class
from ablate.scheduling.placement import STEP, Gate, Need, Node
from ablate.spec import feasibility
from ablate.spec.models import Resources, StudySpec
from ablate.trainers import Config, Trainer
from ablate.trials import plan
from ablate.trials.source import TrialSource
from ablate.trials.trial import Trial

if TYPE_CHECKING:
    from ablate.records.rows import TrialRow

AHEAD = 4
"""Trials that wait at most. A search learns from results, and every trial that waits was drawn without some: so one is
drawn only where the smallest that may come could start, to see whether it is small enough to pass those that wait."""

MARGIN = 1.05
"""Share over predicted peak."""

RETRIES, LARGER = 2, 1.5
"""After an `oom` a trial is tried again so often, each time with a share so much larger, a whole card at most."""

HOST_GIB = 1.25
"""Host memory of a trial's processes before it holds anything: worker 0.55, controller 0.4, driver 0.3 (measured)."""


@dataclass(frozen=True)
class Taken:
    """What a trial says of itself at a report: where it runs, and what it took so far. None: not known."""

    node: str | None
    card: str | None
    gib: float | None
    busy: float | None

    @classmethod
    def of(
        cls, metrics: Mapping[str, Any], *, context_gib: float, node: str | None = None, card: str | None = None
    ) -> Taken:
        """From a report's metrics. `context_gib`: what a process takes of a GPU beside what it has reserved."""
        gib = metrics["nvml_used_gib"] if "nvml_used_gib" in metrics else None  # noqa: SIM401
        if gib is None and "peak_reserved_gib" in metrics:
            gib = metrics["peak_reserved_gib"] + context_gib
        return cls(node, card, gib, metrics["gpu_util_pct"] / 100 if "gpu_util_pct" in metrics else None)

    def flat(self) -> dict[str, Any]:
        """As a dictionary; `from_flat` reads it back."""
        return {f"taken_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Taken | None:
        """What `flat` wrote, whatever else stands beside it; None where it does not."""
        names = {name: f"taken_{name}" for name in cls.__dataclass_fields__}
        return cls(**{name: flat[key] for name, key in names.items()}) if names["gib"] in flat else None


@dataclass(frozen=True)
class Sizes:
    """How large trials are: what the study file says, and for `gpu: auto` the predicted peak over a card's memory.

    `card_gib` is 0 without a card. `predict` gives the peak of a configuration in GiB, `trainer` reads recorded ones.
    `turns`: kernels of the trials on a card take turns, so that its time is shared as well (no MPS).
    """

    resources: Resources
    card_gib: float
    predict: Callable[[Config], float]
    trainer: Trainer
    turns: bool = True
    learned: Corrections = field(default_factory=Corrections)

    def predicted_gib(self, config: Config) -> float | None:
        """The predicted peak, as it is; None without a card."""
        return self.predict(config) if self.card_gib else None

    def need(self, config: Config, *, predicted_gib: float | None) -> Need:
        """What the trial should be given, by what was learned so far."""
        asked = self.resources
        host_gib = HOST_GIB + (0.0 if self.card_gib else config.cost.peak_gib)
        need = Need(asked.cpu, gpu=0.0, workers=asked.processes, host_gib=host_gib)
        if asked.gpu != "auto":
            return replace(need, gpu=float(asked.gpu))
        if predicted_gib is None:
            return need
        if asked.workers > 1:  # NCCL wants a card for every rank
            return replace(need, gpu=1.0)
        kind = memory_class(config, predicted_gib=predicted_gib)
        share = share_of(predicted_gib * self.learned.factor(kind), card_gib=self.card_gib)
        return replace(need, gpu=share, busy=self.learned.busy(kind) if self.turns else None)


def least(spec: StudySpec) -> Config:
    """The configuration with the lowest peak, by formula, that a study may ask for."""
    found = [spec.base.override(corner) for corner in feasibility.corners(spec.search)]
    found += [spec.base.override(overrides) for overrides in plan.arms(spec, spec.base).values()]
    return min(found, key=lambda config: config.cost.peak_gib)


def share_of(peak_gib: float, *, card_gib: float) -> float:
    """The share of a card that holds a peak, in the steps that Ray counts; the whole card where nothing less does."""
    return _in_steps(peak_gib * MARGIN / card_gib)


def _in_steps(share: float) -> float:
    return min(1.0, round(math.ceil(share / STEP) * STEP, 4))


class Admission:
    """In front of a runner's queue: `next` is asked for a trial until `done`.

    `least` is the smallest configuration that may come, where sizes differ; without it the smallest that came so far
    stands for it, and beside a first large trial nothing smaller would be looked for.
    """

    def __init__(self, nodes: Iterable[Node], sizes: Sizes, *, least: Config | None = None) -> None:
        nodes = list(nodes)
        self._idle = Gate(deepcopy(nodes))  # where nothing runs: what could have a place at all
        self._gate, self._sizes = Gate(nodes), sizes
        self._trials: dict[str, Trial] = {}
        self._tries: dict[str, int] = {}
        self._smallest: Callable[[], Need] | None = None
        self._dry = False
        if least is not None:
            self._may_come(least, predicted_gib=sizes.predicted_gib(least))

    @property
    def done(self) -> bool:
        """Whether no trial waits, none runs (one that does may have to be tried again), and the source has no more."""
        return self._dry and not self._gate.waiting and not self._gate.running

    def trial(self, trial_id: str) -> Trial:
        """A trial that waits or runs, as it was let in."""
        return self._trials[trial_id]

    def card_of(self, trial: Trial) -> int:
        """Number of the card, over all machines, on which the book has the first worker of a running trial."""
        return self._gate.card_of(trial.trial_id)

    def begin(self, rows: Iterable[TrialRow]) -> None:
        """A new source of trials will be asked; `rows`, what is known of earlier trials, are learned from."""
        self._dry = False
        for row in rows:
            self._learn_from(row)

    def next(self, source: TrialSource) -> Trial | None:
        """A trial that starts now, with the share it holds written on it; None where none should."""
        while (start := self._gate.start()) is None:
            full = self._smallest is not None and not self._gate.has_place_for(self._smallest())
            if self._dry or full or self._gate.waiting >= AHEAD:
                return None
            drawn = source.ask()
            if drawn is None:
                self._dry = True
                return None
            self._offer(drawn)
        trial = replace(self._trials[start.name], gpu_fraction=start.gpu)
        self._trials[start.name] = trial
        return trial

    def reported(self, trial: Trial, taken: Taken) -> None:
        """A running trial has said where it is and what it took."""
        if taken.node is not None and taken.card is not None:
            self._gate.found(trial.trial_id, node=taken.node, card=taken.card)
        kind = self._class(trial)
        if kind is None or trial.predicted_peak_gib is None:
            return
        if taken.gib is not None:
            learned = self._sizes.learned
            learned.took(kind, predicted_gib=trial.predicted_peak_gib, measured_gib=taken.gib, final=False)
        if taken.busy is not None:
            self._sizes.learned.was_busy(kind, self._gate.learn(trial.trial_id, busy=taken.busy))

    def ended(self, trial: Trial, row: TrialRow | None) -> None:
        """A trial has left its place, `row` being its end (None: interrupted)."""
        self._gate.end(trial.trial_id)
        del self._trials[trial.trial_id]
        if row is not None:
            self._learn_from(row)

    def try_larger(self, trial: Trial) -> bool:
        """A trial has run out of its share: let it wait again, first of all, for a larger one. False, and nothing is
        done, where it had a whole card, its workers would not all find a larger one, or it was tried often enough."""
        tries = self._tries.get(trial.trial_id, 0)
        held = trial.gpu_fraction or 0.0
        larger = _in_steps(held * LARGER)
        need = replace(self._sizes.need(trial.config, predicted_gib=trial.predicted_peak_gib), gpu=larger)
        if not 0 < held < 1 or tries >= RETRIES or not self._idle.has_place_for(need):
            return False
        self._tries[trial.trial_id] = tries + 1
        self._gate.end(trial.trial_id)
        kind = self._class(trial)
        if kind is not None and trial.predicted_peak_gib is not None:
            wanted = larger * self._sizes.card_gib / MARGIN
            predicted = trial.predicted_peak_gib
            self._sizes.learned.took(kind, predicted_gib=predicted, measured_gib=wanted, final=False)
        self._offer(trial, gpu=larger)
        return True

    def _offer(self, trial: Trial, *, gpu: float | None = None) -> None:
        predicted = self._sizes.predicted_gib(trial.config)
        need = self._sizes.need(trial.config, predicted_gib=predicted)
        self._may_come(trial.config, predicted_gib=predicted)
        self._trials[trial.trial_id] = replace(trial, predicted_peak_gib=predicted)
        self._gate.offer(trial.trial_id, need if gpu is None else replace(need, gpu=gpu), first=gpu is not None)

    def _may_come(self, config: Config, *, predicted_gib: float | None) -> None:
        need = partial(self._sizes.need, config, predicted_gib=predicted_gib)  # what is learned later may change it
        if self._smallest is None or need().gpu <= self._smallest().gpu:
            self._smallest = need

    def _class(self, trial: Trial) -> MemoryClass | None:
        predicted = trial.predicted_peak_gib
        return None if predicted is None else memory_class(trial.config, predicted_gib=predicted)

    def _learn_from(self, row: TrialRow) -> None:
        trainer, predicted = self._sizes.trainer, row.predicted_peak_gib
        taken = Taken.of(row.metrics, context_gib=trainer.context_gib)
        if predicted and taken.gib is not None:
            kind, whole = (
                memory_class(trainer.read(row.config_json), predicted_gib=predicted),
                row.status == "completed",
            )
            self._sizes.learned.took(kind, predicted_gib=predicted, measured_gib=taken.gib, final=whole)
