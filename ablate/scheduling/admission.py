"""Admits trials: sizes them before they wait, starts them where they fit, and retries them with more after an `oom`.

What a trial reports corrects the size of later trials of its memory class. Knows no Ray; `placement` holds the rules of
who starts next.
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

MAX_WAITING = 4
"""Most trials that wait. A search learns from results, and a waiting trial was drawn without the newest ones. So a
trial is drawn only where the smallest possible one could start: it may be small enough to overtake those that wait."""

MARGIN = 1.05
"""A trial's share of GPU memory, relative to its predicted peak."""

RETRIES, LARGER = 2, 1.5
"""Retries after an `oom`, and the factor by which each retry's share grows, up to a whole GPU."""

HOST_GIB = 1.25
"""Host memory of a trial's processes before training: worker 0.55, controller 0.4, driver 0.3 (measured)."""


@dataclass(frozen=True)
class Usage:
    """What a trial reports of itself: its node and GPU, its peak memory so far, and the share of the time for which the
    GPU is busy. None: unknown."""

    node: str | None
    card: str | None
    gib: float | None
    busy: float | None

    @classmethod
    def of(
        cls, metrics: Mapping[str, Any], *, context_gib: float, node: str | None = None, card: str | None = None
    ) -> Usage:
        """From a report's metrics. `context_gib`: GPU memory of a process besides what torch has reserved."""
        gib = metrics["nvml_used_gib"] if "nvml_used_gib" in metrics else None  # noqa: SIM401
        if gib is None and "peak_reserved_gib" in metrics:
            gib = metrics["peak_reserved_gib"] + context_gib
        return cls(node, card, gib, metrics["gpu_util_pct"] / 100 if "gpu_util_pct" in metrics else None)

    def flat(self) -> dict[str, Any]:
        """As entries of a flat dictionary; `from_flat` reads them."""
        return {f"taken_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Usage | None:
        """Read the entries that `flat` wrote among others; None where there are none."""
        names = {name: f"taken_{name}" for name in cls.__dataclass_fields__}
        return cls(**{name: flat[key] for name, key in names.items()}) if names["gib"] in flat else None


@dataclass(frozen=True)
class Sizes:
    """How large trials are: what the study file says, or for `gpu: auto` the predicted peak over a GPU's memory.

    `card_gib`: the GPU's memory, 0 without a GPU. `predict`: configuration -> peak in GiB. `trainer` reads recorded
    configurations. `turns`: kernels of trials on a GPU take turns (no MPS), so its time is shared too.
    """

    resources: Resources
    card_gib: float
    predict: Callable[[Config], float]
    trainer: Trainer
    turns: bool = True
    learned: Corrections = field(default_factory=Corrections)

    def predicted_gib(self, config: Config) -> float | None:
        """The predicted peak, uncorrected; None without a GPU."""
        return self.predict(config) if self.card_gib else None

    def need(self, config: Config, *, predicted_gib: float | None) -> Need:
        """What the trial needs, corrected by what was learned so far."""
        asked = self.resources
        host_gib = HOST_GIB + (0.0 if self.card_gib else config.cost.peak_gib)
        need = Need(asked.cpu, gpu=0.0, workers=asked.processes, host_gib=host_gib)
        if asked.gpu != "auto":
            return replace(need, gpu=float(asked.gpu))
        if predicted_gib is None:
            return need
        if asked.workers > 1:  # NCCL needs a GPU for every rank
            return replace(need, gpu=1.0)
        kind = memory_class(config, predicted_gib=predicted_gib)
        share = share_of(predicted_gib * self.learned.factor(kind), card_gib=self.card_gib)
        return replace(need, gpu=share, busy=self.learned.busy(kind) if self.turns else None)


def smallest_config(spec: StudySpec) -> Config:
    """The configuration of a study with the lowest peak by formula."""
    found = [spec.base.override(corner) for corner in feasibility.corners(spec.search)]
    found += [spec.base.override(overrides) for overrides in plan.arms(spec, spec.base).values()]
    return min(found, key=lambda config: config.cost.peak_gib)


def share_of(peak_gib: float, *, card_gib: float) -> float:
    """The share of a GPU that holds a peak with its margin, in Ray's steps; at most the whole GPU."""
    return _in_steps(peak_gib * MARGIN / card_gib)


def _in_steps(share: float) -> float:
    return min(1.0, round(math.ceil(share / STEP) * STEP, 4))


class Admission:
    """Feeds a runner's queue: the runner asks `next` for trials until `done`.

    `smallest`: the smallest configuration of the study, where sizes differ. Without it the smallest one so far is used,
    and no smaller trial would be drawn while a large first one runs.
    """

    def __init__(self, nodes: Iterable[Node], sizes: Sizes, *, smallest: Config | None = None) -> None:
        nodes = list(nodes)
        self._idle_gate = Gate(deepcopy(nodes))  # an idle copy, which tells what could start at all
        self._gate, self._sizes = Gate(nodes), sizes
        self._trials: dict[str, Trial] = {}
        self._tries: dict[str, int] = {}
        self._smallest: Callable[[], Need] | None = None
        self._source_empty = False
        if smallest is not None:
            self._note_smallest(smallest, predicted_gib=sizes.predicted_gib(smallest))

    @property
    def done(self) -> bool:
        """Whether no trial waits, none runs (a running one may have to be retried), and the source has no more."""
        return self._source_empty and not self._gate.waiting and not self._gate.running

    def trial(self, trial_id: str) -> Trial:
        """A waiting or running trial."""
        return self._trials[trial_id]

    def card_of(self, trial: Trial) -> int:
        """Number, over all machines, of the GPU recorded for the first worker of a running trial."""
        return self._gate.card_of(trial.trial_id)

    def begin(self, rows: Iterable[TrialRow]) -> None:
        """Expect a new source of trials, and learn from `rows` of earlier trials."""
        self._source_empty = False
        for row in rows:
            self._learn_from(row)

    def next(self, source: TrialSource) -> Trial | None:
        """The next trial to start, with its share; None where none should start now."""
        while (start := self._gate.start()) is None:
            full = self._smallest is not None and not self._gate.could_start(self._smallest())
            if self._source_empty or full or self._gate.waiting >= MAX_WAITING:
                return None
            drawn = source.ask()
            if drawn is None:
                self._source_empty = True
                return None
            self._offer(drawn)
        trial = replace(self._trials[start.name], gpu_fraction=start.gpu)
        self._trials[start.name] = trial
        return trial

    def reported(self, trial: Trial, usage: Usage) -> None:
        """Learn from what a running trial reports of itself."""
        if usage.node is not None and usage.card is not None:
            self._gate.correct_card(trial.trial_id, node=usage.node, card=usage.card)
        kind = self._class(trial)
        if kind is None or trial.predicted_peak_gib is None:
            return
        if usage.gib is not None:
            learned = self._sizes.learned
            learned.record_peak(kind, predicted_gib=trial.predicted_peak_gib, measured_gib=usage.gib, final=False)
        if usage.busy is not None:
            self._sizes.learned.record_busy(kind, self._gate.record_busy(trial.trial_id, busy=usage.busy))

    def ended(self, trial: Trial, row: TrialRow | None) -> None:
        """Free what an ended trial held and learn from its final row (None: interrupted)."""
        self._gate.end(trial.trial_id)
        del self._trials[trial.trial_id]
        if row is not None:
            self._learn_from(row)

    def try_larger(self, trial: Trial) -> bool:
        """Put a trial that ran out of its share in front of the queue again, with a larger share.

        False, and nothing is changed, where it had a whole GPU, its workers would not all find a larger share, or it
        has no retry left.
        """
        tries = self._tries.get(trial.trial_id, 0)
        held = trial.gpu_fraction or 0.0
        larger = _in_steps(held * LARGER)
        need = replace(self._sizes.need(trial.config, predicted_gib=trial.predicted_peak_gib), gpu=larger)
        if not 0 < held < 1 or tries >= RETRIES or not self._idle_gate.could_start(need):
            return False
        self._tries[trial.trial_id] = tries + 1
        self._gate.end(trial.trial_id)
        kind = self._class(trial)
        if kind is not None and trial.predicted_peak_gib is not None:
            wanted = larger * self._sizes.card_gib / MARGIN
            predicted = trial.predicted_peak_gib
            self._sizes.learned.record_peak(kind, predicted_gib=predicted, measured_gib=wanted, final=False)
        self._offer(trial, gpu=larger)
        return True

    def _offer(self, trial: Trial, *, gpu: float | None = None) -> None:
        predicted = self._sizes.predicted_gib(trial.config)
        need = self._sizes.need(trial.config, predicted_gib=predicted)
        self._note_smallest(trial.config, predicted_gib=predicted)
        self._trials[trial.trial_id] = replace(trial, predicted_peak_gib=predicted)
        self._gate.offer(trial.trial_id, need if gpu is None else replace(need, gpu=gpu), first=gpu is not None)

    def _note_smallest(self, config: Config, *, predicted_gib: float | None) -> None:
        # Called again later, because what is learned changes the need.
        need = partial(self._sizes.need, config, predicted_gib=predicted_gib)
        if self._smallest is None or need().gpu <= self._smallest().gpu:
            self._smallest = need

    def _class(self, trial: Trial) -> MemoryClass | None:
        predicted = trial.predicted_peak_gib
        return None if predicted is None else memory_class(trial.config, predicted_gib=predicted)

    def _learn_from(self, row: TrialRow) -> None:
        trainer, predicted = self._sizes.trainer, row.predicted_peak_gib
        usage = Usage.of(row.metrics, context_gib=trainer.context_gib)
        if predicted and usage.gib is not None:
            kind = memory_class(trainer.read(row.config_json), predicted_gib=predicted)
            final = row.status == "completed"
            self._sizes.learned.record_peak(kind, predicted_gib=predicted, measured_gib=usage.gib, final=final)
