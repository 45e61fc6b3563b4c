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
    given = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ablate.sweep",
        description="Run a study: search, ablation, report. Results are kept trial by trial and can be gone on from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("space", metavar="SPACE.yaml", type=Path, help="the study file")
    add("--results", metavar="DIR", type=locations.parse, default="results", help=locations.HELP)
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="set a value of the study file; repeatable")
    add("--trials", metavar="N", type=_at_least(1), help="trials of the search: --set optimizer.trials=N")
    add("--resume", action="store_true", help="go on with a study that was not finished")
    add("--dry-run", action="store_true", help="print the plan and what it would cost; write nothing")
    add("--json", action="store_true", help="print the answer as JSON")
    add("--gpu", metavar="NAME", help="plan a dry run for this card, e.g. 4090")
    add("--gpus", metavar="N", type=_at_least(0), help="logical cards of this machine; default: what is found")
    add("--address", metavar="ADDR", help="join a running Ray at HOST:PORT (or `auto`) instead of starting one")
    add("--inline", action="store_true", help="train in this process, one trial after the other, without Ray")
    add("--max-hours", metavar="H", type=_hours, help="stop after so many hours, resumable, with a report")
    return parser


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
