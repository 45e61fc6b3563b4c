"""`python -m ablate.status STUDY`: the progress of a study, while it runs and after it was killed."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from ablate import escape, formatting
from ablate.analyze.basis import points
from ablate.cli import DONE, guarded
from ablate.escape import last_lines, one_line
from ablate.records import locations
from ablate.records.ledger import Ledger
from ablate.records.rows import ENDS, MEASURED, TrialRow
from ablate.running.progress import measured
from ablate.spec.designs import CONFIRM
from ablate.spec.models import Objective
from ablate.study import completion, lifecycle, lock, lookup, study_json
from ablate.study.completion import Completion
from ablate.study.study_json import StudyFile

_FAILED, _TAIL_LINES = 5, 8
"""How many failures are shown, and how many lines of their logs."""

EPILOG = """example:
  python -m ablate.status latest
  python -m ablate.status ema --results results --json"""


@dataclass(frozen=True)
class Best:
    """The search's best point by the study's first objective: the trial of its first seed, and the mean over its
    `seeds` with their standard deviation (None of one)."""

    trial_id: str
    arm: str
    metric: str
    value: float
    params: Mapping[str, Any]
    seeds: int = 1
    sd: float | None = None


@dataclass(frozen=True)
class Confirmed:
    """A trial of the search on fresh seeds, and the mean of its `n` completed runs."""

    trial_id: str
    n: int
    mean: float


@dataclass(frozen=True)
class Failed:
    """A failed trial, with the path of its log and the log's last lines (`tail`)."""

    trial_id: str
    arm: str
    status: str
    error_kind: str | None
    error: str | None
    log: str | None
    tail: str


@dataclass(frozen=True)
class Status:
    """The state of a study now.

    `states`: number of trials by status, and of trials that are `running` (`unfinished` where no sweep runs the study)
    and `waiting`. `failed`: the latest failures. `driver`: the process that runs the study. `hint`: what to do about
    trials that have not ended; "" while a sweep runs. `control`: the positive control; None without one.
    `left_s`: None where no trial has ended yet, or no sweep runs.
    """

    study: str
    running: bool
    planned: int
    states: Mapping[str, int]
    failures: Mapping[str, int]
    best: Best | None
    left_s: float | None
    problems: tuple[str, ...]
    failed: tuple[Failed, ...] = ()
    driver: str = ""
    hint: str = ""
    control: str | None = None
    confirmed: tuple[Confirmed, ...] = ()
    without_mean: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Where points have several seeds: point -> its failed seeds and how they ended. Such a point has no mean."""
    block: str = ""
    """With sequential seeds, how far they have come; "" without."""


def collect(ledger: Ledger) -> Status:
    """Read the state of a study from its folder. Raises BadInput where the folder is not a study's."""
    study = study_json.parse(ledger.read_study(), place=ledger.place)
    objective = study.spec.objectives[0]
    rows = ledger.rows()
    seeds = study.spec.optimizer.seeds_per_trial
    running = lock.is_held(ledger)
    done = completion.of(study, rows)
    unfinished = set() if done.whole else ledger.started_ids() - {row.trial_id for row in rows}
    ends = Counter(row.status for row in rows)
    states = {end: ends[end] for end in ENDS if ends[end]}
    if unfinished:
        states["running" if running else "unfinished"] = len(unfinished)
    waiting = max(0, done.left - len(unfinished))
    if waiting:
        states["waiting"] = waiting
    return Status(
        study=study.study,
        running=running,
        planned=done.planned,
        states=states,
        failures={end: count for end, count in ends.items() if end not in MEASURED},
        best=_best(rows, objective, seeds),
        left_s=_left_s(ledger, rows, unfinished, waiting) if running else None,
        problems=tuple(ledger.problems()),
        failed=tuple(_failed(ledger, row) for row in rows if row.status not in MEASURED)[-_FAILED:],
        driver=lock.holder(ledger) if running else "",
        hint="" if running else _hint(study, rows, done),
        control=study.spec.ablation.control if study.spec.ablation else None,
        confirmed=_confirmed(rows, objective),
        without_mean={point.trial_id: point.failed for point in points.of(rows, seeds=seeds) if point.failed}
        if seeds > 1
        else {},
        block=_block(done),
    )


def _best(rows: list[TrialRow], objective: Objective, seeds: int) -> Best | None:
    known = points.ranked(rows, objective=objective, seeds=seeds)
    if not known:
        return None
    point, mean = known[0]
    sd = point.sd(objective.metric) if seeds > 1 else None
    return Best(point.trial_id, point.first.arm, objective.metric, mean, point.first.params, seeds, sd)


def _confirmed(rows: list[TrialRow], objective: Objective) -> tuple[Confirmed, ...]:
    """The trials that have fresh runs, the best mean first."""
    fresh: dict[str, list[float]] = {}
    for row, value in measured((row for row in rows if row.arm.startswith(CONFIRM)), objective.metric):
        fresh.setdefault(row.arm.removeprefix(CONFIRM), []).append(value)
    found = [Confirmed(name, len(values), sum(values) / len(values)) for name, values in fresh.items()]
    return tuple(sorted(found, key=lambda one: (objective.sign * one.mean, one.trial_id)))


def _block(done: Completion) -> str:
    """Which arms are decided, and how far the current block of seeds goes."""
    if done.walk is None:
        return ""
    decided, arms = sorted(done.walk.decided), formatting.count(len(done.walk.reached), "arm")
    names = f" ({formatting.names(decided)})" if decided else ""
    block = f"block up to {done.walk.next_size} of at most {done.walk.looks.most} seeds"
    return f"{len(decided)} of {arms} decided{names}; {block}"


def _hint(study: StudyFile, rows: list[TrialRow], done: Completion) -> str:
    """What to do about trials that have not ended while no sweep runs the study, or why some never will."""
    if done.whole and done.untrained:
        return f"not trained, because no trial that prepares them completed: {formatting.names(done.untrained)}"
    if done.whole:
        return ""
    ended = points.of(rows, seeds=study.spec.optimizer.seeds_per_trial)
    searched = [point.status for point in ended if point.whole]
    baseline = study.spec.ablation.baseline if study.spec.ablation else None
    if lifecycle.lacks_winner(baseline=baseline, trials=study.points, searched=searched):
        return lifecycle.NO_WINNER
    return "to resume: the sweep's command line and --resume"


def _failed(ledger: Ledger, row: TrialRow) -> Failed:
    text = ledger.log(row.trial_id, attempt=row.attempt)
    path = str(ledger.log_place(row.trial_id, row.attempt)) if text else None
    tail = last_lines(text, count=_TAIL_LINES, width=160)
    return Failed(row.trial_id, row.arm, row.status, row.error_kind, row.error, path, tail)


def render(status: Status) -> str:
    """The status as text for a terminal."""
    done = sum(status.states[end] for end in ENDS if end in status.states)
    running = f"a sweep is running it ({status.driver})" if status.running else "no sweep is running it here"
    lines = [f"study {status.study}: {done} of {status.planned} trials have ended; {running}", ""]
    lines.append(tabulate(status.states.items(), headers=["state", "trials"]))
    lines += ["", f"positive control: {status.control}"] if status.control else []
    if status.best:
        params = formatting.parameters(status.best.params)
        reached = formatting.significant(status.best.value, digits=5)
        reached += formatting.over_seeds(status.best.seeds, status.best.sd)
        lines += ["", f"best so far: {status.best.metric} {reached}, trial {status.best.trial_id}"]
        lines += [f"  {status.best.arm}: {params}"] if params else [f"  {status.best.arm}"]
    for one in status.confirmed:
        lines.append(f"  on {formatting.count(one.n, 'fresh seed')}: trial {one.trial_id} {one.mean:.4f} (mean)")
    if status.without_mean:
        lines += ["", f"{formatting.count(len(status.without_mean), 'point')} without a mean, because of failed seeds:"]
    for name, failed in status.without_mean.items():
        lines.append(f"  {name}: " + ", ".join(f"seed {seed} {how}" for seed, how in failed.items()))
    lines += ["", f"sequential seeds: {status.block}"] if status.block else []
    if status.left_s is not None:
        lines += ["", f"time left: {formatting.roughly(status.left_s)}"]
    if status.failures:
        lines += ["", "failures: " + ", ".join(f"{kind} {count}" for kind, count in status.failures.items())]
        for failed in status.failed:
            why = one_line(f"{failed.error_kind}: {failed.error}", limit=240)
            lines.append(f"  {failed.trial_id} {failed.arm} {failed.status}: {why}")
            if failed.log:
                lines += [f"    {line}" for line in failed.tail.split("\n")] + [f"    (the end of {failed.log})"]
    lines += ["", status.hint] if status.hint else []
    lines += [f"unreadable, left out: {problem}" for problem in status.problems]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.status`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.status",
        description="Print a study's state: trials by state, the best so far, time left, failures by kind.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "study", metavar="STUDY", help="a name under --results, a path, an s3:// or gs:// URL, or `latest`"
    )
    made.add_argument("--results", type=locations.parse, default="results", metavar="DIR", help=locations.HELP)
    made.add_argument("--json", action="store_true", help="print the answer as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = parser().parse_args(argv)
    status = collect(Ledger(lookup.find(arguments.study, results=arguments.results)))
    print(formatting.as_json(_as_json(status)) if arguments.json else escape.printable(render(status)))
    return DONE


def _as_json(status: Status) -> dict[str, Any]:
    """The status as JSON. The hint's key stays `cure`, which programs that read this JSON know."""
    return {"cure" if key == "hint" else key: value for key, value in asdict(status).items()}


def _left_s(ledger: Ledger, rows: list[TrialRow], unfinished: set[str], waiting: int) -> float | None:
    """Seconds until all trials have ended, if each takes the mean time of those that have, and as many run at once as
    now."""
    ended = [row.wall_s for row in rows if row.status in MEASURED]
    if not ended:
        return None
    mean = sum(ended) / len(ended)
    spent = sum(_spent_s(ledger, trial_id) for trial_id in unfinished)
    work = mean * (waiting + len(unfinished)) - min(spent, mean * len(unfinished))
    return work / max(1, len(unfinished))


def _spent_s(ledger: Ledger, trial_id: str) -> float:
    reports = ledger.history(trial_id).column("wall_s").to_pylist()
    return reports[-1] if reports else 0.0


if __name__ == "__main__":
    sys.exit(guarded(main))
