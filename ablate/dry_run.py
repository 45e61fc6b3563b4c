"""What a study would do and cost, said before anything is trained. Writes nothing, and starts neither torch nor Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tabulate import tabulate

from ablate import domain, numbers, phases, plan, power, search
from ablate.packing import Slots
from ablate.places import Place
from ablate.plan import Trial
from ablate.power import Power
from ablate.spec import StudySpec, missing_data
from model.api import Config, Estimate, estimate, override

CPU_FLOPS = 2.8e10
"""FLOP/s of one CPU core in fp32: what a `tiny` trial reached on one, evaluation included. Another may be far off."""

CARDS = {"4090": (24.0, 1.65e14), "3090": (24.0, 7.1e13), "a100": (80.0, 3.12e14), "h100": (80.0, 9.89e14)}
"""Memory in GiB and dense bf16 FLOP/s of a card, from the vendors' data sheets."""

UTILISATION = 0.055
"""Share of a card's data-sheet FLOP/s that training reaches: experiment 1.4.6 did 59,621 tokens/s on an RTX 4090."""

Kind = Literal["sampled", "corner", "calibration", "tuning", "arm"]


@dataclass(frozen=True)
class Planned:
    """A trial that would run (`sampled`, of the search's first draws; `calibration` and `tuning` of an arm; `arm`), or
    the costliest that may (`corner`)."""

    trial: Trial
    kind: Kind
    predicted_peak_gib: float
    gpu_fraction: float


@dataclass(frozen=True)
class DryRun:
    """The plan. `tokens` is None where the budget is in epochs of a corpus that was not read; so are the hours."""

    study: str
    trials: tuple[Planned, ...]
    total: int
    concurrent: int
    tokens: int | None
    hours: float | None
    gpu_hours: float | None
    cost_model: str
    ablation: Power | None
    warnings: tuple[str, ...]


def describe(spec: StudySpec, slots: Slots, *, card: str | None, earlier: Place | None = None) -> DryRun:
    """Plan `spec` on `slots`. `card` is the name of the GPU that trials run on (part of it: `RTX 4090`), if any;
    `earlier` the folder of this study where it was begun already: its results say how far seeds differ."""
    planned = [_planned(trial, slots, "sampled") for trial in _first_draws(spec)]
    if spec.search:
        planned.append(_planned(_costliest(spec), slots, "corner"))
    arms: list[tuple[Kind, Trial]] = [(kind, trial) for kind, trials in _ablation(spec) for trial in trials]
    planned += [_planned(trial, slots, kind) for kind, trial in arms]
    searched = spec.optimizer.trials if spec.search else 0
    flops_per_s, cost_model = _speed(slots, card)
    costs = [_cost(spec.base)] * searched + [_cost(trial.config) for _, trial in arms]
    tokens = _sum([tokens for tokens, _ in costs])
    flops = _sum([flops for _, flops in costs])
    concurrent = min(slots.concurrent, len(costs))
    trial_hours = None if flops is None else flops / flops_per_s / 3600
    return DryRun(
        study=spec.study,
        trials=tuple(planned),
        total=searched + len(arms),
        concurrent=concurrent,
        tokens=None if tokens is None else int(tokens),
        hours=None if trial_hours is None else trial_hours / concurrent,
        gpu_hours=None if trial_hours is None else trial_hours * slots.gpu_per_worker * slots.workers,
        cost_model=cost_model,
        ablation=power.describe(spec, earlier=earlier),
        warnings=tuple(_warnings(spec, planned, card)),
    )


def render(run: DryRun) -> str:
    """The plan as text for a terminal."""
    rows = [
        [p.trial.trial_id, p.kind, p.trial.arm, p.trial.seed, _params(p.trial.params), p.predicted_peak_gib]
        for p in run.trials
    ]
    headers = ["trial", "kind", "arm", "seed", "parameters", "peak GiB"]
    table = tabulate(rows, headers=headers, floatfmt=".2f", disable_numparse=[0])
    tokens = "a budget in epochs (the corpus is not read here)" if run.tokens is None else f"{run.tokens:,} tokens"
    fraction = run.trials[0].gpu_fraction if run.trials else 0.0
    lines = [
        f"study {run.study}: {run.total} trials, {run.concurrent} at once, {fraction:g} GPU a worker; {tokens}",
        "",
        table,
        "",
        "sampled: the search's first draws, the later ones depend on results; corner: the costliest point it may reach",
    ]
    if run.ablation is not None:
        lines += [*power.lines(run.ablation), ""]
    if run.hours is not None:
        on_cards = f", {run.gpu_hours:.2g} GPU-hours" if run.gpu_hours else ""
        lines += [f"about {numbers.duration(3600 * run.hours)}{on_cards}", f"  ({run.cost_model})"]
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
        "concurrent": run.concurrent,
        "tokens": run.tokens,
        "hours": run.hours,
        "gpu_hours": run.gpu_hours,
        "cost_model": run.cost_model,
        "ablation": asdict(run.ablation) if run.ablation else None,
        "warnings": list(run.warnings),
    }
    return json.dumps(answer, indent=1)


def _first_draws(spec: StudySpec) -> list[Trial]:
    """The draws that no result can change: TPE's start-up points, or as many of a sampler that never learns."""
    return search.preview(spec, count=min(spec.optimizer.startup, spec.optimizer.trials)) if spec.search else []


def _ablation(spec: StudySpec) -> list[tuple[Kind, list[Trial]]]:
    """The ablation's trials from the study's own base, which stands in for a winner that is not known yet. Matched by
    time, all arms cost what the baseline costs: they are shown with its tokens."""
    if spec.ablation is None:
        return []
    budgets = plan.budgets(spec, spec.base, tokens_per_s=dict.fromkeys(plan.arms(spec, spec.base), 1.0))
    found: list[tuple[Kind, list[Trial]]] = []
    if spec.ablation.match == "wall":
        found.append(("calibration", plan.calibration_trials(spec, spec.base)))
    if spec.ablation.tune_each_arm is not None:
        found.append(("tuning", plan.tuning_trials(spec, spec.base, phases.tuning_points(spec), budgets)))
    return [*found, ("arm", plan.arm_trials(spec, spec.base, budgets))]


def _costliest(spec: StudySpec) -> Trial:
    """The corner of the space with the highest predicted peak, parameters and all."""

    def peak(corner: Mapping[str, Any]) -> float:
        return estimate(override(spec.base, corner)).peak_gib

    return plan.search_trial(spec, max(domain.corners(spec.search), key=peak))


def _planned(trial: Trial, slots: Slots, kind: Kind) -> Planned:
    return Planned(trial, kind, round(estimate(trial.config).peak_gib, 3), slots.gpu_per_worker)


def _cost(config: Config) -> tuple[float | None, float | None]:
    """Tokens and FLOPs of one whole trial; nothing is taken off for pruning, nor added for evaluation."""
    found: Estimate = estimate(config)
    if found.budget_tokens is None:
        return None, None
    return found.budget_tokens, found.budget_tokens * found.flops_per_token


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _speed(slots: Slots, card: str | None) -> tuple[float, str]:
    """FLOP/s of one trial, and the assumption in words."""
    unsaid = "nothing off for pruning, nothing added for evaluation and start-up"
    if slots.gpu_per_worker == 0:
        speed = CPU_FLOPS * slots.cpu_per_worker * slots.workers
        return speed, f"6 FLOPs a parameter and token at {CPU_FLOPS:.2g} FLOP/s a core, {unsaid}"
    name = _known(card) or "4090"
    flops = CARDS[name][1] * UTILISATION
    speed = flops * slots.gpu_per_worker * slots.workers
    return speed, f"6 FLOPs a parameter and token at {UTILISATION:.1%} of a {name}'s {CARDS[name][1]:.3g}, {unsaid}"


def _known(card: str | None) -> str | None:
    return next((name for name in CARDS if card and name in card.lower()), None)


def _warnings(spec: StudySpec, planned: list[Planned], card: str | None) -> list[str]:
    found = [str(complaint) for complaint in missing_data(spec)]
    asha, budget = spec.early_stopping and spec.early_stopping.asha, spec.base.train.tokens
    if asha and spec.search and budget is not None and asha.min_tokens >= budget:
        place = spec.document.place("early_stopping.asha.min_tokens")
        found.append(f"{place}: min_tokens {asha.min_tokens} is the whole budget of {budget}: nothing is ever stopped")
    name = _known(card)
    if name is not None:
        share = CARDS[name][0] * min(1.0, planned[0].gpu_fraction or 1.0)
        peak = max(trial.predicted_peak_gib for trial in planned)
        if peak > share:
            found.append(f"a trial may need {peak:.1f} GiB, and its share of a {name} is {share:.1f}: raise gpu")
    return found


def _params(params: Mapping[str, Any]) -> str:
    short = (f"{key.split('.', 1)[1]}={_short(value)}" for key, value in params.items())
    return ", ".join(short)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
