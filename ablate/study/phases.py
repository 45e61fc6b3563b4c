"""The phases of a study, in their order: the search, its confirmation, what prepares the ablation, its seeds.

Each phase is a source of trials that reads from the ledger which are done, so an interrupted study resumes in the phase
where it stopped. What a phase needs of an earlier one (the winner, speeds, tuned values) is read from the ledger too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ablate import formatting
from ablate.analyze.basis import points
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.records.rows import TrialRow
from ablate.running.progress import best_of, best_of_search
from ablate.running.runner import Halt, Runner
from ablate.spec import designs, matching, tuning
from ablate.spec.designs import CALIBRATE, TUNE
from ablate.spec.models import StudySpec
from ablate.spec.spending import Looks
from ablate.study import lifecycle
from ablate.trainers import Config
from ablate.trials import plan
from ablate.trials.plan import Settled
from ablate.trials.source import ArmQueue
from ablate.trials.trial import Trial


def run(study: StudySpec, ledger: Ledger, *, runner: Runner, halt: Halt, say: Callable[[str], None]) -> bool:
    """Train every trial that the study asks for and the ledger lacks. False where trials are left: `halt` stopped them,
    or the ablation starts from a search without a completed trial."""
    if study.search:
        from ablate.search.source import Search  # brings Optuna

        search = Search(study, ledger)
        runner.run(search)
        if search.exhausted:
            lifecycle.record_exhausted(ledger, search.points)
        if search.points < study.optimizer.trials and halt.reason is None:
            found = formatting.count(search.points, "trial" if study.optimizer.seeds_per_trial == 1 else "point")
            say(f"the search ends with {found} instead of {study.optimizer.trials}: its space has no more points")

    def train(trials: Sequence[Trial]) -> bool:
        runner.run(ArmQueue(trials, done=ledger.final_ids()))
        return halt.reason is None

    if halt.reason:
        return False
    confirming = confirmations(study, ledger.rows())
    if confirming and not train(confirming):
        return False
    if study.ablation is None:
        return True
    base = _baseline(study, ledger, say)
    if base is None:
        say(lifecycle.NO_WINNER)
        return False
    calibrations = plan.calibration_trials(study, base) if study.ablation.match == "wall" else []
    if calibrations and not train(calibrations):
        return False
    settled: Settled = plan.budgets(study, base, tokens_per_s=speeds(calibrations, ledger))
    _say_untrained(study, base, settled, say=say, why="its speed was not measured, or the baseline's was not")
    if study.ablation.tune_each_arm is not None:
        points = tuning_points(study)
        if not train(plan.tuning_trials(study, base, points, settled)):
            return False
        settled = tuned(study, base, settled, points=points, rows=ledger.rows())
        _say_untrained(study, base, settled, say=say, why="none of its tuning trials completed")
    looks = plan.looks(study)
    if looks is None:
        return train(plan.arm_trials(study, base, settled))
    while (trials := wanted(study, base, settled, looks=looks, rows=ledger.rows())) and not _all_ended(trials, ledger):
        if not train(trials):
            return False
        if not _all_ended(trials, ledger):  # some have no result, and no look without them
            break
    return True


def wanted(
    study: StudySpec, base: Config, settled: Settled, *, looks: Looks, rows: Sequence[TrialRow], possible: bool = False
) -> list[Trial]:
    """The ablation's trials up to the next look, ended or not; with `possible` up to the last look. Decided arms have
    no more than those up to the look that decided them."""
    from ablate.study import sequential_seeds  # brings scipy

    assert study.ablation is not None
    arms, metric = designs.expand(study.ablation, base), study.objectives[0].metric
    untrained = [arm.name for arm in arms if arm.name not in settled]
    known = {"looks": looks, "arms": arms, "metric": metric, "hypotheses": study.hypotheses}
    walk = sequential_seeds.state(rows, **known, control=study.ablation.control, untrained=untrained)
    size = walk.possible if possible else walk.wanted
    return [trial for trial in plan.arm_trials(study, base, settled) if trial.seed in looks.seeds(size(trial.arm))]


def _all_ended(trials: Sequence[Trial], ledger: Ledger) -> bool:
    return {trial.trial_id for trial in trials} <= ledger.final_ids()


def confirmations(study: StudySpec, rows: Sequence[TrialRow]) -> list[Trial]:
    """The trials that confirm the search by its best trials so far; none without `optimizer.confirm`."""
    confirm = study.optimizer.confirm
    if confirm is None:
        return []
    known = points.ranked(rows, objective=study.objectives[0], seeds=study.optimizer.seeds_per_trial)
    best = [point.first for point, _ in known[: confirm.best]]
    return plan.confirm_trials(study, {row.trial_id: study.trainer.read(row.config_json) for row in best})


def tuning_points(study: StudySpec) -> list[dict[str, Any]]:
    """The points at which every arm is tuned: a Sobol sequence with the seed `optimizer.seed`."""
    from ablate.search import samplers  # brings Optuna

    assert study.ablation is not None
    assert study.ablation.tune_each_arm is not None
    tune = study.ablation.tune_each_arm
    space = tuning.space(tune, study.base, study.search)
    return samplers.sobol_points(space, count=tune.trials, seed=study.optimizer.seed)


def tuned(
    study: StudySpec,
    base: Config,
    settled: Settled,
    *,
    points: Sequence[Mapping[str, Any]],
    rows: Sequence[TrialRow],
) -> dict[str, dict[str, Any]]:
    """`settled` with every arm's best tuned values, without the arms whose tuning trials all failed."""
    wanted = {trial.trial_id for trial in plan.tuning_trials(study, base, points, settled)}
    found: dict[str, dict[str, Any]] = {}
    for arm, before in settled.items():
        own = [row for row in rows if row.arm == TUNE + arm and row.trial_id in wanted]
        best = best_of(own, objective=study.objectives[0])
        if best is not None:
            config = study.trainer.read(best[0].config_json)
            found[arm] = {**before, **{key: config[key] for key in points[0]}}
    return found


def known_baseline(study: StudySpec, ledger: Ledger, *, searched: int) -> Config | None:
    """What the arms deviate from, as far as it is known while the search has `searched` trials left; None where it is
    not. Writes nothing."""
    assert study.ablation is not None
    if study.ablation.baseline == "base":
        return study.base
    fixed = lifecycle.winner(ledger)
    if fixed is None and not searched:
        best = _best_searched(study, ledger)
        fixed = best[0].trial_id if best else None
    row = ledger.row(fixed) if fixed else None
    return study.trainer.read(row.config_json) if row else None


def _baseline(study: StudySpec, ledger: Ledger, say: Callable[[str], None]) -> Config | None:
    """What the arms deviate from; None where the search has no completed trial yet.

    The search's winner is recorded when the ablation first needs it and stays the baseline. If an extended search then
    finds a better trial, the trained arms still have their baseline.
    """
    assert study.ablation is not None
    if study.ablation.baseline == "base":
        return study.base
    best = _best_searched(study, ledger)
    fixed = lifecycle.winner(ledger)
    if fixed is None:
        if best is None:
            return None
        fixed = best[0].trial_id
        lifecycle.fix_winner(ledger, fixed)
    row = ledger.row(fixed)
    if row is None:
        hint = "restore the file, or run the study again under another name"
        raise BadInput(str(ledger.place / "trials" / f"{fixed}.parquet"), "winner", fixed, "cannot be read", hint)
    if best is not None and best[0].trial_id != fixed:
        say(f"the ablation keeps trial {fixed} as its baseline, though {best[0].trial_id} is better now")
    return study.trainer.read(row.config_json)


def _best_searched(study: StudySpec, ledger: Ledger) -> tuple[TrialRow, float] | None:
    return best_of_search(ledger.rows(), objective=study.objectives[0], seeds=study.optimizer.seeds_per_trial)


def speeds(calibrations: Sequence[Trial], ledger: Ledger) -> dict[str, float]:
    """Arm -> tokens/s, for every completed calibration."""
    found: dict[str, float] = {}
    for trial in calibrations:
        row = ledger.row(trial.trial_id)
        if row is not None and row.status == "completed":
            reports = ledger.history(row.trial_id).column("tokens_per_s").to_pylist()
            measured = [float(value) for value in reports if value]
            if measured:
                found[row.arm.removeprefix(CALIBRATE)] = matching.speed(measured)
    return found


def _say_untrained(study: StudySpec, base: Config, settled: Settled, *, say: Callable[[str], None], why: str) -> None:
    for arm in plan.arms(study, base):
        if arm not in settled:
            say(f"{arm} is not trained: {why}")
