"""The dry run: what a study would train and what it would cost, before anything is trained.

It writes nothing and does not start Ray. For a GPU, torch predicts the memory of what is not in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from tabulate import tabulate

from ablate import formatting
from ablate.errors import BadInput
from ablate.records import provenance
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.records.rows import TrialRow
from ablate.scheduling import needs
from ablate.scheduling.needs import UTILISATION, Card, Shares, Spent
from ablate.scheduling.packing import Slots
from ablate.search import source
from ablate.spec import feasibility
from ablate.spec.designs import CONFIRM, SEARCH
from ablate.spec.models import StudySpec
from ablate.spec.study_file import missing_data
from ablate.study import compatibility, dataset, phases, power, study_json
from ablate.study.power import Power
from ablate.trainers import Config, Trainer
from ablate.trials import plan
from ablate.trials.plan import Settled
from ablate.trials.trial import Trial

CPU_FLOPS = 2.8e10
"""FLOP/s of one CPU core in fp32, as measured on a `tiny` trial with its evaluation. Other trials may differ a lot."""

CORNERS = 4
"""How many corners of a search space get a predicted peak."""

Kind = Literal["sampled", "corner", "calibration", "tuning", "arm"]


@dataclass(frozen=True)
class Planned:
    """A trial that would run (`sampled`: one of the search's first draws; `calibration` or `tuning` of an arm; `arm`),
    or the costliest trial that the search may reach (`corner`)."""

    trial: Trial
    kind: Kind
    predicted_peak_gib: float
    gpu_fraction: float


@dataclass(frozen=True)
class DryRun:
    """The plan: of `total` trials `ended` have ended; `trials`, `tokens` and the hours are of those that are left.
    `tokens` and the hours are None where the budget is in epochs, since the corpus is not read.
    `by_memory`: how many trials the GPUs' memory would hold at once, if trials did not have to share the GPUs' time as
    well. `left_gpu_hours`: what is left of `resources.max_gpu_hours`; None without a limit, or with nothing left to
    train on GPUs."""

    study: str
    trials: tuple[Planned, ...]
    total: int
    ended: int
    concurrent: int
    by_memory: int
    tokens: int | None
    hours: float | None
    gpu_hours: float | None
    left_gpu_hours: float | None
    cost_model: str
    ablation: Power | None
    warnings: tuple[str, ...]
    confirms: int = 0
    """Trials that confirm the search and are left; the most that may be while its best trials are not known."""
    seeds_per_trial: int = 1
    """Trials of each point of the search."""


def describe(
    spec: StudySpec,
    slots: Slots,
    *,
    card: str | None,
    earlier: Place | None = None,
    pilot: Place | None = None,
    gpus: int = 1,
    cpus: float = math.inf,
) -> DryRun:
    """Plan `spec` on `slots` of a machine with `cpus` and `gpus`. `card`: the name of the GPU, or a part of it (`RTX
    4090`); None for CPUs. `earlier`: the folder of this study where it exists already; its results give the spread over
    seeds, the speed of trials, and the trials that are left. A trial that was begun counts as a whole one. `pilot`: the
    folder of another study, whose spread over seeds is used where this one has none yet.

    Raises BadInput where the GPU is unknown, the pilot has no spread, or the trials that are left exceed
    `resources.max_gpu_hours`.
    """
    used = needs.card_for(spec.resources, card) if card is not None and slots.gpu_per_worker > 0 else None
    shares = Shares(spec.resources, used, trainer=spec.trainer)
    ledger = Ledger(earlier) if earlier else None
    rows = ledger.rows() if ledger else []
    ended = ledger.final_ids() if ledger else set[str]()
    all_searched = _searched(spec, ledger)
    searched = max(0, all_searched - sum(row.arm == SEARCH for row in rows))
    sampled = [_planned(trial, slots, "sampled", shares) for trial in _first_draws(spec)]
    corner = [_planned(_costliest(spec, shares), slots, "corner", shares)] if spec.search else []
    all_arms = [
        _planned(trial, slots, kind, shares)
        for kind, trials in _ablation(spec, ledger, searched=searched)
        for trial in trials
    ]
    arms = [each for each in all_arms if each.trial.trial_id not in ended]
    confirms, confirmed = _confirmations(spec, rows, searched=searched)
    costs = [_cost(spec.base)] * (searched + confirms) + [_cost(each.trial.config) for each in arms]
    tokens = _sum([tokens for tokens, _ in costs])
    flops = _sum([flops for _, flops in costs])
    draws = [each for each in sampled if each.trial.trial_id not in ended][:searched]
    planned = [*draws, *(corner if searched else []), *arms]
    concurrent = by_memory = min(slots.concurrent, len(costs))
    if used is not None:
        configs = [sampled[number % len(sampled)].trial.config for number in range(searched)]
        configs += [each.trial.config for each in arms]
        concurrent = shares.concurrent(configs, cpus=cpus, gpus=gpus, turns=True)
        by_memory = shares.concurrent(configs, cpus=cpus, gpus=gpus, turns=False)
    speed, cost_model = _speed(
        spec.trainer, slots, used, card=card, earlier=earlier, sharing=max(1.0, concurrent / max(1, gpus))
    )
    unit_hours = None if flops is None else flops / speed / 3600  # of one GPU; without a GPU, of one trial
    gpu_hours = 0.0 if used is None and unit_hours is not None else unit_hours
    left = None
    if used is not None and spec.resources.max_gpu_hours is not None:
        whole = [(SEARCH, _cost(spec.base))] * all_searched + [(CONFIRM, _cost(spec.base))] * confirms
        whole += [(each.trial.arm, _cost(each.trial.config)) for each in all_arms]
        hours = [(arm, None if flops is None else flops / speed / 3600) for arm, (_, flops) in whole]
        held = {each.trial.trial_id: each.gpu_fraction for each in [*sampled, *corner, *all_arms]}
        spent = needs.spent_so_far(spec, ledger, shares=shares, planned=held) if ledger else Spent()
        left = needs.remaining_gpu_hours(spec, hours, spent=spent)
    lanes = max(1, concurrent if used is None else min(gpus, concurrent * slots.processes))
    return DryRun(
        study=spec.study,
        trials=tuple(planned),
        total=all_searched + confirms + confirmed + len(all_arms),
        ended=all_searched + confirms + confirmed + len(all_arms) - len(costs),
        confirms=confirms,
        seeds_per_trial=spec.optimizer.seeds_per_trial,
        concurrent=concurrent,
        by_memory=by_memory,
        tokens=None if tokens is None else int(tokens),
        hours=None if unit_hours is None else unit_hours / lanes,
        gpu_hours=gpu_hours,
        left_gpu_hours=left,
        cost_model=cost_model,
        ablation=power.describe(spec, earlier=earlier, pilot=pilot),
        warnings=(
            *_warnings(spec, planned, shares),
            *(_other_code(spec, ledger) if ledger and costs else ()),
        ),
    )


def render(run: DryRun) -> str:
    """The plan as text for a terminal."""
    rows = [
        [t.trial_id, p.kind, t.arm, t.seed, _params(t.params), p.predicted_peak_gib, p.gpu_fraction]
        for p, t in ((planned, planned.trial) for planned in run.trials)
    ]
    headers = ["trial", "kind", "arm", "seed", "parameters", "peak GiB", "GPU"]
    # tabulate fails on the column numbers of a table without rows: that of a study with nothing left to train.
    table = [tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[0]), ""] if rows else []
    tokens = "a budget in epochs (the corpus is not read here)" if run.tokens is None else f"{run.tokens:,} tokens"
    held = f" (the GPUs' memory would hold {run.by_memory})" if run.by_memory > run.concurrent else ""
    left = run.total - run.ended
    trials = f"{run.ended} of {run.total} trials have ended, {left} are left" if run.ended else f"{run.total} trials"
    lines = [
        f"study {run.study}: {trials}, {run.concurrent} at once{held}; {tokens}",
        "",
        *table,
    ]
    if any(planned.kind == "sampled" for planned in run.trials):
        how = "the search's first draws, later ones depend on results; corner: the costliest point that it may reach"
        lines.append(f"sampled: {how}")
    if run.seeds_per_trial > 1:
        lines.append(f"the search trains every point on {run.seeds_per_trial} seeds and goes by their mean")
    if run.confirms:
        confirms = formatting.count(run.confirms, "trial")
        most = " at most" if any(planned.kind == "corner" for planned in run.trials) else ""
        lines.append(f"the search's best trials are then confirmed on fresh seeds, {confirms}{most}, like the base's")
    if run.ablation is not None:
        lines += [*power.lines(run.ablation), ""]
    if run.hours is not None:
        on_gpus = f", {run.gpu_hours:.2g} GPU-hours" if run.gpu_hours else ""
        lines += [f"{formatting.roughly(3600 * run.hours)}{on_gpus}", f"  ({run.cost_model})"]
    lines += [f"warning: {warning}" for warning in run.warnings]
    return "\n".join(lines)


def render_json(run: DryRun) -> str:
    """The plan as JSON."""
    trials = [
        {
            "id": planned.trial.trial_id,
            "kind": planned.kind,
            "arm": planned.trial.arm,
            "seed": planned.trial.seed,
            "params": dict(planned.trial.params),
            "predicted_peak_gib": planned.predicted_peak_gib,
            "gpu_fraction": planned.gpu_fraction,
        }
        for planned in run.trials
    ]
    answer = {
        "study": run.study,
        "trials": trials,
        "total": run.total,
        "ended": run.ended,
        "concurrent": run.concurrent,
        "concurrent_by_memory": run.by_memory,
        "tokens": run.tokens,
        "hours": run.hours,
        "gpu_hours": run.gpu_hours,
        "cost_model": run.cost_model,
        "ablation": power.as_json(run.ablation) if run.ablation else None,
        "warnings": list(run.warnings),
    }
    return formatting.as_json(answer)


def _first_draws(spec: StudySpec) -> list[Trial]:
    """The draws that no result changes: TPE's start-up points, or as many draws of a sampler that does not learn."""
    return source.preview(spec, count=min(spec.optimizer.startup, plan.searched_points(spec))) if spec.search else []


def _searched(spec: StudySpec, ledger: Ledger | None) -> int:
    """The trials of the whole search: those that it found where its space had no more, unless more are asked for."""
    asked = plan.searched_trials(spec)
    if ledger is None:
        return asked
    before = study_json.parse(ledger.read_study(), place=ledger.place)
    ended_early = before.exhausted is not None and spec.optimizer.trials <= before.spec.optimizer.trials
    return min(asked, before.searched) if ended_early else asked


def _confirmations(spec: StudySpec, rows: Sequence[TrialRow], *, searched: int) -> tuple[int, int]:
    """(left, ended) of the trials that confirm the search. Each of the `searched` trials that the search has left may
    be among its best, and what has confirmed another one then confirms nothing."""
    confirm, ended = spec.optimizer.confirm, {row.trial_id for row in rows}
    if confirm is None:
        return 0, 0
    known = [trial.trial_id in ended for trial in phases.confirmations(spec, rows)]
    left = known.count(False) + min(confirm.best, searched) * confirm.seeds
    return min(left, plan.confirmations(spec)), known.count(True)


def _ablation(spec: StudySpec, ledger: Ledger | None, *, searched: int) -> list[tuple[Kind, list[Trial]]]:
    """The ablation's trials, ended or not, as `phases.run` makes them of what is known; `searched`: how many trials the
    search has left.

    They start from the study's base where the search's winner is not known yet. Until the speeds are measured, arms
    that are matched by time are shown with the baseline's tokens, since they cost what the baseline costs.
    """
    if spec.ablation is None:
        return []
    base = (phases.known_baseline(spec, ledger, searched=searched) if ledger else None) or spec.base
    ended, found = ledger.final_ids() if ledger else set[str](), list[tuple[Kind, list[Trial]]]()
    speeds = dict.fromkeys(plan.arms(spec, base), 1.0)
    if spec.ablation.match == "wall":
        calibrations = plan.calibration_trials(spec, base)
        found.append(("calibration", calibrations))
        if ledger and _have_ended(calibrations, ended):
            speeds = phases.speeds(calibrations, ledger)
    settled: Settled = plan.budgets(spec, base, tokens_per_s=speeds)
    if spec.ablation.tune_each_arm is not None:
        points = phases.tuning_points(spec)
        tuning = plan.tuning_trials(spec, base, points, settled)
        found.append(("tuning", tuning))
        if ledger and _have_ended(tuning, ended):
            settled = phases.tuned(spec, base, settled, points=points, rows=ledger.rows())
    looks, rows = plan.looks(spec), ledger.rows() if ledger else []
    arms = plan.arm_trials(spec, base, settled)
    if looks is not None:
        arms = phases.wanted(spec, base, settled, looks=looks, rows=rows, possible=True)
    return [*found, ("arm", arms)]


def _have_ended(trials: Sequence[Trial], ended: Set[str]) -> bool:
    return all(trial.trial_id in ended for trial in trials)


def _other_code(spec: StudySpec, ledger: Ledger) -> list[str]:
    """Why a sweep would refuse to train the rest; empty where it would not."""
    was = study_json.parse(ledger.read_study(), place=ledger.place).provenance
    now = was.model_copy(update=provenance.code(code_hash=spec.trainer.code_hash or None))
    try:
        compatibility.check_code(ledger, was, now)
    except BadInput as refusal:
        return [str(refusal)]
    return []


def _costliest(spec: StudySpec, shares: Shares) -> Trial:
    """The corner of the search space with the highest predicted peak. Only the corners that a formula ranks first are
    predicted, since predicting all takes minutes."""

    def formula(corner: Mapping[str, Any]) -> float:
        return spec.base.override(corner).cost.peak_gib

    highest = sorted(feasibility.corners(spec.search), key=formula, reverse=True)[:CORNERS]
    return plan.search_trial(spec, max(highest, key=lambda corner: shares.peak_gib(spec.base.override(corner))))


def _planned(trial: Trial, slots: Slots, kind: Kind, shares: Shares) -> Planned:
    share = slots.gpu_per_worker if shares.card is None else shares.gpu(trial.config)
    return Planned(trial, kind, round(shares.peak_gib(trial.config), 3), share)


def _cost(config: Config) -> tuple[float | None, float | None]:
    """Tokens and FLOPs of one complete trial, without pruning and without evaluation."""
    found = config.cost
    if found.budget is None:
        return None, None
    return found.budget, None if found.flops_per_token is None else found.budget * found.flops_per_token


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _speed(
    trainer: Trainer, slots: Slots, used: Card | None, *, card: str | None, earlier: Place | None, sharing: float
) -> tuple[float, str]:
    """FLOP/s of a GPU (without a GPU: of a trial), and in words where the number is from. `sharing`: trials a GPU."""
    ignored = "without pruning, evaluation and start-up"
    speeds = _measured(trainer, earlier, card if used else None)
    reached = needs.measured_flops_per_s(speeds)
    if reached is not None:
        return reached * sharing, f"tokens/s of {len(speeds)} trials of this study, {ignored}"
    if used is None:
        speed = CPU_FLOPS * slots.cpu_per_worker * slots.processes
        return speed, f"6 FLOPs a parameter and token at {CPU_FLOPS:.2g} FLOP/s a core, {ignored}"
    model = f"6 FLOPs a parameter and token at {UTILISATION:.1%} of the {card}'s {used.flops:.3g}"
    return used.flops * UTILISATION, f"{model}, as 1.4.6 reached on a 4090; {ignored}"


def _measured(trainer: Trainer, earlier: Place | None, card: str | None) -> list[tuple[Config, float]]:
    """(configuration, tokens/s) of this study's completed trials on this kind of GPU; on a CPU where `card` is None."""
    if earlier is None:
        return []
    trials = dataset.read(earlier, whole=False).trials
    if "tokens_per_s" not in trials:
        return []
    done = trials[(trials["status"] == "completed") & trials["tokens_per_s"].notna()]
    rows = zip(done["config_json"], done["tokens_per_s"], done["device"], strict=True)
    return [(trainer.read(str(text)), float(speed)) for text, speed, device in rows if _same(str(device), card)]


def _same(device: str, card: str | None) -> bool:
    if card is None:
        return device == "cpu"
    known = needs.card_named(card)
    return device == card or (known is not None and needs.card_named(device) == known)


def _warnings(spec: StudySpec, planned: Sequence[Planned], shares: Shares) -> list[str]:
    found = [str(complaint) for complaint in missing_data(spec)]
    asha, budget = spec.early_stopping and spec.early_stopping.asha, spec.base.budget
    if asha and spec.search and budget is not None and asha.min_tokens >= budget:
        place = spec.document.place("early_stopping.asha.min_tokens")
        found.append(f"{place}: min_tokens {asha.min_tokens} is not below the budget {budget}: nothing is ever stopped")
    searched, asked = plan.searched_points(spec), spec.optimizer.trials
    if spec.search and searched < asked:
        place, has = spec.document.place("optimizer.trials"), formatting.count(searched, "point")
        found.append(f"{place}: {asked} trials are asked for, and the search space has {has}: it ends after these")
    if shares.card is not None:
        large = [each for each in planned if not shares.fits(each.trial.config)]
        if large:
            peak = max(each.predicted_peak_gib for each in large)
            hint = "lower train.batch_size or use gradient_checkpointing"
            if spec.resources.gpu != "auto" and spec.resources.gpu < 1:
                hint = "raise gpu or use gpu: auto"
            found.append(f"a trial may need {peak:.1f} GiB of {shares.card.gib:g}, more than its share: {hint}")
    return found


def _params(params: Mapping[str, Any]) -> str:
    short = (f"{key.rpartition('.')[2]}={_short(value)}" for key, value in params.items())
    return ", ".join(short)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
