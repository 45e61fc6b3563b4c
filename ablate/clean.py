"""`python -m ablate.clean STUDY --checkpoints`: deletes checkpoints, but those of the best trials."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ablate import cli, formatting
from ablate.errors import BadInput
from ablate.records import locations
from ablate.records.ledger import Ledger
from ablate.running.progress import measured
from ablate.study import lock, lookup, study_json

KEEP = 3


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.clean`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.clean",
        description="Delete the checkpoints of trials that have ended, but those of the best ones by the study's first"
        " objective. Rows, histories and reports stay. A trial that has not ended keeps its checkpoint and can resume.",
        epilog="""examples:
  python -m ablate.clean ema --checkpoints --dry-run
  python -m ablate.clean ema --checkpoints --keep 1""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", metavar="STUDY", help="a name under --results, a path, a URL, or `latest`")
    made.add_argument("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    made.add_argument("--checkpoints", action="store_true", help="what to delete; needed")
    made.add_argument("--keep", metavar="K", type=int, default=KEEP, help=f"how many of the best; default: {KEEP}")
    made.add_argument("--dry-run", action="store_true", help="say what would be deleted; delete nothing")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Raises BadInput while a sweep runs the study."""
    given = parser().parse_args(argv)
    if not given.checkpoints:
        raise BadInput("command line", "--checkpoints", "missing", "say what to delete", "add --checkpoints")
    if given.keep < 0:
        raise BadInput("--keep", "", given.keep, "out of range", "give 0 or more")
    ledger = Ledger(lookup.find(given.study, results=given.results))
    objective = study_json.parse(ledger.read_study(), place=ledger.place).spec.objectives[0]
    lock.check_free(ledger)
    rows = ledger.rows()
    best = sorted(measured(rows, objective.metric), key=lambda pair: (objective.sign * pair[1], pair[0].trial_id))
    kept = {row.trial_id for row, _ in best[: given.keep]}
    folders = {row.trial_id: ledger.checkpoint_dir(row.trial_id) for row in rows if row.trial_id not in kept}
    sizes = {
        name: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for name, folder in folders.items()
        if folder.is_dir()
    }
    if not given.dry_run:
        for name in sizes:
            ledger.store.remove(f"checkpoints/{name}")
    done = "would delete" if given.dry_run else "deleted"
    print(f"{done} {formatting.count(len(sizes), 'checkpoint')}, {sum(sizes.values()):,} bytes; {len(kept)} kept")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
