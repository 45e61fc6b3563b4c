"""Studies under results/: finding one, opening one, and what makes it the same study as before."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

from ablate.errors import BadInput, nearest
from ablate.records import locations, provenance, store
from ablate.records.lease import Held
from ablate.records.ledger import Ledger
from ablate.records.locations import Place, Url
from ablate.records.schema import SCHEMA_VERSION
from ablate.spec import designs, distributions, tuning
from ablate.spec.distributions import Choice
from ablate.spec.models import StudySpec
from ablate.spec.study_file import check_files
from ablate.study import compatibility
from ablate.trainers import recorded

State = Literal["new", "resumed", "extended", "finished"]

_KEPT = ("winner",)
"""What a study found out on its way and keeps when its file is read again."""


NO_WINNER = (
    "no trial of the search completed: there is no best one to ablate; search on: the same command, --resume and a"
    " larger --trials"
)
"""Why the ablation of a study does not start though its search has ended, and what helps."""


def lacks_winner(*, baseline: str | None, trials: int, searched: Sequence[str]) -> bool:
    """Whether the search that an ablation starts from has ended, by the statuses of its trials, and none completed."""
    return baseline == "best" and len(searched) >= trials and "completed" not in searched


def find(name: str, *, results: Place) -> Place:
    """Where a study is: a name under `results`, a path or URL, or `latest` (the newest start). Raises BadInput."""
    if name == "latest":
        started = {at: place for place in _folders(results) if (at := _started_at(place))}
        if not started:
            raise BadInput(str(results), "latest", "", "no study is there yet", "run one: python -m ablate.sweep FILE")
        return started[max(started)]
    for place in _candidates(name, results=results):
        if Ledger(place).exists():
            return place
    known = [place.name for place in _folders(results)]
    hint = nearest(name, known) if known else "run one: python -m ablate.sweep FILE"
    raise BadInput(str(results), "study", name, "no such study", hint)


def open_study(spec: StudySpec, results: Place, *, resume: bool) -> tuple[Ledger, State]:
    """Begin a study or go on with it, writing study.json; checks everything before it writes anything.

    `new`; `resumed`: it was not finished; `extended`: it was, and the file asks for more now; `finished`: it was, and
    nothing is left to train. Raises BadInput for an unfinished study without `resume`, and where old results could not
    be compared with new ones (`growth.check`); DataError and BadInput for bad data files.
    """
    ledger = Ledger(results / spec.study, spec.trainer.description.metrics)
    data_hash = check_files(spec)
    described = describe(spec, data_hash=data_hash)
    if not ledger.exists():
        ledger.store.forget()
        ledger.write_study({**described, "started_at": _now(), "finished_at": None})
        return ledger, "new"
    before = ledger.read_study()
    with _whole(ledger):
        compatibility.check(spec, before, described, rows=ledger.rows())
        unfinished = before["finished_at"] is None
        described = compatibility.dated(before, described, at=_now())
        more = compatibility.asks_for_more(before, described)
        started_at = before["started_at"]
    check_free(ledger)
    if unfinished and not resume:
        hint = "add --resume to go on with it"
        raise BadInput(str(ledger.place), "study", spec.study, "is there already and not finished", hint)
    if not unfinished and not more:
        told = compatibility.retold(before, described)
        if told != before:
            ledger.write_study(told)
        return ledger, "finished"
    kept = {key: before[key] for key in _KEPT if key in before}
    ledger.write_study({**described, **kept, "started_at": started_at, "finished_at": None})
    return ledger, "resumed" if unfinished else "extended"


def is_finished(spec: StudySpec, ledger: Ledger) -> bool:
    """Whether a study is there and nothing that `spec` asks for is left to train. Raises BadInput where study.json is
    not whole."""
    if not ledger.exists():
        return False
    before = ledger.read_study()
    with _whole(ledger):
        described = describe(spec, data_hash="")
        return before["finished_at"] is not None and not compatibility.asks_for_more(before, described)


@contextmanager
def _whole(ledger: Ledger) -> Iterator[None]:
    """Inside, a key that study.json lacks is BadInput."""
    try:
        yield
    except KeyError as error:
        hint = "restore the file, or move the folder away"
        raise BadInput(str(ledger.place / "study.json"), str(error.args[0]), "", "missing", hint) from None


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


def check_free(ledger: Ledger) -> None:
    """Raise BadInput where a sweep is at work on the study at this moment."""
    if is_driven(ledger):
        raise _driven(ledger)


@contextmanager
def driving(ledger: Ledger) -> Iterator[None]:
    """Hold the study while trials are started: of two sweeps on one folder the second is refused (BadInput).

    A killed driver leaves none that lasts; see `store.Store.hold`. What is held says whose it is.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(ledger.store.hold("driver.lock"))
        except Held:
            raise _driven(ledger) from None
        yield


def is_driven(ledger: Ledger) -> bool:
    """Whether a sweep is at work on the study at this moment, as far as is seen from this machine."""
    return ledger.store.held("driver.lock")


def driver(ledger: Ledger) -> str:
    """Who holds the study, or held it last: `process 4242 on host, since 2026-01-02T03:04:05+00:00`."""
    owner = ledger.store.owner("driver.lock")
    return "another process" if owner is None else f"process {owner.pid} on {owner.host}, since {owner.since}"


def _driven(ledger: Ledger) -> BadInput:
    hint = "wait for it, or interrupt it (ablate.status shows how far it is)"
    rule = f"another sweep is running it: {driver(ledger)}"
    return BadInput(str(ledger.place), "study", ledger.root.name, rule, hint)


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
        "trainer": recorded.as_json(spec.trainer.description),
        "command": provenance.command(),
        "provenance": provenance.collect(data_hash=data_hash),
    }


def as_json(spec: StudySpec) -> dict[str, Any]:
    """The resolved study as JSON: base as dotted keys, search as it was written."""
    return {
        "base": dict(spec.base.values),
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
    text = json.dumps([spec.base.tree(), data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _bounds(distribution: distributions.Distribution) -> dict[str, Any]:
    if isinstance(distribution, Choice):
        return {"low": None, "high": None, "choices": list(distribution.choices)}
    low, high = distribution.ends
    return {"low": low, "high": high, "choices": None}


def _candidates(name: str, *, results: Place) -> list[Place]:
    """Where a study of this name may be."""
    itself = locations.parse(name)
    if isinstance(itself, Url):
        return [itself]
    if isinstance(results, Url):
        return [results / name] if re.fullmatch(r"\w[\w.-]*", name) else []
    return [results / name, itself] if name else []


def _folders(results: Place) -> list[Place]:
    return [results / name for name in store.at(results).folders(having="study.json")]


def _started_at(place: Place) -> str:
    """When the study was begun; "", and a line on stderr, where its file does not say so."""
    try:
        return str(Ledger(place).read_study()["started_at"])
    except BadInput as error:
        print(f"passed over: {error}", file=sys.stderr)
    except KeyError:
        print(f"passed over: {place / 'study.json'}: started_at: missing", file=sys.stderr)
    return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
