"""`ablate COMMAND`, the same as `python -m ablate.COMMAND`."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import version

from ablate import cli
from ablate.errors import BadInput, nearest

COMMANDS = {
    "sweep": "run a study and write its report",
    "check": "short runs that say what a trainer's numbers can carry",
    "report": "write a study's report, also while it runs",
    "status": "the progress of a study",
    "rerun": "train a trial again; compare every step",
    "export": "a trial's configuration, for a run of your own",
    "list": "the studies, their state, best and size",
    "clean": "delete checkpoints, but those of the best trials",
    "init": "a study file and a trainer that run as they are",
}
"""Command -> what it does. Each is a module of this name."""


def main() -> int:
    """Hand the rest of the command line to the command."""
    name, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help"):
        print("usage: ablate COMMAND ...\n")
        print("\n".join(f"  {command:<8} {about}" for command, about in COMMANDS.items()))
        print("\nablate COMMAND --help says more; ablate --version")
        return cli.DONE
    if name == "--version":
        print(f"ablate {version('ablate')}")
        return cli.DONE
    if name not in COMMANDS:
        raise BadInput("command line", "", name, "no such command", nearest(name, list(COMMANDS)))
    module = "ablate.report.writer" if name == "report" else f"ablate.{name}"
    return importlib.import_module(module).main(rest)


def run() -> None:
    """The console script `ablate`."""
    sys.exit(cli.guarded(main))


if __name__ == "__main__":
    run()
