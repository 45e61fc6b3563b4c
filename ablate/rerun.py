"""`python -m ablate.rerun STUDY`: trains a trial's configuration again; `--verify` compares every step with the
trial."""

from __future__ import annotations

import argparse
import os
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablate import cli, escape, trainers
from ablate.errors import BadInput, ParameterError, nearest
from ablate.records import locations, provenance
from ablate.records.ledger import Ledger
from ablate.records.rows import MEASURED, TrialRow
from ablate.running import environment, tracking
from ablate.running.live import View, outcome
from ablate.running.progress import StudyProgress, best_of_study
from ablate.running.runner import Event, Halt, Progress
from ablate.running.trial import StudyContext, by_trainer, run_trial
from ablate.spec import yaml_marks
from ablate.spec.models import Objective
from ablate.study import lock, lookup, study_json
from ablate.study.study_json import SpecFile
from ablate.trainers import Train, Trainer, Verdict
from ablate.trials.trial import Trial, make


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared step by step. `first`: the first step that differs, with its loss before and now (None: the
    run lacks this step); None where all `steps` are the same, bit for bit. `metric`: what was compared at every report
    where the trainer gives no losses of steps; "" where it does."""

    steps: int
    first: tuple[int, float | None, float | None] | None
    metric: str = ""

    def __str__(self) -> str:
        if self.first is None:
            return f"identical: {self.steps} {'reports' if self.metric else 'steps'}"
        step, before, now = self.first
        where, what = (f"at {step}", self.metric) if self.metric else (f"step {step}", "loss")
        return f"different: {where}: {what} was {_shown(before)}, is {_shown(now)}"


def main(argv: Sequence[str] | None = None, *, train: Train = by_trainer) -> int:
    """Parse, train, compare. `train`: what trains; a test replaces it."""
    given = parser().parse_args(argv)
    environment.prepare("inline")
    if given.verify and given.set:
        rule = "a changed configuration is another run"
        raise BadInput("--verify", "--set", given.set[0], rule, "leave one of the two out")
    # Absolute: a trainer of the user's trains in the study file's folder.
    before = Ledger(lookup.find(given.study, results=given.results).absolute())
    spec = study_json.parse(before.read_study(), place=before.place).spec
    row = row_of(before, given.trial, objective=spec.objectives[0], seeds=spec.optimizer.seeds_per_trial)
    trial = _trial(row, given.set, trainer=trainers.load(before.trainer.name, before.trainer.settings))
    _check(row, trial, ledger=before, objective=spec.objectives[0] if given.verify else None)
    # To verify a pruned trial, stop where the search stopped it. Without --verify, train to the end.
    stop_at = row.tokens_seen if given.verify and row.status == "pruned" else None
    with lock.hold(Ledger(before.place / "reruns")):
        # The trainer may measure more today than when the study began.
        ledger = Ledger(before.place / "reruns" / trial.trial_id, trial.config.trainer.description.metrics)
        if trial.trial_id in ledger.final_ids() or ledger.unreadable_rows():
            # It would resume from its last checkpoint, or be refused its end, and train nothing.
            ledger.store.remove("")
        again = _train(trial, spec, ledger=ledger, stop_at=stop_at, train=train)
    if again is None:
        print(f"interrupted; the same command resumes from {ledger.place}", file=sys.stderr)
        return cli.INTERRUPTED
    if not given.verify:
        print(escape.one_line(outcome(again, metric=spec.objectives[0].metric), limit=1_000))
        print(f"results: {ledger.place}")
        return cli.DONE if again.status in MEASURED else cli.NO_SUCCESS
    metric = "" if losses(before, trial.trial_id) else spec.objectives[0].metric
    found = compare(*(_compared(each, trial.trial_id, metric=metric) for each in (before, ledger)))
    print(replace(found, metric=metric))
    if found.first is None:
        return cli.DONE
    for reason in _possible_reasons(row, again, workers=spec.resources.workers):
        print(escape.one_line(reason, limit=1_000), file=sys.stderr)
    return cli.DIFFERENT


def losses(ledger: Ledger, name: str) -> dict[int, float]:
    """Step -> training loss, for every step that a trial reported."""
    found: dict[int, float] = {}
    for report in ledger.history(name).select(["step", "losses"]).to_pylist():
        first = report["step"] - len(report["losses"]) + 1
        found |= dict(enumerate(report["losses"], start=first))
    return found


def _compared(ledger: Ledger, name: str, *, metric: str) -> dict[int, float]:
    """What is compared: the losses of the steps, or a metric at every report."""
    if not metric:
        return losses(ledger, name)
    reports = ledger.history(name).select(["step", metric]).to_pylist()
    return {report["step"]: report[metric] for report in reports if report[metric] is not None}


def compare(before: Mapping[int, float], now: Mapping[int, float]) -> Comparison:
    """Compare the losses of two runs by their bits: NaN equals NaN, and 0.0 differs from -0.0."""
    for step in sorted(before.keys() | now.keys()):
        pair = before.get(step), now.get(step)
        if _bits(pair[0]) != _bits(pair[1]):
            return Comparison(steps=len(before), first=(step, *pair))
    return Comparison(steps=len(before), first=None)


def _train(trial: Trial, spec: SpecFile, *, ledger: Ledger, stop_at: int | None, train: Train) -> TrialRow | None:
    """Train in this process, with the live table on stderr. None where it was interrupted."""
    objective = spec.objectives[0]
    swanlab, complaint = tracking.check(spec.tracking.swanlab)
    commit = provenance.git("rev-parse", "HEAD")
    context = StudyContext(ledger, swanlab=swanlab, objective=objective.metric, git_commit=commit)
    with Halt() as halt, View(StudyProgress(objective, planned=1)) as view:

        def tell(progress: Progress) -> Verdict:
            view.on_event(Event(trial, "reported", progress=progress))
            if halt.reason:
                return Verdict.INTERRUPT
            return Verdict.STOP if stop_at is not None and progress.tokens_seen >= stop_at else Verdict.CONTINUE

        if complaint:
            view.say(complaint)
        view.on_event(Event(trial, "started"))
        row = run_trial(trial, context=context, tell=tell, train=train)
        view.on_event(Event(trial, "ended", row=row))
    return row


def row_of(ledger: Ledger, name: str, *, objective: Objective, seeds: int) -> TrialRow:
    """The row of the trial with this id, or of the `best` trial; `seeds`: of a point of the search."""
    rows, unreadable = ledger.rows(), ledger.unreadable_rows()
    for problem in unreadable:
        print(escape.one_line(f"left out: {problem}", limit=1_000), file=sys.stderr)
    if name == "best":
        found = best_of_study(rows, objective=objective, seeds=seeds)
        if found is None:
            hint = "wait for one, or name a trial by its id"
            raise BadInput(str(ledger.place), "--trial", name, "no trial has completed", hint)
        return found[0]
    known = {row.trial_id: row for row in rows}
    if name in {problem.path.name.removesuffix(".parquet") for problem in unreadable}:
        hint = "the sweep trains it again: its command and --resume"
        raise BadInput(str(ledger.place), "--trial", name, "its row cannot be read", hint)
    if name not in known:
        running = name in ledger.started_ids()
        rule = "has not ended yet" if running else "no such trial"
        hint = "wait for it" if running else nearest(name, ["best", *known])
        raise BadInput(str(ledger.place), "--trial", name, rule, hint)
    return known[name]


def _trial(row: TrialRow, sets: Sequence[str], *, trainer: Trainer) -> Trial:
    """The trial of a row. With `sets`, another trial: its configuration with some values changed."""
    try:
        config = trainer.read(row.config_json)
    except ParameterError as error:
        raise BadInput("--trial", "", row.trial_id, error.rule, error.hint) from None
    overrides = dict(_override(text, trainer) for text in sets)
    if not overrides:
        return Trial(row.trial_id, study=row.study, arm=row.arm, seed=row.seed, config=config, params=dict(row.params))
    try:
        config = config.override(overrides)
    except ParameterError as error:
        raise error.at("--set") from None
    return make(row.study, row.arm, config, keys=[*row.params, *overrides])


def _override(text: str, trainer: Trainer) -> tuple[str, Any]:
    """Split `model.ema_decay=0.95` into key and value. A path is relative to the current folder."""
    key, equals, written = text.partition("=")
    if not equals:
        raise BadInput("--set", text, "", "not KEY=VALUE", "write it like --set model.ema_decay=0.95")
    value, is_path = yaml_marks.value(written, place="--set"), key in trainer.path_keys
    # os.path, since pathlib raises an error for a user without a home.
    return key, os.path.abspath(os.path.expanduser(value)) if is_path and isinstance(value, str) else value  # noqa: PTH100, PTH111


def _check(row: TrialRow, trial: Trial, *, ledger: Ledger, objective: Objective | None) -> None:
    """Raise BadInput, before anything is written, where data is missing or has changed, or the trial has nothing to
    verify. `objective`: None where it is not verified."""
    verify = objective is not None
    if objective and not any(_compared(ledger, row.trial_id, metric=each) for each in ("", objective.metric)):
        hint = "choose a trial that has reported"
        raise BadInput(str(ledger.place), "--verify", row.trial_id, "it recorded no step to compare", hint)
    for key, path in trial.config.trainer.missing_files(trial.config):
        raise BadInput(str(ledger.place), key, path, "no such file", f"restore it, or pass --set {key}=PATH")
    try:
        data_hash = trial.config.trainer.check_data(trial.config)
    except ParameterError as error:
        raise error.at("--trial") from None
    if verify and row.data_hash is not None and data_hash != row.data_hash:
        rule = f"the data is not what the trial read ({row.data_hash})"
        raise BadInput(str(ledger.place), "data_hash", data_hash, rule, "restore the data, or leave out --verify")


def _possible_reasons(before: TrialRow, now: TrialRow, *, workers: int) -> list[str]:
    """What has changed since the trial and may explain a difference."""
    found = [f"the rerun ended as {now.status}: {now.error}"] if now.error else []
    code = "code_hash" if before.code_hash and now.code_hash else "git_commit"
    found += [
        f"{name} was {getattr(before, name)}, is {getattr(now, name)}"
        for name in (code, "device", "host")
        if getattr(before, name) != getattr(now, name)
    ]
    if workers > 1:
        found.append(f"the trial had {workers} workers, which sum in another order than the one process of a rerun")
    return found


def _bits(value: float | None) -> bytes:
    return b"" if value is None else struct.pack("<d", value)


def _shown(value: float | None) -> str:
    return "not recorded" if value is None else repr(value)


_VERIFY = (
    "compare every step's loss with the trial's, bit for bit (of your own trainer: the objective at every report);"
    " prints `identical: N steps`, or the first one that differs with both values (exit 1)"
)
_SET = "change a key of the configuration, e.g. model.ema_decay=0.95; repeatable; not with --verify"


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.rerun`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.rerun",
        description="Train a trial's configuration again, in this process, into results/STUDY/reruns/.",
        epilog="""examples:
  python -m ablate.rerun ema --trial best --verify
  python -m ablate.rerun ema --trial best --set train.tokens=2_000_000""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "study", metavar="STUDY", help="a name under --results, a path, an s3:// or gs:// URL, or `latest`"
    )
    made.add_argument("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    made.add_argument("--trial", metavar="best|ID", default="best", help="the trial to train again; default: best")
    made.add_argument("--verify", action="store_true", help=_VERIFY)
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=_SET)
    return made


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
