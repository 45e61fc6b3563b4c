"""A search whose points have several seeds: planned, trained, interrupted and resumed, told to Optuna, reported."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ablate import status, sweep
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.report.writer import write as write_report
from ablate.running import inline
from ablate.running.runner import Event, Halt
from ablate.running.trial import StudyContext, by_trainer
from ablate.search import journal, samplers
from ablate.spec import study_file
from ablate.spec.models import StudySpec
from ablate.study import completion, dry_run, lifecycle, phases, preflight
from ablate.trainers import Config, Report, Result, Verdict
from ablate.trials import plan
from tests.trainers.toy import Toy

STUDY = """
study: walk
base: {start: far, steps: 20}
search: {lr: {loguniform: [0.001, 0.3]}}
objective: {metric: height}
optimizer: {sampler: tpe, startup: 2, trials: 4, seed: 0, seeds_per_trial: 3}
resources: {gpu: 0}
tracking: {swanlab: disabled}
"""
SEEDS = [0, 1101, 1102]


def load(tmp_path: Path, *sets: str, text: str = STUDY) -> StudySpec:
    path = tmp_path / "walk.yaml"
    path.write_text(text)
    return study_file.load(path, sets, trainer=Toy())


def go(
    study: StudySpec, results: Path, *, stop_after: int | None = None, broken: Callable[[Config], bool] | None = None
) -> Ledger:
    """Run the study in this process; interrupted after so many ends, and with trials that are broken."""
    ledger, _ = lifecycle.open_study(study, results, resume=True)
    halt, ended = Halt(), Counter[str]()

    def on_event(event: Event) -> None:
        ended[event.kind] += 1
        if ended["ended"] == stop_after:
            halt.call_off("the test interrupts it")

    def train(config: Config, report: Callable[[Report], Verdict], *, checkpoint_dir: Path) -> Result:
        if broken and broken(config):
            raise ArithmeticError("it fell off")
        return by_trainer(config, report, checkpoint_dir=checkpoint_dir)

    context = StudyContext(ledger, swanlab="disabled", objective="height", git_commit="0" * 40)
    runner = inline.InlineRunner(context, halt=halt, on_event=on_event, train=train)
    if phases.run(study, ledger, runner=runner, halt=halt, say=lambda _: None):
        lifecycle.mark_finished(ledger)
    return ledger


def told(ledger: Ledger) -> list[tuple[Any, ...]]:
    """What Optuna's journal says of every point: number, values drawn, state, value."""
    storage = JournalStorage(JournalFileBackend(str(ledger.path("optuna.journal"))))
    study = optuna.load_study(study_name=ledger.root.name, storage=storage)
    return [(each.number, each.params, each.state, each.values) for each in study.get_trials()]


def by_lr(ledger: Ledger) -> dict[float, list[Any]]:
    found: defaultdict[float, list[Any]] = defaultdict(list)
    for row in ledger.rows():
        if row.arm == "search":
            found[row.params["lr"]].append(row)
    return found


def test_seeds_collide_with_no_others(tmp_path: Path):
    ablation = "ablation: {seeds: 1000, arms: {a: {momentum: 0.5}}}\n"
    study = load(tmp_path, "optimizer.seeds_per_trial=100", "optimizer.confirm={seeds: 100}", text=STUDY + ablation)
    fresh = {trial.seed for trial in plan.confirm_trials(study, {"x": study.base})}
    seeds = plan.search_seeds(study)
    assert len(set(seeds)) == 100
    assert not set(seeds) & (fresh | set(plan.seeds(study)))


def test_one_seed_is_the_trial_that_it_always_was(tmp_path: Path):
    params = {"lr": 0.01}
    one, three = load(tmp_path, "optimizer.seeds_per_trial=1"), load(tmp_path)
    (only,) = plan.search_trials(one, params)
    first, *others = plan.search_trials(three, params)
    assert only == first == plan.search_trial(one, params)
    assert [trial.seed for trial in (first, *others)] == SEEDS
    assert len({trial.trial_id for trial in (first, *others)}) == 3
    assert {tuple(trial.params.items()) for trial in (first, *others)} == {(("lr", 0.01),)}


def test_every_point_is_trained_on_every_seed_and_told_as_its_mean(
    tmp_path: Path,
    empty_figures: None,  # noqa: ARG001
):
    study = load(tmp_path, "optimizer.confirm={best: 2, seeds: 2}")
    ledger = go(study, tmp_path / "results")
    assert completion.read(ledger).finished
    rows = [row for row in ledger.rows() if row.arm == "search"]
    assert len(ledger.rows()) == plan.planned(study) == completion.read(ledger).planned == 4 * 3 + 2 * 2
    points = by_lr(ledger)
    assert [sorted(row.seed for row in own) for own in points.values()] == [SEEDS] * 4
    means = {lr: statistics.fmean(row.metrics["height"] for row in own) for lr, own in points.items()}
    assert {params["lr"]: values for _, params, _, values in told(ledger)} == {lr: [mean] for lr, mean in means.items()}
    best = sorted(means, key=lambda lr: means[lr])
    names = [next(row.trial_id for row in points[lr] if row.seed == 0) for lr in best]
    found = status.collect(ledger)
    assert found.best is not None
    assert (found.best.trial_id, found.best.value, found.best.seeds) == (names[0], means[best[0]], 3)
    assert "(mean of 3 seeds, sd 0." in status.render(found)
    confirms = Counter(row.arm for row in ledger.rows() if row.arm != "search")
    assert confirms == {f"confirm.{name}": 2 for name in names[:2]}
    page = (write_report(ledger.root) / "report.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if "3/3" in line]
    assert len(table) == 4
    assert names[0] in table[0]
    assert not any(row.trial_id in line for row in rows if row.seed for line in table), "one line a point"


@pytest.mark.parametrize("stop_after", [1, 4, 5, 11])
def test_a_search_that_is_killed_in_the_middle_of_a_point_goes_on_as_if_it_was_not(stop_after: int, tmp_path: Path):
    study = load(tmp_path, "optimizer.sampler=sobol")
    whole = go(study, tmp_path / "whole")
    half = go(study, tmp_path / "half", stop_after=stop_after)
    before = {row.trial_id: row for row in half.rows()}
    assert len(before) == stop_after
    unfinished = [state for _, _, state, _ in told(half) if state is TrialState.RUNNING]
    assert len(unfinished) == (1 if stop_after % 3 else 0)
    go(study, tmp_path / "half")
    rows = {row.trial_id: row for row in half.rows()}
    assert {name: rows[name] for name in before} == before, "nothing was trained twice"
    assert rows.keys() == {row.trial_id for row in whole.rows()}
    assert told(half) == told(whole)


def test_the_journal_is_rebuilt_the_same_and_without_its_draws_too(tmp_path: Path):
    study = load(tmp_path, "optimizer.sampler=sobol")
    ledger = go(study, tmp_path / "results", stop_after=8, broken=lambda config: config.seed == SEEDS[1])
    live = told(ledger)
    assert [state for *_, state, _ in live] == [TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    rebuilt = journal.rebuild(study, ledger, pruner=samplers.pruner(study))
    assert told(ledger) == live
    (begun,) = rebuilt.unfinished.values()
    assert ([trial.seed for trial in begun.missing], [end.seed for end in begun.ends]) == ([1102], [0, 1101])
    for draw in ledger.path("draws").iterdir():
        draw.unlink()
    again = journal.rebuild(study, ledger, pruner=samplers.pruner(study))
    assert again.drawn == rebuilt.drawn
    assert [begun.missing for begun in again.unfinished.values()] == [begun.missing]
    assert told(ledger) == live


def test_a_point_with_a_failed_seed_has_no_mean_and_is_listed(tmp_path: Path, empty_figures: None):  # noqa: ARG001
    study = load(tmp_path)
    highest = max(values["lr"] for values in (params for _, params, *_ in told(go(study, tmp_path / "whole"))))

    def broken(config: Config) -> bool:
        return config.seed == SEEDS[2] and config["lr"] >= 0.9 * highest

    ledger = go(study, tmp_path / "results", broken=broken)
    (failed,) = [row for row in ledger.rows() if row.status == "nan"][:1]
    first = next(row for row in by_lr(ledger)[failed.params["lr"]] if row.seed == 0)
    assert completion.read(ledger).finished
    assert TrialState.FAIL in {state for *_, state, _ in told(ledger)}
    found = status.collect(ledger)
    assert found.without_mean[first.trial_id] == {1102: "nan"}
    assert f"{first.trial_id}: seed 1102 nan" in status.render(found)
    assert found.best is not None
    assert found.best.trial_id not in found.without_mean
    page = (write_report(ledger.root) / "report.md").read_text(encoding="utf-8")
    assert "failed: seed 1102 nan" in page


def test_where_every_point_fails_there_is_no_best(tmp_path: Path):
    study = load(tmp_path, text=STUDY + "ablation: {baseline: best, seeds: 6, arms: {momentum: {momentum: 0.5}}}\n")
    ledger = go(study, tmp_path / "results", broken=lambda config: config.seed == SEEDS[1])
    assert {row.arm for row in ledger.rows()} == {"search"}
    found = status.collect(ledger)
    assert found.best is None
    assert "no trial of the search completed" in found.hint


def test_a_space_with_few_points_ends_the_search(tmp_path: Path):
    text = STUDY.replace("{lr: {loguniform: [0.001, 0.3]}}", "{start: {choice: [near, far]}}")
    study = load(tmp_path, text=text)
    assert plan.planned(study) == 6
    ledger = go(study, tmp_path / "results")
    assert completion.read(ledger).finished
    assert Counter(row.params["start"] for row in ledger.rows()) == {"near": 3, "far": 3}


def test_a_dry_run_counts_trials_and_names_the_seeds(tmp_path: Path):
    study = load(tmp_path)
    slots = preflight.slots(study.resources, preflight.Machine(cpus=2, gpus=0, card=None, elsewhere=False))
    run = dry_run.describe(study, slots, card=None)
    assert (run.total, run.tokens) == (12, 12 * 20)
    assert [planned.trial.seed for planned in run.trials if planned.kind == "sampled"] == SEEDS * 2
    assert "every point on 3 seeds and goes by their mean" in dry_run.render(run)
    half = go(study, tmp_path / "results", stop_after=5)
    run = dry_run.describe(study, slots, card=None, earlier=half.place)
    assert (run.total, run.ended) == (12, 5)


def test_the_number_of_seeds_is_fixed_once_there_are_results(tmp_path: Path):
    results = tmp_path / "results"
    lifecycle.open_study(load(tmp_path), results, resume=False)
    go(load(tmp_path, "optimizer.seeds_per_trial=2"), results, stop_after=1)
    with pytest.raises(BadInput, match=r"optimizer.seeds_per_trial: changed: .*number of seeds a point \(2\)"):
        lifecycle.open_study(load(tmp_path), results, resume=True)
    more = go(load(tmp_path, "optimizer.seeds_per_trial=2", "optimizer.trials=5"), results)
    assert len(more.rows()) == 10


def test_it_does_not_go_with_early_stopping(tmp_path: Path):
    text = STUDY + "early_stopping: {asha: {min_tokens: 5, reduction: 2}}\n"
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text=text)
    rule = "asha judges a trial by its own values, not by its point's mean"
    hint = "leave out early_stopping, or give seeds_per_trial: 1"
    assert str(caught.value) == f"{tmp_path}/walk.yaml:6: optimizer.seeds_per_trial: 3: {rule}; {hint}"
    assert load(tmp_path, "optimizer.seeds_per_trial=1", text=text).early_stopping


def test_the_last_lines_of_a_sweep_give_the_mean_and_its_spread(tmp_path: Path):
    study = load(tmp_path)
    rows = go(study, tmp_path / "results").rows()
    known = sweep.points.ranked(rows, objective=study.objectives[0], seeds=3)
    ended = sweep.Ended(study, rows, known=known, answer=None, cautions=(), report=None)
    (best,) = [line for line in sweep._as_lines(ended) if line.startswith("best:")]
    assert f"trial {known[0][0].trial_id} height" in best
    assert "(mean of 3 seeds, sd 0." in best
    as_json = json.loads(json.dumps(sweep._as_json(ended)))["best"]
    assert (as_json["height"], as_json["seeds"]) == (known[0][1], 3)
