"""What may change under a study's name: whatever leaves old and new results comparable.

More trials, seeds and arms, wider ranges and another objective are allowed, and old results are kept. Every other
change of the file is refused with its reason; so is other code, unless it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ablate import formatting
from ablate.analyze.basis.code import codes
from ablate.errors import BadInput
from ablate.records import provenance
from ablate.records.ledger import Ledger
from ablate.records.rows import MEASURED, TrialRow
from ablate.spec import designs, distributions
from ablate.spec.designs import SEARCH, TUNE, is_preparation
from ablate.spec.models import StudySpec
from ablate.study.study_json import ProvenanceFile

_OTHER_NAME = "give it another name (study: NAME, or --set study=NAME)"

_OTHER_CODE = (
    "go back to what trained them, give the study another name, or pass --allow-mixed to train on and mark the trials"
)

_ONLY_REPORTED = ("search", "objectives", "hypotheses", "targets")
"""What may still change in a finished study: it changes the report and trains nothing."""

Refuse = Callable[[str, str], BadInput]


def check(spec: StudySpec, before: Mapping[str, Any], now: Mapping[str, Any], *, rows: Sequence[TrialRow]) -> None:
    """Raise BadInput at the first changed key that makes `rows` and the trials that `now` asks for incomparable.

    `before` and `now` are the old and the new study.json. Raises KeyError where `before` lacks a key.
    """

    def refuse(key: str, what: str) -> BadInput:
        rule = f"study {spec.study} exists with another {what}"
        return BadInput(spec.document.place(key), key, "changed", rule, _OTHER_NAME)

    was, is_now = before["spec"], now["spec"]
    if before["identity"] != now["identity"]:
        later = spec.trainer.description.later_keys
        for key in _different({**later, **was["base"]}, {**later, **is_now["base"]}):
            raise refuse(f"base.{key}", "base")
        raise refuse("base.data", "content of its data files")
    if was["search"]:  # a study of arms alone may get its search later
        for key in {**was["search"], **is_now["search"]}:
            _check_wider(key, was["search"], is_now["search"], refuse=refuse)
    if _seeds_per_trial(was) != _seeds_per_trial(is_now) and any(row.arm == SEARCH for row in rows):
        raise refuse("optimizer.seeds_per_trial", f"number of seeds a point ({_seeds_per_trial(was)}), and has results")
    if was["objectives"] != is_now["objectives"]:
        _check_objective(before, is_now, rows=rows, refuse=refuse)
    if was["ablation"] and is_now["ablation"]:
        _check_same_ablation(spec, before, now, refuse=refuse)
        _check_control(was["ablation"], is_now["ablation"], rows=rows, refuse=refuse)
    for hypothesis in was["hypotheses"]:
        if _undated(hypothesis) not in is_now["hypotheses"]:
            raise refuse("hypotheses", f"hypothesis, {hypothesis['claim']!r}: a declared one cannot change")


def check_code(ledger: Ledger, before: ProvenanceFile, now: ProvenanceFile) -> None:
    """Raise BadInput where trials were measured, or begun, by other code or other packages than would train the rest: a
    report refuses to compare them, so it is said before anything is trained. `before` and `now` are of the old and the
    new study.json.
    """
    rows = ledger.rows()
    measured = [row for row in rows if row.status in MEASURED]
    hashes, commits = [row.code_hash for row in measured], [row.git_commit for row in measured]
    begun = ledger.started_ids() - {row.trial_id for row in rows}
    if begun:  # they resume from checkpoints of the code that the study had then
        hashes.append(before.code_hash)
        commits.append(before.git_commit)
    *were, is_now = codes([*hashes, now.code_hash], [*commits, now.git_commit])
    others = [code for code in were if code != is_now]
    if others:
        what = "trial was trained" if len(others) == 1 else "trials were trained"
        rule = f"{len(others)} {what} by other code ({others[-1]})"
        raise BadInput(str(ledger.place), "code", is_now, rule, _OTHER_CODE)
    versions = provenance.versions()
    packages = [row.versions for row in measured if row.versions not in (None, versions)]
    if packages:
        rule = f"{formatting.count(len(packages), 'trial')} ran on {packages[-1]}"
        raise BadInput(str(ledger.place), "versions", versions, rule, _OTHER_CODE)


def dated(before: Mapping[str, Any], now: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """`now`, with `declared_at` for every hypothesis that is newer than the study: the time `at` for those that
    `before` does not have. A hypothesis without `declared_at` was declared with the study."""
    known = [(_undated(hypothesis), hypothesis) for hypothesis in before["spec"]["hypotheses"]]
    hypotheses = [
        next((old for bare, old in known if bare == hypothesis), {**hypothesis, "declared_at": at})
        for hypothesis in now["spec"]["hypotheses"]
    ]
    return {**now, "spec": {**now["spec"], "hypotheses": hypotheses}}


def _undated(hypothesis: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hypothesis.items() if key != "declared_at"}


def asks_for_more(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether `now` plans trials that `before` did not."""
    was, is_now = before["spec"], now["spec"]
    if {arm["name"] for arm in now["arms"]} - {arm["name"] for arm in before["arms"]}:
        return True
    if is_now["search"] and (not was["search"] or is_now["optimizer"]["trials"] > was["optimizer"]["trials"]):
        return True
    if _confirms(is_now) - _confirms(was):
        return True
    if not is_now["ablation"]:
        return False
    return not was["ablation"] or is_now["ablation"]["seeds"] > was["ablation"]["seeds"]


def _seeds_per_trial(spec: Mapping[str, Any]) -> int:
    return spec["optimizer"].get("seeds_per_trial", 1)  # earlier studies have none


def _confirms(spec: Mapping[str, Any]) -> set[tuple[int, int]]:
    """(rank, number of the seed) of every trial that confirms the search."""
    optimizer = spec["optimizer"]
    confirm = optimizer.get("confirm", {"best": 0, "seeds": 0})  # written only where it is asked for
    return {(rank, seed) for rank in range(confirm["best"]) for seed in range(confirm["seeds"])}


def updated(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """study.json of a finished study that trains nothing more, with the changes that only its report shows."""
    spec = {**before["spec"], **{key: now["spec"][key] for key in _ONLY_REPORTED}}
    if spec["ablation"] and now["spec"]["ablation"]:
        changes = {key: now["spec"]["ablation"][key] for key in ("exploratory", "control")}
        spec["ablation"] = {**spec["ablation"], **changes}
    return {**before, "spec": spec, "space": now["space"]}


def _check_wider(key: str, was: Mapping[str, Any], is_now: Mapping[str, Any], *, refuse: Refuse) -> None:
    """Refuse unless the new space covers the old one: a wider range on the same scale, or a choice with more values."""
    if key not in is_now:
        raise refuse(f"search.{key}", "search space: this key was searched")
    if key not in was:
        raise refuse(f"search.{key}", "search space: this key was not searched")
    old, new = (distributions.parse(key, space[key]) for space in (was, is_now))
    if not distributions.covers(new, old):
        written = distributions.shown(old)
        raise refuse(
            f"search.{key}", f"search space: it was {written} and may only grow, because trials were drawn from it"
        )


def _check_objective(
    before: Mapping[str, Any], is_now: Mapping[str, Any], *, rows: Sequence[TrialRow], refuse: Refuse
) -> None:
    """Refuse another objective where results depend on the old one."""
    ends = Counter(row.status for row in rows)
    if ends["pruned"]:
        raise refuse("objective", f"objective, which stopped {formatting.count(ends['pruned'], 'trial')} early")
    if "winner" in before:
        raise refuse("objective", f"objective, which chose trial {before['winner']} as the baseline")
    if any(row.arm.startswith(TUNE) for row in rows):
        raise refuse("objective", "objective, which tuned its arms")
    ablation = is_now["ablation"]
    results = [row for row in rows if row.arm != "search" and not is_preparation(row.arm)]
    if results and not (ablation and ablation["exploratory"]):
        raise refuse("objective", "objective, and you may have seen its arms' results (exploratory: true allows it)")


def _check_same_ablation(spec: StudySpec, before: Mapping[str, Any], now: Mapping[str, Any], *, refuse: Refuse) -> None:
    was, is_now = before["spec"]["ablation"], now["spec"]["ablation"]
    for key in ("baseline", "match"):
        if was[key] != is_now[key]:
            raise refuse(f"ablation.{key}", key)
    if _looks(was) != _looks(is_now):
        raise refuse("ablation.seeds", "plan of looks: p values hold for the looks that were declared")
    for key in ("tune_each_arm", "tuning_space"):
        if was[key] != is_now[key]:
            raise refuse("ablation.tune_each_arm", "tuning of its arms")
    if was["exploratory"] and not is_now["exploratory"]:
        raise refuse("ablation.exploratory", "claim: it was exploratory, and you may have seen its results")
    old = {arm["name"]: arm["overrides"] for arm in before["arms"]}
    assert spec.ablation is not None
    for arm in designs.expand(spec.ablation, spec.base):
        if arm.name in old and old[arm.name] != dict(arm.overrides):
            raise refuse(designs.prefix(arm).removesuffix("."), "arm of this name")


def _check_control(
    was: Mapping[str, Any], is_now: Mapping[str, Any], *, rows: Sequence[TrialRow], refuse: Refuse
) -> None:
    """Refuse another positive control once the old or the new one has results: chosen by its results, a control is
    always seen, and Holm's family loses the arm."""
    old = was["control"] if "control" in was else None  # noqa: SIM401 - earlier studies have none
    if old == is_now["control"] or is_now["exploratory"]:
        return
    if any(row.arm in (old, is_now["control"]) for row in rows):
        raise refuse(
            "ablation.control", "positive control, and you may have seen results (exploratory: true allows it)"
        )


def _looks(ablation: Mapping[str, Any]) -> Any:
    """The declared looks; None for a fixed number of seeds."""
    return ablation["looks"] if "looks" in ablation else None  # noqa: SIM401 - studies with a fixed number have no key


def _different(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys that were added, removed or changed."""
    return [key for key in {**was, **now} if key not in was or key not in now or was[key] != now[key]]
