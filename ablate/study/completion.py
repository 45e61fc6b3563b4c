"""Which of a study's planned trials have ended. The sweep, the status and the report all count here.

A trial has ended if its final row can be read. Neither the name of a file nor `finished_at` of study.json says so: a
file may be damaged, and files get lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ablate.analyze.basis import points
from ablate.analyze.basis.points import Ended
from ablate.records.ledger import Ledger
from ablate.spec.designs import BASELINE, CALIBRATE, CONFIRM, SEARCH, TUNE
from ablate.study import study_json
from ablate.study.study_json import StudyFile

if TYPE_CHECKING:
    from ablate.analyze.arms.sequential import Walk


@dataclass(frozen=True)
class Completion:
    """`planned`: trials of the whole study, without those of `untrained` arms, of which no trial that prepares them
    completed. `missing`: arm -> how many of its planned trials have not ended. `recorded`: whether study.json says that
    the study is finished. `walk`: with sequential seeds, how far the looks have come; what is planned is then what is
    wanted up to the next look."""

    planned: int
    missing: Mapping[str, int]
    untrained: tuple[str, ...]
    recorded: bool
    walk: Walk | None = None

    @property
    def left(self) -> int:
        """How many planned trials have not ended."""
        return sum(self.missing.values())

    @property
    def whole(self) -> bool:
        """Whether every planned trial has ended."""
        return not self.left

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.recorded and self.whole


def read(ledger: Ledger) -> Completion:
    """The state of the study in `ledger`. Raises BadInput where study.json is damaged."""
    return of(study_json.parse(ledger.read_study(), place=ledger.place), ledger.rows())


def of(study: StudyFile, ends: Iterable[Ended]) -> Completion:
    """The state of a study with these final rows."""
    ended = list(ends)
    untrained = _untrained(study, ended)
    walk = _walk(study, ended, untrained)
    planned = {**_confirmed(study, ended), **_planned(study, untrained, walk)}
    rows = Counter(end.arm for end in ended)
    seeds = Counter(arm for arm, _ in {(end.arm, end.seed) for end in ended})  # two versions may have run a seed
    counted = {arm: rows[arm] if arm == SEARCH or arm.startswith(TUNE) else seeds[arm] for arm in planned}
    missing = {arm: planned[arm] - counted[arm] for arm in planned if counted[arm] < planned[arm]}
    if _lacks_winner_row(study, ended):
        missing.setdefault(SEARCH, 1)
    recorded = study.finished_at is not None
    return Completion(sum(planned.values()), missing=missing, untrained=untrained, recorded=recorded, walk=walk)


def _confirmed(study: StudyFile, ended: Sequence[Ended]) -> dict[str, int]:
    """The trials that confirm the search, by its best points so far; nobody knows their names before there are any."""
    confirm, objective = study.spec.optimizer.confirm, study.spec.objectives[0]
    if confirm is None or not study.searched:
        return {}
    known = points.ranked(ended, objective=objective, seeds=study.spec.optimizer.seeds_per_trial)
    best = [point.trial_id for point, _ in known[: confirm.best]]
    searched = sum(end.arm == SEARCH for end in ended)
    to_come = min(confirm.best, study.points) - len(best) if searched < study.searched else 0
    unknown = {CONFIRM: to_come * confirm.seeds} if to_come > 0 else {}
    return {**dict.fromkeys((CONFIRM + name for name in best), confirm.seeds), **unknown}


def _walk(study: StudyFile, ended: Sequence[Ended], untrained: Sequence[str]) -> Walk | None:
    ablation = study.spec.ablation
    if ablation is None or ablation.looks is None:
        return None
    from ablate.study import sequential_seeds  # brings scipy, which a fixed number of seeds does not need

    metric, hypotheses = study.spec.objectives[0].metric, study.spec.hypotheses
    known = {"looks": ablation.looks, "arms": study.all_arms, "metric": metric, "hypotheses": hypotheses}
    return sequential_seeds.state(ended, **known, control=ablation.control, untrained=untrained)


def _planned(study: StudyFile, untrained: Sequence[str], walk: Walk | None) -> dict[str, int]:
    """Arm -> its planned trials."""
    planned = {SEARCH: study.searched} if study.searched else {}
    ablation = study.spec.ablation
    if ablation is None:
        return planned
    for arm in _arms(study):
        if ablation.match == "wall":
            planned[CALIBRATE + arm] = 1
        if ablation.tune_each_arm and TUNE + arm not in untrained:
            planned[TUNE + arm] = ablation.tune_each_arm.trials
        if arm not in untrained:
            planned[arm] = ablation.seeds if walk is None else walk.wanted(arm)
    return planned


def _untrained(study: StudyFile, ended: Sequence[Ended]) -> tuple[str, ...]:
    """The arms that are not trained, and not tuned, because what had to come before failed; see `phases.run`."""
    ablation = study.spec.ablation
    if ablation is None:
        return ()

    def failed(prepared: str, trials: int) -> bool:
        how = [end.status for end in ended if end.arm == prepared]
        return len(how) >= trials and "completed" not in how

    found: list[str] = []
    by_time, tune = ablation.match == "wall", ablation.tune_each_arm
    for arm in _arms(study):
        if by_time and (failed(CALIBRATE + arm, 1) or failed(CALIBRATE + BASELINE, 1)):
            found += [TUNE + arm, arm]
        elif tune and failed(TUNE + arm, tune.trials):
            found.append(arm)
    return tuple(found)


def _arms(study: StudyFile) -> list[str]:
    return [BASELINE, *(arm.name for arm in study.all_arms)]


def _lacks_winner_row(study: StudyFile, ended: Sequence[Ended]) -> bool:
    """Whether the row is lost of the trial that the arms deviate from."""
    from_best = study.spec.ablation is not None and study.spec.ablation.baseline == "best"
    return from_best and study.winner is not None and study.winner not in {end.trial_id for end in ended}
