"""The life of a study in results/: it is started, resumed or extended, gets its winner, and is finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.spec.models import StudySpec
from ablate.spec.study_file import check_files
from ablate.study import compatibility, lock, study_json
from ablate.study.study_json import ProvenanceFile

State = Literal["new", "resumed", "extended", "finished"]

NO_WINNER = (
    "no trial of the search completed, so there is no best one to ablate; search on: the same command, --resume and a"
    " larger --trials"
)
"""Why the ablation does not start though the search has ended, and what to do."""


def lacks_winner(*, baseline: str | None, trials: int, searched: Sequence[str]) -> bool:
    """Whether the ablation starts from the best trial of a search that has ended without a completed trial. `searched`:
    the statuses of the search's trials."""
    return baseline == "best" and len(searched) >= trials and "completed" not in searched


def open_study(spec: StudySpec, results: Place, *, resume: bool, allow_mixed: bool = False) -> tuple[Ledger, State]:
    """Start, resume or extend a study, and write its study.json. Checks everything before it writes anything.

    The state is `new`; `resumed`: it was not finished; `extended`: it was finished, and the file now asks for more; or
    `finished`: it was finished, and nothing is left to train. Raises BadInput for an unfinished study without `resume`,
    and where new results could not be compared with the old ones (see `compatibility.check`, and unless `allow_mixed`
    `compatibility.check_code`); DataError and BadInput for bad data files.
    """
    ledger = Ledger(results / spec.study, spec.trainer.description.metrics)
    data_hash = check_files(spec)
    described = study_json.describe(spec, data_hash=data_hash)
    if not ledger.exists():
        ledger.store.forget()
        ledger.write_study({**described, "started_at": _now(), "finished_at": None})
        return ledger, "new"
    before = ledger.read_study()
    with _missing_key_is_bad_input(ledger):
        compatibility.check(spec, before, described, rows=ledger.rows())
        unfinished = before["finished_at"] is None
        described = compatibility.dated(before, described, at=_now())
        more = compatibility.asks_for_more(before, described)
        started_at = before["started_at"]
    lock.check_free(ledger)
    if unfinished and not resume:
        raise BadInput(str(ledger.place), "study", spec.study, "exists and is not finished", "add --resume")
    if not unfinished and not more:
        updated = compatibility.updated(before, described)
        if updated != before:
            ledger.write_study(updated)
        return ledger, "finished"
    if not allow_mixed:
        was = study_json.parse(before, place=ledger.place).provenance
        compatibility.check_code(ledger, was, ProvenanceFile.model_validate(described["provenance"]))
    kept = {key: before[key] for key in ("winner",) if key in before}
    ledger.write_study({**described, **kept, "started_at": started_at, "finished_at": None})
    return ledger, "resumed" if unfinished else "extended"


def is_finished(spec: StudySpec, ledger: Ledger) -> bool:
    """Whether the study exists and nothing that `spec` asks for is left to train. Raises BadInput where study.json
    lacks a key."""
    if not ledger.exists():
        return False
    before = ledger.read_study()
    with _missing_key_is_bad_input(ledger):
        described = study_json.describe(spec, data_hash="")
        return before["finished_at"] is not None and not compatibility.asks_for_more(before, described)


@contextmanager
def _missing_key_is_bad_input(ledger: Ledger) -> Iterator[None]:
    """Turn the KeyError of a key that study.json lacks into BadInput."""
    try:
        yield
    except KeyError as error:
        hint = "restore the file, or move the folder away"
        raise BadInput(str(ledger.place / "study.json"), str(error.args[0]), "", "missing", hint) from None


def mark_finished(ledger: Ledger) -> None:
    """Record that every planned trial has ended."""
    ledger.write_study({**ledger.read_study(), "finished_at": _now()})


def fix_winner(ledger: Ledger, trial_id: str) -> None:
    """Record, for good, the search's trial that the ablation's arms deviate from."""
    ledger.write_study({**ledger.read_study(), "winner": trial_id})


def winner(ledger: Ledger) -> str | None:
    """The trial that `fix_winner` recorded; None where it did not."""
    study = ledger.read_study()
    return str(study["winner"]) if "winner" in study else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
