"""`python -m ablate.check SPACE.yaml`: short runs that say what a trainer's numbers can carry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from ablate import cli, escape, formatting
from ablate.records import locations
from ablate.records.ledger import Ledger
from ablate.running import environment
from ablate.spec import study_file
from ablate.study import checks
from ablate.study.checks import Checked


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.check`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.check",
        description="Train short runs of a study's trainer in this process: is the same seed twice the same, does the"
        " seed reach it, does each searched parameter and each arm change anything, does a resumed run equal one that"
        " was not interrupted, what does a trial take. The report of the study carries the answer.",
        epilog="""examples:
  python -m ablate.check examples/walk/study.yaml
  python -m ablate.check search_spaces/ema.yaml --json

exit codes: 0 all is well, 1 something is not as it should be, 2 bad input, 3 a run failed""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("space", metavar="SPACE.yaml", type=Path, help="the study file")
    made.add_argument("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="set a value of the study file")
    made.add_argument("--json", action="store_true", help="print the answer as JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, keep the answer beside the study's results, and print it."""
    given = parser().parse_args(argv)
    spec = study_file.load(given.space, given.set)
    environment.prepare("inline")
    study_file.check_files(spec)
    study_file.check_installed(spec)
    checked = checks.check(spec, say=lambda line: print(f"check: {escape.printable(line)}", file=sys.stderr))
    checks.write(Ledger((given.results / spec.study).absolute(), spec.trainer.description.metrics), checked)
    if given.json:
        print(formatting.as_json({"study": spec.study, **asdict(checked), "complaints": list(checked.complaints)}))
    else:
        print(escape.printable(_text(spec.study, checked)))
    if checked.error:
        return cli.NO_SUCCESS
    return cli.DIFFERENT if checked.complaints else cli.DONE


def _text(study: str, checked: Checked) -> str:
    if checked.error:
        return f"check of {study}: {checked.complaints[0]}"
    seed = "differs, as it should" if checked.seed_reaches else "the same: it does not reach the trainer"
    effects = f"no effect: {', '.join(checked.inert)}" if checked.inert else "each changes something"
    rows = [
        ("the same seed twice", _apart(checked.apart)),
        ("another seed", seed),
        ("searched keys, arms", effects),
        ("interrupted and resumed", _apart(checked.resumed_apart)),
        ("memory", "not measured" if checked.peak_gib is None else f"{checked.peak_gib:.3g} GiB"),
        ("a whole trial", "not known" if checked.trial_s is None else f"about {formatting.duration(checked.trial_s)}"),
    ]
    if checked.trial_s is not None:
        rows.append((f"{checked.trials} trials", f"about {formatting.duration(checked.trial_s * checked.trials)}"))
    head = f"check of {study}: runs of {formatting.count(checked.reports, 'report')}"
    return f"{head}\n\n{tabulate(rows, tablefmt='plain')}"


def _apart(difference: float | None) -> str:
    if difference is None:
        return "not known: a run has a single report"
    return checks.in_words(difference)


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
