"""A day of 500 trials on 1 and 8 cards, simulated: the gate against the best constant fraction.

    python -m benchmarks.placement [--json]

The trials: `search_spaces/ema_4090.yaml` with micro-batches of 8, 16 or 48 sequences and the file's lengths of entries,
drawn alike; their peaks are the predictor's. Alone on a card a trial takes lognormal hours (median 1, sigma 0.8) and
keeps it busy for u of the time, u uniform in [0.3, 0.9]. All wait from the start.

The physics, the same for every policy: k trials on a card each run at (1 - turn)^(k - 1) / max(1, sum of their u) of
the speed that they have alone. So the card's work adds up until it is never idle (k alike trials gain at most 1/u), and
each process beyond the first costs all of them `turn`, since kernels take turns. All policies train the same tokens, so
the ratio of tokens an hour is that of the hours until the last trial has ended.

The gate is the runner's own (`ablate.admission`): it knows each trial's predicted peak, adds its margin, and looks at
four trials ahead; it knows nothing of hours, and of u what the card's meter says, of all that share it together, once
they run; before that, the mean of what was seen. A constant fraction gives every card the same number of slots; it may
have as many as hold every trial (the largest predicted peak, without a margin), and takes the emptiest card first. The
number of slots is searched over.

On cards of 24 GiB these trials are small: the best constant fraction keeps the cards busy as well, and `bound` says
that no policy could do much better. Where a card holds only one of the largest, packing is worth what is printed for
smaller cards.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ablate import trainers
from ablate.scheduling.admission import Admission, Sizes, Usage
from ablate.scheduling.placement import TURN, Node
from ablate.spec import study_file
from ablate.spec.models import Resources
from ablate.trainers import Config, Verdict
from ablate.trials.trial import Trial, trial_id

SPACE = Path(__file__).parent.parent / "search_spaces" / "ema_4090.yaml"
TRIALS, CARDS, BATCHES = 500, (1, 8), (8, 16, 48)
CARD_GIB, OTHERS_GIB = 24.0, (8.0, 10.0, 12.0, 16.0)
SEEDS = (0, 1, 2)
TURNS = (0.0, TURN, 0.1)


@dataclass(frozen=True)
class Job:
    """A trial, how long it takes alone, how busy it keeps a card then, and its peak."""

    trial: Trial
    hours: float
    busy: float
    peak_gib: float


@dataclass
class Clock:
    """Cards with jobs on them, and how much each job still has to do (hours, alone)."""

    cards: int
    turn: float
    card_gib: float = CARD_GIB
    hours: float = 0.0
    left: dict[str, float] = field(default_factory=dict)
    where: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    over_memory: int = 0

    def begin(self, job: Job, *, card: int) -> None:
        """Put a job on a card, and count it where the card's memory does not hold it."""
        name = job.trial.trial_id
        self.jobs[name], self.left[name], self.where[name] = job, job.hours, card
        self.over_memory += sum(other.peak_gib for other in self.on(card)) > self.card_gib

    def on(self, card: int) -> list[Job]:
        """The jobs on a card."""
        return [self.jobs[name] for name, its_card in self.where.items() if its_card == card]

    def next_end(self) -> Job:
        """Let time pass until a job ends, and take it off its card."""
        speed = {card: self._speed(self.on(card)) for card in set(self.where.values())}
        passed, name = min((left / speed[self.where[name]], name) for name, left in self.left.items())
        self.hours += passed
        self.left = {each: left - passed * speed[self.where[each]] for each, left in self.left.items()}
        del self.left[name], self.where[name]
        return self.jobs[name]

    def _speed(self, jobs: Sequence[Job]) -> float:
        return (1 - self.turn) ** (len(jobs) - 1) / max(1.0, sum(job.busy for job in jobs))


@dataclass
class Queue:
    """A TrialSource of jobs in their order."""

    waiting: list[Trial]

    @property
    def total(self) -> int:
        return TRIALS

    def ask(self) -> Trial | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, trial_id: str, *, tokens: int, value: float | None) -> Verdict:  # noqa: ARG002 - the protocol's
        return Verdict.CONTINUE

    def tell(self, row: Any) -> None:
        """Nothing to learn."""


def predicted_gib(config: Config) -> float:
    """The predictor's peak on a card."""
    return _predicted_gib(config["train.batch_size"], config["model.knowledge_length"])


@cache
def _predicted_gib(batch_size: int, knowledge_length: int) -> float:
    """Of the file's base with these: a prediction takes seconds, and there are nine."""
    base = study_file.load(SPACE).base
    config = base.override({"train.batch_size": batch_size, "model.knowledge_length": knowledge_length})
    return config.trainer.peak_gib(config, ranks=1)


@cache
def day(seed: int) -> list[Job]:
    """The day's jobs."""
    study, draw = study_file.load(SPACE), random.Random(seed)
    lengths = study.search["model.knowledge_length"].ends
    jobs = []
    for number in range(TRIALS):
        params = {"train.batch_size": draw.choice(BATCHES), "model.knowledge_length": draw.choice(lengths)}
        config = study.base.override(params)
        trial = Trial(trial_id(str(number), config, number), "day", "search", number, config, params)
        hours, busy = draw.lognormvariate(0.0, 0.8), draw.uniform(0.3, 0.9)
        jobs.append(Job(trial, hours, busy, predicted_gib(config)))
    return jobs


def gate(jobs: Sequence[Job], clock: Clock) -> Clock:
    """The day by the runner's own gate."""
    by_name = {job.trial.trial_id: job for job in jobs}
    sizes = Sizes(Resources(gpu="auto"), card_gib=clock.card_gib, predict=predicted_gib, trainer=trainers.load())
    smallest = min(jobs, key=lambda job: job.peak_gib).trial.config
    admission = Admission([Node.of("node", cpus=math.inf, gpus=clock.cards)], sizes, smallest=smallest)
    queue = Queue([job.trial for job in jobs])
    while True:
        while (trial := admission.next(queue)) is not None:
            # Where the book thinks that it is: that Ray puts it there is what the tests with Ray show.
            clock.begin(by_name[trial.trial_id], card=admission.card_of(trial))
            _read_meters(clock, admission)
        if not clock.left:
            return clock
        admission.ended(clock.next_end().trial, None)
        _read_meters(clock, admission)


def _read_meters(clock: Clock, admission: Admission) -> None:
    for name, card in clock.where.items():
        reading = min(1.0, sum(job.busy for job in clock.on(card)))
        admission.reported(admission.trial(name), Usage(None, None, gib=None, busy=reading))


def constant(jobs: Sequence[Job], clock: Clock, *, slots: int) -> Clock:
    """The day with so many slots on every card, each for any trial."""
    waiting = list(jobs)
    while waiting or clock.left:
        card = min(range(clock.cards), key=lambda one: len(clock.on(one)))
        if waiting and len(clock.on(card)) < slots:
            clock.begin(waiting.pop(0), card=card)
        else:
            clock.next_end()
    return clock


def compare(seed: int, *, cards: int, turn: float = TURN, card_gib: float = CARD_GIB) -> dict[str, Any]:
    """Hours of the day by the gate and by every constant number of slots that holds every trial (and by one more, which
    does not); the ratio to the best; and its `bound`, cards that are never idle, which no policy passes."""
    jobs = day(seed)
    empty = partial(Clock, cards, turn, card_gib)
    most = math.floor(card_gib / max(job.peak_gib for job in jobs))
    constants = {slots: constant(jobs, empty(), slots=slots) for slots in range(1, most + 2)}
    ours, best = gate(jobs, empty()), min(range(1, most + 1), key=lambda slots: constants[slots].hours)
    busy_hours = sum(job.hours * job.busy for job in jobs)
    return {
        "seed": seed,
        "cards": cards,
        "card_gib": card_gib,
        "turn": turn,
        "largest_peak_gib": round(max(job.peak_gib for job in jobs), 2),
        "hours": round(ours.hours, 1),
        "busy": round(busy_hours / ours.hours / cards, 3),
        "over_memory": ours.over_memory,
        "best_slots": best,
        "bound": round(constants[best].hours * cards / busy_hours, 3),
        "ratio": round(constants[best].hours / ours.hours, 3),
        "constant": {
            slots: {"hours": round(clock.hours, 1), "over_memory": clock.over_memory}
            for slots, clock in constants.items()
        },
    }


def run() -> dict[str, Any]:
    """Every number of cards: the fixed seed; beside it other seeds, other costs of taking turns, and other cards."""
    found: dict[str, Any] = {}
    for cards in CARDS:
        first = compare(SEEDS[0], cards=cards)
        seeds = [first["ratio"], *(compare(seed, cards=cards)["ratio"] for seed in SEEDS[1:])]
        turns = {turn: compare(SEEDS[0], cards=cards, turn=turn)["ratio"] for turn in TURNS if turn != TURN}
        others = {str(gib): compare(SEEDS[0], cards=cards, card_gib=gib) for gib in OTHERS_GIB}
        found[str(cards)] = {
            **first, "ratio_by_seed": seeds, "ratio_by_turn": {**turns, TURN: first["ratio"]}, "other_cards": others,
        }  # fmt: skip
    return found


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    arguments = parser.parse_args()
    found = run()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{TRIALS} trials, largest peak {found['1']['largest_peak_gib']} GiB; cards of {CARD_GIB:g} GiB")
    columns = ["cards", "hours", "busy", "over_memory", "best_slots", "ratio", "bound"]
    rows = [
        [*(each[column] for column in columns),
         f"{min(each['ratio_by_seed'])} to {max(each['ratio_by_seed'])}",
         ", ".join(f"{turn:g}: {ratio}" for turn, ratio in sorted(each["ratio_by_turn"].items()))]
        for each in found.values()
    ]  # fmt: skip
    headers = ["cards", "hours", "busy", "over memory", "best constant's slots", "tokens/h over it", "bound"]
    print(tabulate(rows, headers=[*headers, "seeds", "by cost of a turn"]))
    others = [
        [other["card_gib"], *(other[column] for column in columns)]
        for each in found.values()
        for other in each["other_cards"].values()
    ]
    print("\nother cards")
    print(tabulate(others, headers=["GiB", *headers]))


if __name__ == "__main__":
    main()
