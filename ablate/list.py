"""`python -m ablate.list`: the studies under results/, with their state, their best trial and their size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tabulate import tabulate

from ablate import cli, escape, formatting
from ablate.errors import BadInput
from ablate.records import locations
from ablate.records.ledger import Ledger
from ablate.running.progress import best_of_search
from ablate.study import completion, lock, lookup, study_json


@dataclass(frozen=True)
class Listed:
    """A study. `state`: `finished`, `running`, `unfinished`, or why it cannot be read. `best`: the objective of the
    search's best trial; "" without a search. `mib`: size on this machine."""

    study: str
    state: str
    trials: str
    best: str
    mib: float


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.list`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.list",
        description="List the studies: their state, how many trials have ended, the best of the search, their size.",
        epilog="example:\n  python -m ablate.list --results results",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--results", type=locations.parse, default="results", metavar="DIR", help=locations.HELP)
    made.add_argument("--json", action="store_true", help="print the answer as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    given = parser().parse_args(argv)
    found = [_listed(Ledger(place)) for place in sorted(lookup.studies(given.results), key=lambda place: place.name)]
    if given.json:
        print(formatting.as_json([asdict(each) for each in found]))
    else:
        rows = [(each.study, each.state, each.trials, each.best, f"{each.mib:,.1f} MiB") for each in found]
        print(escape.printable(tabulate(rows, headers=["study", "state", "trials", "best of the search", "size"])))
    return cli.DONE


def _listed(ledger: Ledger) -> Listed:
    size = sum(path.stat().st_size for path in ledger.root.rglob("*") if path.is_file() and not path.is_symlink())
    try:
        study, rows = study_json.parse(ledger.read_study(), place=ledger.place), ledger.rows()
        done = completion.of(study, rows)
    except BadInput as error:
        return Listed(ledger.place.name, f"cannot be read: {error.rule}", "", "", size / 2**20)
    state = "running" if lock.is_held(ledger) else "finished" if done.whole else "unfinished"
    objective = study.spec.objectives[0]
    best = best_of_search(rows, objective=objective, seeds=study.spec.optimizer.seeds_per_trial)
    value = f"{objective.metric} {formatting.significant(best[1], digits=5)}" if best else ""
    return Listed(ledger.place.name, state, f"{done.planned - done.left} of {done.planned}", value, size / 2**20)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
