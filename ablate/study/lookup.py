"""Finds a study that the user names: by its name under results/, by a path or URL, or as `latest`."""

from __future__ import annotations

import re
import sys

from ablate.errors import BadInput, nearest
from ablate.records import locations, store
from ablate.records.ledger import Ledger
from ablate.records.locations import Place, Url
from ablate.study import lifecycle

_RUN_ONE = "run one: python -m ablate.sweep FILE"


def find(name: str, *, results: Place) -> Place:
    """The place of a study. `name`: a name under `results`, a path or URL, or `latest` (the newest start). Raises
    BadInput where there is no such study."""
    if name == "latest":
        started = {at: place for place in studies(results) if (at := _started_at(place))}
        if not started:
            raise BadInput(str(results), "latest", "", "there is no study yet", _RUN_ONE)
        return started[max(started)]
    for place in _candidates(name, results=results):
        if Ledger(place).exists():
            return place
        lifecycle.check_whole_folder(Ledger(place))
    known = [place.name for place in studies(results)]
    raise BadInput(str(results), "study", name, "no such study", nearest(name, known) if known else _RUN_ONE)


def _candidates(name: str, *, results: Place) -> list[Place]:
    """Where a study of this name may be."""
    itself = locations.parse(name)
    if isinstance(itself, Url):
        return [itself]
    if isinstance(results, Url):
        return [results / name] if re.fullmatch(r"\w[\w.-]*", name) else []
    return [results / name, itself] if name else []


def studies(results: Place) -> list[Place]:
    """Every study under `results`."""
    return [results / name for name in store.at(results).folders(having="study.json")]


def _started_at(place: Place) -> str:
    """When the study started. Where its file does not say so: "", and a line on stderr."""
    try:
        return str(Ledger(place).read_study()["started_at"])
    except BadInput as error:
        print(f"skipped: {error}", file=sys.stderr)
    except KeyError:
        print(f"skipped: {place / 'study.json'}: started_at: missing", file=sys.stderr)
    return ""
