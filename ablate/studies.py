"""Studies under results/: finding one, opening one, and what makes it the same study as before."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ablate import designs, distributions, provenance, tuning
from ablate.distributions import Choice
from ablate.errors import BadInput
from ablate.ledger import Ledger
from ablate.schema import SCHEMA_VERSION
from ablate.spec import StudySpec, check_files
from model.api import nearest, read_overrides

State = Literal["new", "resumed", "extended", "finished"]

_KEPT = ("winner",)
"""What a study found out on its way and keeps when its file is read again."""

_SAID = ("hypotheses", "targets")
"""What a finished study may still be told; it changes the report and trains nothing."""

_OTHER_NAME = "give it another name (study: NAME, or --set study=NAME)"


def find(name: str, *, results: Path) -> Path:
    """The folder of a study: a name under `results`, a path, or `latest` (the newest start). Raises BadInput."""
    if name == "latest":
        started = {_started_at(path): path for path in _folders(results)}
        if not started:
            raise BadInput(str(results), "latest", "", "no study is there yet", "run one: python -m ablate.sweep FILE")
        return started[max(started)]
    for path in (results / name, Path(name)):
        if name and (path / "study.json").is_file():
            return path
    known = [path.name for path in _folders(results)]
    cure = nearest(name, known) if known else "run one: python -m ablate.sweep FILE"
    raise BadInput(str(results), "study", name, "no such study", cure)


def open_study(spec: StudySpec, results: Path, *, resume: bool) -> tuple[Ledger, State]:
    """Begin a study or go on with it, writing study.json; checks everything before it writes anything.

    `new`; `resumed`: it was not finished; `extended`: it was, and the file asks for more now; `finished`: it was, and
    nothing is new. Raises BadInput for an unfinished study without `resume`, and where the name belongs to a study with
    another base, data, budget, search space or objective; DataError and BadInput for bad data files.
    """
    ledger = Ledger(results / spec.study)
    data_hash = check_files(spec)
    described = describe(spec, data_hash=data_hash)
    if not ledger.path("study.json").exists():
        ledger.write_study({**described, "started_at": _now(), "finished_at": None})
        return ledger, "new"
    before = ledger.read_study()
    try:
        _check_same(spec, before, described)
        unfinished = before["finished_at"] is None
        more = _asks_for_more(before["spec"], described["spec"]) or bool(_names(described) - _names(before))
        started_at = before["started_at"]
    except KeyError as error:
        cure = "restore the file, or move the folder away"
        raise BadInput(str(ledger.path("study.json")), str(error.args[0]), "", "missing", cure) from None
    if is_driven(ledger):
        raise _driven(ledger)
    if unfinished and not resume:
        cure = "add --resume to go on with it"
        raise BadInput(str(ledger.root), "study", spec.study, "is there already and not finished", cure)
    if not unfinished and not more:
        if any(before["spec"][key] != described["spec"][key] for key in _SAID):
            ledger.write_study({**before, "spec": {**before["spec"], **{k: described["spec"][k] for k in _SAID}}})
        return ledger, "finished"
    kept = {key: before[key] for key in _KEPT if key in before}
    ledger.write_study({**described, **kept, "started_at": started_at, "finished_at": None})
    return ledger, "resumed" if unfinished else "extended"


def mark_finished(ledger: Ledger) -> None:
    """Record that everything planned has ended."""
    ledger.write_study({**ledger.read_study(), "finished_at": _now()})


def fix_winner(ledger: Ledger, trial_id: str) -> None:
    """Record the search's trial that an ablation's arms deviate from, for good."""
    ledger.write_study({**ledger.read_study(), "winner": trial_id})


def winner(ledger: Ledger) -> str | None:
    """The trial that `fix_winner` recorded; None before."""
    study = ledger.read_study()
    return str(study["winner"]) if "winner" in study else None


def planned(study: Mapping[str, Any]) -> int:
    """Trials of a whole study, by its study.json; see `plan.planned`. Raises KeyError where it is none."""
    spec = study["spec"]
    searched = spec["optimizer"]["trials"] if spec["search"] else 0
    ablation = spec["ablation"]
    if not ablation:
        return searched
    arms = len(study["arms"] if "arms" in study else ablation["arms"])
    before = {"tune_each_arm": None, "match": "tokens", **ablation}  # studies of the first version had neither
    tune = before["tune_each_arm"]["trials"] if before["tune_each_arm"] else 0
    calibration = 1 if before["match"] == "wall" else 0
    return searched + (arms + 1) * (ablation["seeds"] + tune + calibration)


@contextmanager
def driving(ledger: Ledger) -> Iterator[None]:
    """Hold the study while trials are started: of two sweeps on one folder the second is refused (BadInput).

    The lock is the kernel's, so a killed driver leaves none behind; the file says whose it is.
    """
    path = ledger.path("driver.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # what the other has written stays
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _driven(ledger) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": _now()}) + "\n")
        file.flush()
        yield


def is_driven(ledger: Ledger) -> bool:
    """Whether a sweep is at work on the study at this moment, on this machine."""
    path = ledger.path("driver.lock")
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def driver(ledger: Ledger) -> str:
    """Who holds the study, or held it last: `process 4242 on host, since 2026-01-02T03:04:05+00:00`."""
    try:
        held = json.loads(ledger.path("driver.lock").read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']}, since {held['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def _driven(ledger: Ledger) -> BadInput:
    cure = "wait for it, or interrupt it (ablate.status shows how far it is)"
    return BadInput(str(ledger.root), "study", ledger.root.name, f"another sweep is running it: {driver(ledger)}", cure)


def describe(spec: StudySpec, *, data_hash: str) -> dict[str, Any]:
    """study.json, but for the times: the resolved study, its identity, and where it comes from."""
    return {
        "study": spec.study,
        "question": spec.question,
        "spec": as_json(spec),
        "space": [
            {"key": key, "kind": distribution.kind, **_bounds(distribution)}
            for key, distribution in spec.search.items()
        ],
        "arms": [asdict(arm) for arm in designs.expand(spec.ablation, spec.base)] if spec.ablation else [],
        "identity": identity(spec, data_hash=data_hash),
        "schema_version": SCHEMA_VERSION,
        "command": provenance.command(),
        "provenance": provenance.collect(data_hash=data_hash),
    }


def as_json(spec: StudySpec) -> dict[str, Any]:
    """The resolved study as JSON: base as dotted keys, search as it was written."""
    return {
        "base": {"preset": spec.base.preset, **read_overrides(spec.base)},
        "search": {key: distributions.as_written(distribution) for key, distribution in spec.search.items()},
        "objectives": [objective.model_dump() for objective in spec.objectives],
        "optimizer": spec.optimizer.model_dump(),
        "early_stopping": spec.early_stopping.model_dump() if spec.early_stopping else None,
        "ablation": _ablation_as_json(spec),
        "hypotheses": [hypothesis.model_dump() for hypothesis in spec.hypotheses],
        "targets": dict(spec.targets),
        "resources": spec.resources.model_dump(),
        "tracking": spec.tracking.model_dump(),
    }


def _ablation_as_json(spec: StudySpec) -> dict[str, Any] | None:
    """The ablation, with the space over which arms are tuned, resolved."""
    if spec.ablation is None:
        return None
    tune = spec.ablation.tune_each_arm
    space = tuning.space(tune, spec.base, spec.search) if tune else {}
    resolved = {key: distributions.as_written(distribution) for key, distribution in space.items()}
    return {**spec.ablation.model_dump(mode="json"), "tuning_space": resolved}


def identity(spec: StudySpec, *, data_hash: str) -> str:
    """Hash of base (the budget in it) and data: what may not change under a study's name."""
    text = json.dumps([json.loads(spec.base.model_dump_json()), data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_same(spec: StudySpec, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise BadInput, at the first key that differs, where the name belongs to another study."""

    def refuse(key: str, what: str) -> BadInput:
        rule = f"study {spec.study} exists with another {what}"
        return BadInput(spec.document.place(key), key, "changed", rule, _OTHER_NAME)

    was, is_now = before["spec"], now["spec"]
    if before["identity"] != now["identity"]:
        for key in _different(was["base"], is_now["base"]):
            raise refuse(f"base.{key}", "base")
        raise refuse("base.data", "content of its data files")
    if was["search"]:  # a study of arms alone may get its search later
        for key in _different(was["search"], is_now["search"]):
            raise refuse(f"search.{key}", "search space")
    if was["objectives"] != is_now["objectives"]:
        raise refuse("objective", "objective")
    if was["ablation"] and is_now["ablation"]:
        _check_same_ablation(spec, before, now, refuse=refuse)
    for hypothesis in was["hypotheses"]:
        if hypothesis not in is_now["hypotheses"]:
            raise refuse("hypotheses", f"hypothesis, {hypothesis['claim']!r}: one that was declared stays")


def _check_same_ablation(
    spec: StudySpec, before: Mapping[str, Any], now: Mapping[str, Any], *, refuse: Callable[[str, str], BadInput]
) -> None:
    was, is_now = before["spec"]["ablation"], now["spec"]["ablation"]
    for key in ("baseline", "match"):
        if was[key] != is_now[key]:
            raise refuse(f"ablation.{key}", key)
    for key in ("tune_each_arm", "tuning_space"):
        if was[key] != is_now[key]:
            raise refuse("ablation.tune_each_arm", "tuning of its arms")
    if was["exploratory"] and not is_now["exploratory"]:
        raise refuse("ablation.exploratory", "claim: it was declared exploratory, and results may have been looked at")
    old = {arm["name"]: arm["overrides"] for arm in before["arms"]}
    assert spec.ablation is not None
    for arm in designs.expand(spec.ablation, spec.base):
        if arm.name in old and old[arm.name] != dict(arm.overrides):
            raise refuse(designs.prefix(arm).removesuffix("."), "arm of this name")


def _different(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Keys that are new, gone, or have another value."""
    return [key for key in {**was, **now} if key not in was or key not in now or was[key] != now[key]]


def _names(study: Mapping[str, Any]) -> set[str]:
    return {arm["name"] for arm in study["arms"]}


def _asks_for_more(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if now["search"] and (not was["search"] or now["optimizer"]["trials"] > was["optimizer"]["trials"]):
        return True
    if not now["ablation"]:
        return False
    return not was["ablation"] or now["ablation"]["seeds"] > was["ablation"]["seeds"]


def _bounds(distribution: distributions.Distribution) -> dict[str, Any]:
    if isinstance(distribution, Choice):
        return {"low": None, "high": None, "choices": list(distribution.choices)}
    low, high = distribution.ends
    return {"low": low, "high": high, "choices": None}


def _folders(results: Path) -> list[Path]:
    return sorted(path.parent for path in results.glob("*/study.json"))


def _started_at(path: Path) -> str:
    return str(Ledger(path).read_study()["started_at"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
