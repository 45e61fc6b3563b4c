"""The analyses of a study, all run once on its tables. Sections only put the results into words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ablate.analyze import cautions
from ablate.analyze.arms.contrasts import Factorial, factorial
from ablate.analyze.arms.cost_effectiveness import CostEffectiveness, cost_effectiveness
from ablate.analyze.arms.curves import Band, Curve, bands, curves
from ablate.analyze.arms.fixed_target import Reached, TargetClaim, judge_targets
from ablate.analyze.arms.hypotheses import Claim, Judged, judge_all, without_equality
from ablate.analyze.arms.paired import Effect, effects, pairs_of
from ablate.analyze.arms.robust import Robust, robust
from ablate.analyze.arms.sensitivity import Sensitivity, sensitivity
from ablate.analyze.arms.sequential_effects import over_looks
from ablate.analyze.arms.variance import Components, components
from ablate.analyze.basis.frames import completed, floats, of_arm, texts
from ablate.analyze.basis.stats import Interval, t_interval
from ablate.analyze.comparability import Mixed, mixed
from ablate.analyze.cost import Cost, costs
from ablate.analyze.failures import Failure, failures
from ablate.analyze.floors import Floors, floors
from ablate.analyze.memory import BankUse, bank_use
from ablate.analyze.progress import Progress, progress
from ablate.analyze.search.best import Best, best, by_point, pareto_ids
from ablate.analyze.search.confirmed import Confirmation, confirmation
from ablate.analyze.search.importance import Importances, importances
from ablate.analyze.search.rungs import AtBudget, Rung, at_common_budget, audit
from ablate.analyze.search.slices import Slice, slice_of
from ablate.analyze.search.space import show
from ablate.analyze.trained import Trained, trained
from ablate.escape import file_name
from ablate.records.interim_looks import Look, hindsight, peeked
from ablate.spec.designs import BASELINE, SEARCH
from ablate.spec.models import Objective
from ablate.study.dataset import StudyData
from ablate.study.study_json import HypothesisFile
from ablate.trainers import recorded

CURVES = 200  # most search trials in the figure of learning curves: more lines hide each other


@dataclass(frozen=True)
class PerObjective:
    """The analyses of the search and of the ablation for one objective.

    `best` is None where no search trial completed, `common` where the history does not have the objective, `factorial`
    where the study has no factorial design. `slices` are in the order of the study's space. `baseline`: over all
    completed runs of the baseline.
    """

    objective: Objective
    best: Best | None
    slices: tuple[Slice, ...]
    importances: Importances
    effects: tuple[Effect, ...]
    baseline: Interval
    robust: tuple[Robust, ...]
    factorial: Factorial | None
    common: AtBudget | None
    variance: Components | None
    metric_unit: str

    @property
    def claims(self) -> tuple[Effect, ...]:
        """The effects in Holm's family: those of all arms but the A/A arms and the positive control."""
        return tuple(effect for effect in self.effects if not (effect.check or effect.control))

    @property
    def checks(self) -> tuple[Effect, ...]:
        """The effects of the A/A arms, which show the noise."""
        return tuple(effect for effect in self.effects if effect.check)

    @property
    def unit(self) -> str:
        """The metric's unit with a space before it, ` nats/token`, or "" for a metric without unit."""
        return f" {self.metric_unit}" if self.metric_unit else ""

    @property
    def label(self) -> str:
        """The metric with its unit, for axes and column heads."""
        return f"{self.objective.metric} ({self.unit.strip()})" if self.unit else self.objective.metric


@dataclass(frozen=True, repr=False)
class Findings:
    """Everything a report shows. `search`: the search's ended trials; its points, where a point has several seeds.
    `pareto`: empty for a single objective. `subject`: what the trainer said of the study.

    `sensitivity`: whether the study saw its positive control; None without one. `judged`, `reached`: the hypotheses
    about a gain over the baseline, and those about a fixed target.

    `exploratory`: arm -> why its p values are exploratory; arms whose test was fixed before results were seen are not
    in it. `cautions`: sentences that say why results may say less than they seem to.
    """

    data: StudyData
    subject: recorded.Subject
    search: pd.DataFrame
    progress: Progress
    per_objective: tuple[PerObjective, ...]
    pareto: tuple[str, ...]
    bank_use: tuple[BankUse, ...]
    floors: tuple[Floors, ...]
    failures: tuple[Failure, ...]
    trained: tuple[Trained, ...]
    costs: tuple[Cost, ...]
    curves: tuple[Curve, ...]
    bands: tuple[Band, ...]
    mixed: tuple[Mixed, ...]
    cost_effectiveness: tuple[CostEffectiveness, ...]
    judged: tuple[Judged, ...]
    reached: tuple[Reached, ...]
    sensitivity: Sensitivity | None
    rungs: tuple[Rung, ...]
    exploratory: Mapping[str, str]
    cautions: tuple[str, ...]
    confirmation: Confirmation | None

    def __repr__(self) -> str:
        """What a notebook shows: the study in a few lines."""
        return f"<findings of {self.data!r}>"

    @property
    def primary(self) -> PerObjective:
        """The first objective, which decides which trial is best."""
        return self.per_objective[0]

    @property
    def curve_label(self) -> str:
        """The metric of the learning curves with its unit, for an axis."""
        metric = self.data.curve_metric
        unit = self.data.trainer.unit(metric)
        return f"{metric} ({unit})" if unit else metric

    @property
    def odd_ids(self) -> frozenset[str]:
        """Trials that differ from the majority of their comparison. The report marks them."""
        return frozenset(trial_id for entry in self.mixed for trial_id in entry.odd)

    def label(self, per: PerObjective, stem: str) -> str:
        """The name of a table's or figure's files; it holds the metric where that is not the primary objective's."""
        flat = file_name(stem).replace(".", "_")
        return flat if per is self.primary else f"{flat}_{per.objective.metric}"

    def memory_of(self, arm: str) -> str:
        """The memory (`token`, `none`, ...) of an arm that has an ended run."""
        config = of_arm(self.data.trials, arm)["config_json"].iloc[0]
        return str(recorded.values(str(config)).get("model.memory", ""))

    def bank_of(self, group: str) -> BankUse | None:
        """The bank's use in an arm, or in the `best` trial; None without a bank."""
        return next((entry for entry in self.bank_use if entry.group == group), None)

    def floors_of(self, group: str) -> Floors | None:
        """The corpus's floors for an arm, or for the `best` trial; None without floors."""
        return next((entry for entry in self.floors if entry.group == group), None)


def analyse(data: StudyData) -> Findings:
    """Run every analysis of a study. Equal tables give equal findings."""
    trials, history, arms = data.trials, data.history, tuple(data.arms)
    runs, seeds, primary = of_arm(trials, SEARCH), data.facts.spec.optimizer.seeds_per_trial, data.objectives[0]
    search = by_point(runs, objectives=data.objectives, seeds=seeds)
    stopping = data.facts.spec.early_stopping
    per_objective = tuple(_per_objective(data, search, objective) for objective in data.objectives)
    effects_shown = per_objective[0].effects
    subject = _subject(data)
    found_trained = tuple(trained(trials, declared=arms, costs=subject.costs, epoch=subject.epoch))
    found_floors = tuple(floors(trials, objective=primary, declared=arms, seeds=seeds))
    seen = sensitivity(effects_shown, objective=primary)
    judged = judge_all(trials, claims=_claims(data), maximised=data.trainer.maximised, walk=data.completion.walk)
    return Findings(
        data=data,
        subject=subject,
        search=search,
        progress=progress(
            data.every_trial, history, planned=data.planned, left=data.completion.left, started=data.started
        ),
        per_objective=per_objective,
        pareto=pareto_ids(search, objectives=data.objectives) if len(data.objectives) > 1 else (),
        bank_use=tuple(bank_use(trials, objective=primary, declared=arms, seeds=seeds)),
        floors=found_floors,
        failures=tuple(failures(data.every_trial)),
        trained=found_trained,
        costs=tuple(costs(trials, declared=arms)),
        curves=tuple(curves(history, statuses=_search_statuses(data, runs, per_objective), metric=data.curve_metric)),
        bands=tuple(bands(history, trials, metric=data.curve_metric, declared=arms)),
        mixed=tuple(mixed(trials, varied=[*_varied(data), *data.settled_keys], trainer=data.trainer)),
        cautions=(
            *cautions.repeated_in(found_trained, most=data.trainer.most_epochs),
            *cautions.risen(trials, history, objective=primary),
            *cautions.above_floor(found_floors),
        ),
        cost_effectiveness=tuple(
            cost_effectiveness(
                trials,
                effects=effects_shown,
                flops_per_token={
                    config: cost.flops_per_token for config, cost in subject.costs.items() if cost.flops_per_token
                },
            )
        ),
        judged=tuple(judged if seen is None or seen.seen else without_equality(judged)),
        reached=tuple(judge_targets(trials, claims=_target_claims(data), maximised=data.trainer.maximised)),
        sensitivity=seen,
        rungs=tuple(
            audit(
                search,
                history,
                objective=primary,
                min_tokens=stopping.asha.min_tokens,
                reduction=stopping.asha.reduction,
            )
            if stopping
            else ()
        ),
        exploratory=_exploratory(data, [effect.arm for effect in effects_shown]),
        confirmation=confirmation(data.preparation, search, objective=primary),
    )


def interim_look(findings: Findings, *, at: str) -> Look | None:
    """What a report of these findings shows of the ablation, for the ledger; None where it shows nothing."""
    ablation = findings.data.facts.spec.ablation
    primary = findings.data.objectives[0]
    shown = {
        effect.arm: pairs_of(findings.data.trials, effect.arm, objective=primary).seeds
        for effect in findings.primary.effects
        if effect.n
    }
    return Look(at=at, planned_seeds=ablation.seeds, shown=shown) if ablation and shown else None


def _subject(data: StudyData) -> recorded.Subject:
    """Ask about the base's preset, the cost of the first run of each group (the first completed one, where there is
    one), and the epoch of the first run, where no run recorded it."""
    trials = data.trials
    groups = [of_arm(trials, group) for group in dict.fromkeys(texts(trials, "arm"))]
    firsts = [done if len(done := completed(runs)) else runs for runs in groups]
    configs = tuple(dict.fromkeys(str(runs["config_json"].iloc[0]) for runs in firsts))
    unknown = not np.isfinite(floats(trials, "epoch_tokens")).any()
    base = data.facts.spec.base
    return recorded.subject(
        data.trainer,
        preset=str(base["preset"]) if "preset" in base else None,
        configs=configs,
        epoch_of=configs[0] if configs and unknown else None,
    )


def _claims(data: StudyData) -> list[Claim]:
    return [
        Claim(entry.claim, entry.arm, entry.metric, entry.min_effect, _hindsight(data, entry))
        for entry in data.facts.spec.hypotheses
        if entry.min_effect is not None
    ]


def _target_claims(data: StudyData) -> list[TargetClaim]:
    return [
        TargetClaim(entry.claim, entry.arm, entry.metric, entry.target, entry.alpha, _hindsight(data, entry))
        for entry in data.facts.spec.hypotheses
        if entry.target is not None
    ]


def _hindsight(data: StudyData, entry: HypothesisFile) -> str:
    if entry.declared_at is None:  # declared with the study
        return ""
    ended = [end.isoformat(timespec="microseconds") for end in of_arm(data.trials, entry.arm)["finished_at"]]
    return hindsight(data.looks, arm=entry.arm, declared_at=entry.declared_at, ended=ended)


def _exploratory(data: StudyData, arms: Sequence[str]) -> dict[str, str]:
    ablation = data.facts.spec.ablation
    if ablation is None:
        return {}
    declared = dict.fromkeys(arms, "the study file declares it so (exploratory: true)") if ablation.exploratory else {}
    return declared | peeked(data.looks, arms=arms, planned_seeds=ablation.seeds)


def _cells(data: StudyData) -> dict[str, dict[str, str]]:
    """The cells of the study's factorial design, arm -> levels. The baseline is first where it is a cell."""
    found = {arm.name: arm.levels for arm in data.arms.values() if arm.design == "factorial"}
    if not found:
        return {}
    factors = list(next(iter(found.values())))
    own = {key: data.baseline[key] for key in factors}
    # A baseline outside of the design (with another memory, say) is a control but not a cell.
    levels = {key: [level[key] for level in found.values()] for key in factors}
    inside = all(own[key] in levels[key] for key in factors) and own not in [dict(level) for level in found.values()]
    cells = ({BASELINE: own} if inside else {}) | found
    return {name: {key: show(value) for key, value in level.items()} for name, level in cells.items()}


def _per_objective(data: StudyData, search: pd.DataFrame, objective: Objective) -> PerObjective:
    trials, arms = data.trials, tuple(data.arms)
    baseline = completed(of_arm(trials, BASELINE))
    stops = data.facts.spec.optimizer.seeds_per_trial == 1  # a history is of a trial, and several are a point
    common = at_common_budget(search, data.history, objective=objective) if data.space and stops else None
    early = common.values if common else {}
    checks = [arm.name for arm in data.arms.values() if arm.design == "reseed"]
    control = data.facts.spec.ablation.control if data.facts.spec.ablation else None
    return PerObjective(
        objective=objective,
        best=best(search, objective=objective, space=data.space),
        slices=tuple(
            slice_of(search, dimension=dimension, objective=objective, early=early) for dimension in data.space
        ),
        importances=importances(search, space=data.space, objective=objective),
        effects=tuple(
            over_looks(
                effects(trials, objective=objective, declared=arms, checks=checks, control=control),
                trials,
                objective=objective,
                walk=data.completion.walk,
            )
        ),
        baseline=t_interval(floats(baseline, objective.metric)),
        robust=tuple(robust(trials, objective=objective, declared=arms)),
        factorial=factorial(trials, objective=objective, cells=_cells(data)),
        common=common,
        variance=components(trials, data.history, objective=objective, declared=arms) if arms else None,
        metric_unit=data.trainer.unit(objective.metric),
    )


def _search_statuses(data: StudyData, search: pd.DataFrame, pers: Sequence[PerObjective]) -> Mapping[str, str]:
    """Status of the search trials whose curves are drawn: ended ones (at most about CURVES, with the best) and running
    ones. The history of a running trial does not say its arm; while the search is unfinished every running trial is the
    search's, because arms start after it."""
    ended = dict(zip(texts(search, "trial_id"), texts(search, "status"), strict=True))
    final = set(texts(data.every_trial, "trial_id"))
    still_open = [trial_id for trial_id in data.started if trial_id not in final]
    under_way = still_open if data.facts.space and len(ended) < data.facts.searched else []
    if len(ended) > CURVES:
        best_id = {per.best.trial_id for per in pers if per.best}
        step = math.ceil(len(ended) / CURVES)
        ended = {name: end for rank, (name, end) in enumerate(ended.items()) if rank % step == 0 or name in best_id}
    return {**ended, **dict.fromkeys(under_way, "running")}


def _varied(data: StudyData) -> list[str]:
    return [*(entry.key for entry in data.space), *(key for arm in data.arms.values() for key in arm.overrides)]
