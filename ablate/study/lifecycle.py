"""The life of a study in results/: it is started, resumed or extended, gets its winner, and is finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from ablate import formatting
from ablate.errors import BadInput
from ablate.records.ledger import Ledger
from ablate.records.locations import Place
from ablate.spec.models import StudySpec
from ablate.spec.study_file import check_files, missing_data
from ablate.study import compatibility, completion, lock, study_json
from ablate.study.completion import Completion
from ablate.study.study_json import ProvenanceFile

State = Literal["new", "resumed", "extended", "finished"]

NO_WINNER = (
    "no trial of the search completed, so there is no best one to ablate; search on: the same command, --resume and a"
    " larger --trials"
)
"""Why the ablation does not start though the search has ended, and what to do."""


def lacks_winner(*, baseline: str | None, trials: int, searched: Sequence[str]) -> bool:
    """Whether the ablation starts from the best trial of a search that has ended without a completed trial. `searched`:
    the statuses of the search's points, `trials` their number at its end."""
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
    check_whole_folder(ledger)
    if not ledger.exists():
        ledger.store.forget()
        ledger.write_study({**described, "started_at": _now(), "finished_at": None})
        return ledger, "new"
    before = ledger.read_study()
    facts, rows = study_json.parse(before, place=ledger.place), ledger.rows()
    done = completion.of(facts, rows)
    with _another_shape_is_bad_input(ledger):
        compatibility.check(spec, before, described, rows=rows)
        described = compatibility.dated(before, described, at=_now())
        more = compatibility.asks_for_more(before, described)
        started_at = before["started_at"]
    lock.check_free(ledger)
    if not done.finished and not resume:
        raise BadInput(str(ledger.place), "study", spec.study, _why_unfinished(done, ledger), "add --resume")
    if done.finished and not more:
        updated = compatibility.updated(before, described)
        if updated != before:
            ledger.write_study(updated)
        return ledger, "finished"
    if not allow_mixed:
        compatibility.check_code(ledger, facts.provenance, ProvenanceFile.model_validate(described["provenance"]))
    ledger.damaged_rows()  # raises BadInput for rows that must not be trained again
    kept = {key: before[key] for key in ("winner",) if key in before}
    ledger.write_study({**described, **kept, "started_at": started_at, "finished_at": None})
    return ledger, "extended" if done.finished else "resumed"


def check_whole_folder(ledger: Ledger) -> None:
    """Raise BadInput where there are trials without a study.json. Nobody knows what was asked of them, so a new study
    of this name would take them for its own."""
    if ledger.is_orphaned():
        rule, hint = "missing, though there are trials beside it", "restore the file, or move the folder away"
        raise BadInput(str(ledger.place / "study.json"), "", "", rule, hint)


def check_comparable(spec: StudySpec, ledger: Ledger) -> None:
    """Raise BadInput where results of `spec` could not be compared with the study's earlier ones, as `open_study` does.
    Writes nothing. The content of data files that are not there is taken to be unchanged."""
    before = ledger.read_study()
    data_hash = "" if missing_data(spec) else check_files(spec)
    with _another_shape_is_bad_input(ledger):
        described = study_json.describe(spec, data_hash=data_hash)
        if not data_hash and before["spec"]["base"] == described["spec"]["base"]:
            described["identity"] = before["identity"]
        compatibility.check(spec, before, described, rows=ledger.rows())


def _why_unfinished(done: Completion, ledger: Ledger) -> str:
    if not done.recorded:
        why = "exists and is not finished"
    else:
        why = f"was finished, but {formatting.count(done.left, 'trial')} of {done.planned} lack a readable result"
    return "; ".join([why, *(str(problem) for problem in ledger.unreadable_rows()[:1])])


def is_finished(spec: StudySpec, ledger: Ledger) -> bool:
    """Whether the study exists and nothing that `spec` asks for is left to train. Raises BadInput where study.json
    lacks a key."""
    if not ledger.exists():
        return False
    before = ledger.read_study()
    with _another_shape_is_bad_input(ledger):
        described = study_json.describe(spec, data_hash="")
        return completion.read(ledger).finished and not compatibility.asks_for_more(before, described)


@contextmanager
def _another_shape_is_bad_input(ledger: Ledger) -> Iterator[None]:
    """Turn the error of a key that study.json lacks, or of one that holds something else, into BadInput."""
    place, hint = str(ledger.place / "study.json"), "restore the file, or move the folder away"
    try:
        yield
    except KeyError as error:
        raise BadInput(place, str(error.args[0]), "", "missing", hint) from None
    except (TypeError, AttributeError) as error:
        raise BadInput(place, "", "", f"not as a sweep writes it ({error})", hint) from None


def mark_finished(ledger: Ledger) -> bool:
    """Record that every planned trial has ended. False where one has not: then nothing is recorded."""
    if not completion.read(ledger).whole:
        return False
    ledger.write_study({**ledger.read_study(), "finished_at": _now()})
    return True


def record_exhausted(ledger: Ledger, points: int) -> None:
    """Record that the search ends with so many points, because its space gives no more."""
    ledger.write_study({**ledger.read_study(), "exhausted": points})


def fix_winner(ledger: Ledger, trial_id: str) -> None:
    """Record, for good, the search's trial that the ablation's arms deviate from."""
    ledger.write_study({**ledger.read_study(), "winner": trial_id})


def winner(ledger: Ledger) -> str | None:
    """The trial that `fix_winner` recorded; None where it did not."""
    study = ledger.read_study()
    return str(study["winner"]) if "winner" in study else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
