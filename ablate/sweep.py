"""`python -m ablate.sweep SPACE.yaml`: runs a study, writes its report, and prints the answer."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ablate import cli, escape, formatting
from ablate.analyze.basis import points
from ablate.analyze.basis.points import Point
from ablate.errors import BadInput, CannotWrite, writing
from ablate.records import locations, provenance
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.records.rows import MEASURED, TrialRow
from ablate.running import environment, tracking
from ablate.running.limits import Limits
from ablate.running.live import View, outcome
from ablate.running.progress import StudyProgress, best_of_study
from ablate.running.ray import session_folder
from ablate.running.runner import Halt, Runner, undisturbed
from ablate.running.trial import StudyContext
from ablate.spec import study_file
from ablate.spec.models import Resources, StudySpec
from ablate.study import checks, completion, lifecycle, lock, lookup, phases, preflight
from ablate.trials import plan

if TYPE_CHECKING:
    from ablate.report.sections.summary import Answer
    from ablate.study.dry_run import DryRun


_EPILOG = """examples:
  python -m ablate.sweep search_spaces/ema.yaml
  python -m ablate.sweep search_spaces/ema.yaml --dry-run --gpu 4090
  python -m ablate.sweep search_spaces/ema.yaml --set base.data.corpus=pydoc --set study=ema_pydoc --trials 24
  python -m ablate.sweep search_spaces/memory.yaml --dry-run --pilot memory
  python -m ablate.sweep search_spaces/ema.yaml --resume

exit codes: 0 done, 2 bad input, 3 no trial succeeded, 130 interrupted and resumable"""

_SET = "set a value of the study file, e.g. base.model.dim=256 or study=wider; repeatable"
_DRY_RUN = (
    "print the plan, the predicted peaks of memory and a rough cost; write nothing. Refuses what a run would refuse"
)
_PILOT = (
    "with --dry-run: an earlier study with the same metrics, by name or path, whose spread over seeds gives the chances"
    " of the hypotheses' verdicts"
)
_GPU = (
    "plan a dry run for this GPU of another machine, e.g. 4090; its CPUs are taken to suffice, and a data file that is"
    " missing here is a warning. A GPU that is not known by its name needs resources.gpu_memory_gib"
)
_ALLOW_MIXED = (
    "train on where earlier trials were trained by other code or other versions of torch or Ray; the report marks them"
)


@dataclass(frozen=True)
class Options:
    """What the user asked for. `sets` are the `--set` values with `trials` (None: not given) among them."""

    space: Path
    results: Place
    sets: tuple[str, ...]
    trials: int | None
    resume: bool
    dry_run: bool
    json: bool
    gpu: str | None
    gpus: int | None
    address: str | None
    inline: bool
    max_hours: float | None
    allow_mixed: bool = False
    pilot: str | None = None


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("command line", "", "", message, f"see {self.prog} --help")


def parse(argv: Sequence[str] | None) -> Options:
    """Raises BadInput where flags are unknown, ill-typed, or do not go together."""
    given = parser().parse_args(argv)
    _refuse(given.inline and given.address, "--address", given.address, "--inline runs without Ray")
    _refuse(given.inline and given.gpus is not None, "--gpus", given.gpus, "--inline runs without Ray")
    _refuse(given.address and given.gpus is not None, "--gpus", given.gpus, "a running cluster counts its own cards")
    if given.pilot is not None and not given.dry_run:
        raise BadInput("--pilot", "", given.pilot, "it is for planning alone", "add --dry-run, or leave it out")
    if given.address and "://" in given.address:
        raise BadInput("--address", "", given.address, "Train does not run over Ray Client", "give HOST:PORT or `auto`")
    return Options(
        space=given.space,
        results=given.results,
        sets=(*given.set, *([f"optimizer.trials={given.trials}"] if given.trials is not None else [])),
        trials=given.trials,
        resume=given.resume,
        dry_run=given.dry_run,
        json=given.json,
        gpu=given.gpu,
        gpus=given.gpus,
        address=given.address,
        inline=given.inline,
        max_hours=given.max_hours,
        allow_mixed=given.allow_mixed,
        pilot=given.pilot,
    )


def _refuse(wrong: object, flag: str, value: object, rule: str) -> None:
    if wrong:
        raise BadInput(flag, "", value, rule, "leave one of the two out")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.sweep`."""
    made = _Parser(
        prog="python -m ablate.sweep",
        description="Run a study: its search, its ablation, its report. Every trial's result is kept when the trial"
        " ends, so an interrupted study resumes where it was.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("space", metavar="SPACE.yaml", type=Path, help="the study file")
    add("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help=_SET)
    add("--trials", metavar="N", type=_at_least(1), help="trials of the search; short for --set optimizer.trials=N")
    add("--resume", action="store_true", help="resume a study that is not finished")
    add("--dry-run", action="store_true", help=_DRY_RUN)
    add("--pilot", metavar="STUDY", help=_PILOT)
    add("--json", action="store_true", help="print the answer as JSON")
    add("--gpu", metavar="NAME", help=_GPU)
    add("--gpus", metavar="N", type=_at_least(0), help="logical GPUs of this machine; default: those that are found")
    add("--address", metavar="ADDR", help="join the Ray that runs at HOST:PORT (or `auto`) instead of starting one")
    add("--inline", action="store_true", help="train in this process, one trial after the other, without Ray")
    add("--allow-mixed", action="store_true", help=_ALLOW_MIXED)
    add("--max-hours", metavar="H", type=_hours, help="stop after H hours and write the report; --resume continues")
    return made


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: not a whole number of at least {least}")
        return int(text)

    return whole


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: not a number of hours above 0")
    return hours


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, write the report. The last lines of stdout say what the arms showed, name the search's best trial,
    and the report."""
    options = parse(argv)
    study = study_file.load(options.space, options.sets)
    if options.trials is not None and not study.search:
        raise BadInput("--trials", "", options.trials, "the study has no search", "leave it out, or set ablation.seeds")
    if options.dry_run:
        return _dry_run(study, options)
    environment.prepare("inline" if options.inline else "ray")
    study_file.check_installed(study)
    if options.address is None and not options.inline:
        # Fail before anything is written and Ray is started.
        preflight.slots(study.resources, preflight.machine(gpus=options.gpus, card=None))
    if not options.inline:
        session_folder.parent()  # raises BadInput where Ray has no place
    preflight.check_results(options.results / study.study)
    if study.resources.max_gpu_hours is not None:
        options = _within_budget(study, options)
    return _sweep(study, options)


def _dry_run(study: StudySpec, options: Options) -> int:
    from ablate.study import dry_run

    missing = study_file.missing_data(study)
    if missing and options.gpu is None:  # a plan for another machine warns: its files are there
        raise missing[0]
    study_file.check_present_files(study)
    run = _plan(study, options)
    print(dry_run.render_json(run) if options.json else escape.printable(dry_run.render(run)))
    return cli.DONE


def _plan(study: StudySpec, options: Options) -> DryRun:
    from ablate.study import dry_run  # imports Optuna, for the search's first draws

    here = preflight.machine(gpus=options.gpus, card=options.gpu)
    folder = options.results / study.study
    lifecycle.check_whole_folder(Ledger(folder))
    earlier = folder if Ledger(folder).exists() else None
    pilot = None if options.pilot is None else lookup.find(options.pilot, results=options.results)
    if pilot is not None and study.ablation is None:
        raise BadInput("--pilot", "", options.pilot, "the study has no arms to plan for", "leave it out")
    if earlier is not None:
        lifecycle.check_comparable(study, Ledger(folder))
    cpus = math.inf if here.elsewhere else here.cpus
    slots = preflight.slots(study.resources, here)
    run = dry_run.describe(study, slots, card=here.card, earlier=earlier, pilot=pilot, gpus=here.gpus, cpus=cpus)
    return replace(run, warnings=(*run.warnings, *cautions_of(study, run, earlier=earlier)))


def cautions_of(study: StudySpec, run: DryRun, *, earlier: Place | None) -> list[str]:
    """Why results may say less than they will seem to: repeated data; from earlier results, what was not learned."""
    from ablate.analyze import cautions, floors  # imports pandas
    from ablate.study import dataset

    epoch = None if study_file.missing_data(study) else study.trainer.epoch(study.base)
    budgets = {each.trial.arm: each.trial.config.cost.budget for each in run.trials}
    found = cautions.planned(budgets, epoch=epoch, most=study.trainer.description.most_epochs)
    if earlier is not None:
        data, objective = dataset.read(earlier), study.objectives[0]
        seeds = study.optimizer.seeds_per_trial
        learned = floors.floors(data.trials, objective=objective, declared=tuple(data.arms), seeds=seeds)
        found += cautions.above_floor(learned)
        found += cautions.risen(data.trials, data.history, objective=objective)
    return found


def _within_budget(study: StudySpec, options: Options) -> Options:
    """The options, with `max_hours` limited by what is left of `resources.max_gpu_hours` on this machine's GPUs. Raises
    BadInput where the trials that are left need more."""
    cards, ledger = preflight.machine(gpus=options.gpus, card=None), Ledger(options.results / study.study)
    if cards.card is None or not cards.gpus or lifecycle.is_finished(study, ledger):
        return options  # no GPU-hours are spent
    left_h = _plan(study, options).left_gpu_hours
    if left_h is None or options.address is not None:
        return options  # the number of GPUs of a cluster is not known yet
    return replace(options, max_hours=min(left_h / cards.gpus, options.max_hours or math.inf))


def _sweep(study: StudySpec, options: Options) -> int:
    halt = Halt(max_hours=options.max_hours)
    swanlab, warning = tracking.check(study.tracking.swanlab)
    context = StudyContext(
        # Absolute: workers may have another current folder.
        Ledger((options.results / study.study).absolute(), study.trainer.description.metrics),
        swanlab=swanlab,
        objective=study.objectives[0].metric,
        git_commit=provenance.git("rev-parse", "HEAD"),
        limits=_limits(study.resources),
    )
    study_progress = StudyProgress(
        study.objectives[0], planned=plan.planned(study), seeds=study.optimizer.seeds_per_trial
    )
    with halt:  # until the report is written
        if halt.abandoned:  # by the process whose place this one takes
            return _end(study, context.ledger, halt=halt, options=options)
        with contextlib.ExitStack() as stack:
            view = View(study_progress)
            starting = _runner(study, context, halt=halt, view=view, options=options)
            lock.check_free(context.ledger)  # before a runner writes to the study's folder
            # A running cluster may be unreachable or too small, so it is joined before anything is written.
            runner = stack.enter_context(starting) if options.address else None
            ledger, state = lifecycle.open_study(
                study, options.results, resume=options.resume, allow_mixed=options.allow_mixed
            )
            if state == "finished":
                view.say(f"study {study.study} is finished: writing its report again")
                return _conclude(study, ledger, options)
            stack.enter_context(lock.hold(ledger))
            for line in ledger.set_aside():
                view.say(line)
            study_progress.rows += ledger.rows()
            stack.enter_context(view)
            for line in (*_of_its_check(study, ledger), *([warning] if warning else [])):
                view.say(line)
            try:
                with writing():
                    runner = runner or stack.enter_context(starting)
                    if runner.notice:
                        view.say(runner.notice)
                    whole = phases.run(study, ledger, runner=runner, halt=halt, say=view.say)
                    if whole and not lifecycle.mark_finished(ledger):
                        halt.call_off("some trials have no result")
            except CannotWrite as full:
                halt.call_off(full.line)
            except KeyboardInterrupt:  # the second signal, or the runner is gone: `halt` says which
                if halt.reason is None:
                    raise
            finally:
                halt.settle()
        return _end(study, ledger, halt=halt, options=options)


def _of_its_check(study: StudySpec, ledger: Ledger) -> list[str]:
    """What short runs of a trainer of the user's have shown; the built-in one is checked by its tests."""
    if not study.trainer.description.settings:
        return []
    found = checks.read(ledger, code_hash=study.trainer.code_hash)
    if found is None:
        return [
            f"never checked, as its code is now: `python -m ablate.check {study.file}` says what its numbers can carry"
        ]
    return [f"its check: {complaint}" for complaint in found.complaints]


def _runner(
    study: StudySpec, context: StudyContext, *, halt: Halt, view: View, options: Options
) -> AbstractContextManager[Runner]:
    if options.inline:
        from ablate.running import inline

        return inline.start(context, halt=halt, on_event=view.on_event)
    from ablate.running.ray import tuner  # takes seconds, so bad input is refused first

    return tuner.start(study, context, halt=halt, on_event=view.on_event, address=options.address, gpus=options.gpus)


def _end(study: StudySpec, ledger: Ledger, *, halt: Halt, options: Options) -> int:
    """Write the report. Where the study is not finished, say why and how to resume it."""
    if halt.reason is None:
        return _conclude(study, ledger, options)
    why = {"signal": "interrupted", "hours": f"{options.max_hours or 0:g} hours are over", "fault": halt.fault}[
        halt.reason
    ]
    if not ledger.exists():
        raise BadInput(
            str(ledger.place), "", "", "deleted while the study ran", "start it again, or restore the folder"
        )
    with undisturbed():
        done = completion.read(ledger)
        print(
            f"{why}: {done.planned - done.left} of {done.planned} trials have ended;"
            " resume with the same command and --resume",
            file=sys.stderr,
        )
        _conclude(study, ledger, options)
    return cli.INTERRUPTED


def _conclude(study: StudySpec, ledger: Ledger, options: Options) -> int:
    """Write the report; print how the trials ended, the answer, the best trial, and the place of the report."""
    from ablate.report import writer  # imports pandas and matplotlib
    from ablate.report.sections import summary

    rows = ledger.rows()
    known = points.ranked(rows, objective=study.objectives[0], seeds=study.optimizer.seeds_per_trial)
    folder = answer = None
    cautions: tuple[str, ...] = ()
    try:
        findings = writer.findings_of(ledger.place, allow_mixed=options.allow_mixed)
        answer, cautions = summary.answer(findings) if study.ablation else None, findings.cautions
        writer.write_findings(findings)
        folder = ledger.place / "report"
    except BadInput as error:  # such as trials of two data sets: the study is done nevertheless
        print(f"no report: {error}\npython -m ablate.report {ledger.place} --allow-mixed writes it", file=sys.stderr)
    except OSError as error:  # a full disk: the measurements are in the ledger nevertheless
        print(f"no report: {error}; later: python -m ablate.report {ledger.place}", file=sys.stderr)
    ended = Ended(study, rows, known=known, answer=answer, cautions=cautions, report=folder)
    print(formatting.as_json(_as_json(ended)) if options.json else escape.printable("\n".join(_as_lines(ended))))
    found = known or best_of_study(rows, objective=study.objectives[0], seeds=study.optimizer.seeds_per_trial)
    return cli.DONE if found else cli.NO_SUCCESS


def _limits(resources: Resources) -> Limits:
    """How long a trial may take, in seconds."""
    hours, minutes = resources.max_hours, resources.stall_minutes
    return Limits(max_s=None if hours is None else 3600 * hours, stall_s=None if minutes is None else 60 * minutes)


@dataclass(frozen=True)
class Ended:
    """What the last lines say. `known`: the search's points that have a mean, best first, since the lowest value over
    arms and seeds is no answer.
    `answer`: of the ablation; None without one, or without a report. `cautions`: why the results may say less than they
    seem to."""

    study: StudySpec
    rows: Sequence[TrialRow]
    known: Sequence[tuple[Point[TrialRow], float]]
    answer: Answer | None
    cautions: tuple[str, ...]
    report: Place | None


def _as_lines(ended: Ended) -> list[str]:
    study, rows = ended.study, ended.rows
    counts = Counter(row.status for row in rows)
    said = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    lines = [f"{formatting.count(len(rows), 'trial')}: {said}"]
    lines += [f"  {row.trial_id} {outcome(row, metric='')}" for row in rows if row.status not in MEASURED]
    if ended.answer is not None:
        lines += [f"answer: {ended.answer.verdict}", *(f"  {sentence}" for sentence in ended.answer.sentences)]
    elif study.ablation:
        lines.append("answer: none, see above")
    if not counts["completed"]:
        lines.append("best: none, no trial completed")
    elif not ended.known and study.search:
        lines.append(f"best: none, no trial of the search completed with a {study.objectives[0].metric}")
    elif ended.known:
        (point, value), metric = ended.known[0], study.objectives[0].metric
        reached = f"{metric} {formatting.significant(value, digits=5)}"
        reached += formatting.over_seeds(point.seeds, point.sd(metric))
        tied = sum(other == value for _, other in ended.known)
        reached += f" ({tied} trials tie)" if tied > 1 else ""
        lines.append(f"best: trial {point.trial_id} {reached} {formatting.parameters(point.first.params)}")
    lines += [f"caution: {caution}" for caution in ended.cautions]
    lines.append(f"report: {ended.report / 'report.md' if ended.report else 'none, see above'}")
    return lines


def _as_json(ended: Ended) -> dict[str, object]:
    return {
        "study": ended.study.study,
        "trials": Counter(row.status for row in ended.rows),
        "failed": [
            {"trial_id": row.trial_id, "status": row.status, "error": row.error}
            for row in ended.rows
            if row.status not in MEASURED
        ],
        "best": _best_as_json(*ended.known[0], ended.study.objectives[0].metric) if ended.known else None,
        **({"answer": asdict(ended.answer) if ended.answer else None} if ended.study.ablation else {}),
        "cautions": list(ended.cautions),
        "report": str(ended.report / "report.md") if ended.report else None,
    }


def _best_as_json(point: Point[TrialRow], value: float, metric: str) -> dict[str, object]:
    spread = {"seeds": point.seeds, "sd": point.sd(metric)} if point.seeds > 1 else {}
    return {"trial_id": point.trial_id, metric: value, **spread, "params": dict(point.first.params)}


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
