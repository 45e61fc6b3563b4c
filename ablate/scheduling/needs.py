"""What a study needs of GPUs: GPUs by name, a trial's share of one, how many trials run at once, GPU-hours.

A share is the predicted peak plus a margin of 5%, over the GPU's memory, as at run time (`admission.share_of`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from ablate.errors import BadInput, ParameterError
from ablate.records import draws
from ablate.records.ledger import Ledger
from ablate.scheduling.admission import MARGIN, Sizes
from ablate.scheduling.placement import Gate, Node
from ablate.spec.models import Resources, StudySpec
from ablate.trainers import Config, Trainer

UTILISATION = 0.055
"""Share of a GPU's data-sheet FLOP/s that training reaches: experiment 1.4.6 did 59,621 tokens/s on an RTX 4090."""

MAX_CONCURRENT = 1_000
"""Concurrent trials are counted up to this number."""

_FURTHEST = ("wall_s", "tokens_seen", "budget_tokens")
"""Columns of a report that tell its trial's progress."""


@dataclass(frozen=True)
class Card:
    """A GPU: memory in GiB, and dense bf16 FLOP/s with sums in fp32; both from the vendor's data sheet."""

    gib: float
    flops: float


CARDS: Mapping[str, Card] = {
    "RTX 3090": Card(24, 7.1e13),
    "RTX 4080": Card(16, 9.75e13),
    "RTX 4090": Card(24, 1.65e14),
    "RTX 5090": Card(32, 2.1e14),
    "RTX A6000": Card(48, 1.55e14),
    "A10": Card(24, 1.25e14),
    "A100": Card(40, 3.12e14),
    "A100 40GB": Card(40, 3.12e14),
    "A100 80GB": Card(80, 3.12e14),
    "H100": Card(80, 9.89e14),
    "H200": Card(141, 9.89e14),
    "L4": Card(24, 1.21e14),
    "L40S": Card(48, 3.62e14),
}
"""GPU by name. A longer name fits if it has all the words; of several that fit, the one with most words counts."""


def card_named(name: str) -> Card | None:
    """The GPU of that name, as NVIDIA or a user writes it: `NVIDIA GeForce RTX 4090`, `4090`, `A100-SXM4-80GB`."""
    words = _words(name)
    fitting = [known for known in CARDS if _words(known) <= words | {"rtx"} and _words(known) & words - {"rtx"}]
    return CARDS[max(fitting, key=lambda known: len(_words(known)))] if fitting else None


def card_for(resources: Resources, name: str) -> Card:
    """The GPU of that name, with `resources.gpu_memory_gib` if given. Raises BadInput where its memory is unknown."""
    known, gib = card_named(name), resources.gpu_memory_gib
    if known is None and gib is None:
        hint = f"set resources.gpu_memory_gib, or name one of {', '.join(CARDS)}"
        raise BadInput("--gpu", "", name, "a GPU whose memory is unknown", hint)
    return Card(gib or (known.gib if known else 0.0), known.flops if known else CARDS["RTX 4090"].flops)


@dataclass(frozen=True)
class Shares:
    """Predicted peaks and shares of a GPU; without a GPU peaks of the host's memory, by formula, and no shares."""

    resources: Resources
    card: Card | None
    trainer: Trainer

    def peak_gib(self, config: Config) -> float:
        """Predicted peak memory of one worker, in GiB."""
        if self.card is None:
            return self.trainer.process_gib + config.cost.peak_gib
        return self.trainer.peak_gib(config, ranks=self.resources.processes)

    def gpu(self, config: Config) -> float:
        """The share of a GPU that each worker gets; 1 where the GPU is too small."""
        return self._sizes.need(config, predicted_gib=self._sizes.predicted_gib(config)).gpu

    def fits(self, config: Config) -> bool:
        """Whether the GPU, or the study's share of it, holds the predicted peak with its margin."""
        if self.card is None:
            return True
        asked = self.resources.gpu
        share = 1.0 if asked == "auto" else min(1.0, float(asked))
        return self.peak_gib(config) * MARGIN <= share * self.card.gib

    def concurrent(self, configs: Sequence[Config], *, cpus: float, gpus: int, turns: bool) -> int:
        """How many of these run at once on one machine, started in order by the same gate as at run time.

        `turns`: trials share a GPU as long as it gets more work done by that; otherwise as long as its memory lasts.
        Host memory is assumed to suffice.
        """
        gate, sizes = Gate([Node.of("here", cpus=cpus, gpus=gpus)]), replace(self._sizes, turns=turns)
        for number, config in enumerate(configs[:MAX_CONCURRENT]):
            gate.offer(str(number), sizes.need(config, predicted_gib=sizes.predicted_gib(config)))
        while gate.start() is not None:
            pass
        return gate.running

    @property
    def _sizes(self) -> Sizes:
        card_gib = self.card.gib if self.card else 0.0
        return Sizes(self.resources, card_gib=card_gib, predict=self.peak_gib, trainer=self.trainer)


@dataclass(frozen=True)
class Spent:
    """What a study has spent: GPU-hours, the number of ended trials of each arm, and the progress of the trials that
    have not ended, as a sum of shares of their budgets."""

    gpu_hours: float = 0.0
    ended: Mapping[str, int] = field(default_factory=dict)
    begun: float = 0.0


def spent_so_far(spec: StudySpec, ledger: Ledger, *, shares: Shares, planned: Mapping[str, float]) -> Spent:
    """What the study has spent by its ledger.

    A row without a share counts as a whole GPU. `planned`: trial -> share. A trial that has not ended, and that neither
    the plan nor a draw names (it is of a winner's arm), counts with the mean planned share.
    """
    drawn = {draw.trial_id: draw.params for draw in draws.recorded(ledger.store)[0]}

    def share(trial_id: str) -> float:
        if trial_id in planned:
            return planned[trial_id]
        if trial_id in drawn:
            with suppress(ParameterError):  # this version of the model may not accept the values
                return shares.gpu(spec.base.override(drawn[trial_id]))
        return fmean(planned.values())

    rows = ledger.rows()
    ended = {row.trial_id for row in rows}
    reports = ledger.history(columns=["trial_id", *_FURTHEST], repeats=True)
    furthest = reports.group_by("trial_id").aggregate([(name, "max") for name in _FURTHEST]).to_pylist()
    under_way = [trial for trial in furthest if trial["trial_id"] not in ended]
    held_s = [row.wall_s * (1.0 if row.gpu_fraction is None else row.gpu_fraction) for row in rows]
    held_s += [trial["wall_s_max"] * share(trial["trial_id"]) for trial in under_way]
    begun = sum(trial["tokens_seen_max"] / trial["budget_tokens_max"] for trial in under_way)
    return Spent(sum(held_s) * spec.resources.processes / 3600, Counter(row.arm for row in rows), begun)


def remaining_gpu_hours(spec: StudySpec, hours: Sequence[tuple[str, float | None]], *, spent: Spent) -> float | None:
    """The rest of `resources.max_gpu_hours`; None where nothing is left to train.

    `hours`: arm and GPU-hours of every planned trial, None where unknown. Raises BadInput where the trials that have
    not ended need more than the rest.
    """
    most, ended = spec.resources.max_gpu_hours, Counter(spent.ended)
    assert most is not None, "the study has a budget"
    rest: list[float | None] = []
    for arm, each in hours:
        if ended[arm] > 0:
            ended[arm] -= 1
        else:
            rest.append(each)
    if not rest:
        return None
    # The rest includes the trials that have begun; their progress counts at the mean cost of the rest.
    takes = sum(each for each in rest if each is not None) * max(0.0, 1.0 - spent.begun / len(rest))
    if spent.gpu_hours < most and spent.gpu_hours + takes <= most:
        return most - spent.gpu_hours
    rule, hint = f"the plan takes {takes:.3g} GPU-hours", "lower optimizer.trials, seeds or train.tokens, or raise it"
    if spent.gpu_hours:
        rule, hint = f"{spent.gpu_hours:.3g} GPU-hours are spent", "raise it, or lower optimizer.trials or seeds"
        rule += f", and the rest of the plan takes {takes:.3g}" if takes else ""
    place = spec.document.place("resources.max_gpu_hours")
    raise BadInput(place, "resources.max_gpu_hours", most, rule, hint)


def measured_flops_per_s(speeds: Sequence[tuple[Config, float]]) -> float | None:
    """Median FLOP/s of trials, from (configuration, tokens/s); None without trials."""
    known = [(config.cost.flops_per_token, speed) for config, speed in speeds]
    reached = [flops * speed for flops, speed in known if flops is not None]
    return median(reached) if reached else None


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower().replace("rtx", "rtx ")))
