"""The sweep's command line, parsed into a typed whole."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ablate.errors import BadInput
from ablate.records import locations
from ablate.records.locations import Place

_EPILOG = """examples:
  python -m ablate.sweep search_spaces/ema.yaml
  python -m ablate.sweep search_spaces/ema.yaml --dry-run --gpu 4090
  python -m ablate.sweep search_spaces/ema.yaml --set base.data.corpus=pydoc --set study=ema_pydoc --trials 24
  python -m ablate.sweep search_spaces/ema.yaml --resume

exit codes: 0 done, 2 bad input, 3 no trial succeeded, 130 interrupted and resumable"""

_SET = "set a value of the study file, e.g. base.model.dim=256 or study=wider; repeatable"
_DRY_RUN = "print the plan, the predicted peaks of memory and a rough cost; write nothing"
_GPU = (
    "plan a dry run for this GPU, e.g. 4090; the CPUs are taken to suffice. A GPU that is not known by its name needs"
    " resources.gpu_memory_gib"
)


@dataclass(frozen=True)
class Options:
    """What the user asked for. `sets` are the `--set` values with `trials` (None: not given) among them."""

    space: Path
    results: Place
    sets: tuple[str, ...]
    trials: int | None
    resume: bool
    dry_run: bool
    json: bool
    gpu: str | None
    gpus: int | None
    address: str | None
    inline: bool
    max_hours: float | None


class _Parser(argparse.ArgumentParser):
    """Complains in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("command line", "", "", message, f"see {self.prog} --help")


def parse(argv: Sequence[str] | None) -> Options:
    """Raises BadInput where flags are unknown, ill-typed, or do not go together."""
    given = parser().parse_args(argv)
    _refuse(given.inline and given.address, "--address", given.address, "--inline runs without Ray")
    _refuse(given.inline and given.gpus is not None, "--gpus", given.gpus, "--inline runs without Ray")
    _refuse(given.address and given.gpus is not None, "--gpus", given.gpus, "a running cluster counts its own cards")
    if given.address and "://" in given.address:
        raise BadInput("--address", "", given.address, "Train does not run over Ray Client", "give HOST:PORT or `auto`")
    return Options(
        space=given.space,
        results=given.results,
        sets=(*given.set, *([f"optimizer.trials={given.trials}"] if given.trials is not None else [])),
        trials=given.trials,
        resume=given.resume,
        dry_run=given.dry_run,
        json=given.json,
        gpu=given.gpu,
        gpus=given.gpus,
        address=given.address,
        inline=given.inline,
        max_hours=given.max_hours,
    )


def _refuse(wrong: object, flag: str, value: object, rule: str) -> None:
    if wrong:
        raise BadInput(flag, "", value, rule, "leave one of the two out")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.sweep`."""
    made = _Parser(
        prog="python -m ablate.sweep",
        description="Run a study: its search, its ablation, its report. Every trial's result is kept when the trial"
        " ends, so an interrupted study resumes where it was.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("space", metavar="SPACE.yaml", type=Path, help="the study file")
    add("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help=_SET)
    add("--trials", metavar="N", type=_at_least(1), help="trials of the search; short for --set optimizer.trials=N")
    add("--resume", action="store_true", help="resume a study that is not finished")
    add("--dry-run", action="store_true", help=_DRY_RUN)
    add("--json", action="store_true", help="print the answer as JSON")
    add("--gpu", metavar="NAME", help=_GPU)
    add("--gpus", metavar="N", type=_at_least(0), help="logical GPUs of this machine; default: those that are found")
    add("--address", metavar="ADDR", help="join the Ray that runs at HOST:PORT (or `auto`) instead of starting one")
    add("--inline", action="store_true", help="train in this process, one trial after the other, without Ray")
    add("--max-hours", metavar="H", type=_hours, help="stop after H hours and write the report; --resume continues")
    return made


def _at_least(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text}: not a whole number of at least {least}")
        return int(text)

    return whole


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: not a number of hours above 0")
    return hours
