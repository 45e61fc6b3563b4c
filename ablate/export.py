"""`python -m ablate.export STUDY`: a trial's configuration, for a long run of the user's own."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence

import yaml

from ablate import cli
from ablate.records import locations
from ablate.records.ledger import Ledger
from ablate.rerun import row_of
from ablate.study import lookup, study_json
from ablate.trainers import recorded


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.export`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.export",
        description="Print the whole configuration of a trial: as a `base` for a study file, as JSON, or as flags.",
        epilog="""examples:
  python -m ablate.export ema --as yaml > base.yaml
  python -m ablate.export ema --trial best --as args""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("study", metavar="STUDY", help="a name under --results, a path, a URL, or `latest`")
    made.add_argument("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    made.add_argument("--trial", metavar="best|ID", default="best", help="the trial; default: best")
    made.add_argument(
        "--as", dest="form", choices=["yaml", "json", "args"], default="yaml",
        help="yaml: what stands under `base`; json: the same; args: --KEY=VALUE words, quoted for a shell",
    )  # fmt: skip
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    given = parser().parse_args(argv)
    ledger = Ledger(lookup.find(given.study, results=given.results))
    spec = study_json.parse(ledger.read_study(), place=ledger.place).spec
    row = row_of(ledger, given.trial, objective=spec.objectives[0], seeds=spec.optimizer.seeds_per_trial)
    if given.form == "yaml":
        print(yaml.safe_dump(json.loads(row.config_json), sort_keys=False, allow_unicode=True), end="")
    elif given.form == "json":
        print(json.dumps(json.loads(row.config_json), indent=1, ensure_ascii=False))
    else:
        values = recorded.values(row.config_json)
        words = (f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
        print(" ".join(shlex.quote(word) for word in words))
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
