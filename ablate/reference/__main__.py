"""`python -m ablate.reference`: write docs/reference/, or say which of its pages are stale."""

from __future__ import annotations

import argparse
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate import check, clean, export, init, rerun, status, sweep
from ablate import list as list_studies
from ablate.reference import columns, commands, configuration, study_file
from ablate.report import writer
from ablate.trainers import token_memory_pages

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {
    "commands.md": lambda: commands.page(parsers()),
    "study-file.md": study_file.page,
    "configuration.md": configuration.page,
    "columns.md": columns.page,
}


def parsers() -> Mapping[str, ArgumentParser]:
    """Module -> the command line of `python -m MODULE`."""
    return {
        "ablate.sweep": sweep.parser(),
        "ablate.check": check.parser(),
        "ablate.report": writer.parser(),
        "ablate.rerun": rerun.parser(),
        "ablate.status": status.parser(),
        "ablate.export": export.parser(),
        "ablate.list": list_studies.parser(),
        "ablate.clean": clean.parser(),
        "ablate.init": init.parser(),
        **token_memory_pages.parsers(),
    }


def main(argv: Sequence[str] | None = None, *, folder: Path = FOLDER) -> int:
    """Write the stale pages into `folder`. With `--check`: write nothing, name them, and exit 1 where there are any."""
    parser = argparse.ArgumentParser(
        prog="python -m ablate.reference",
        description="Write docs/reference/ from the code.",
        epilog="example: python -m ablate.reference --check",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name the pages that are stale")
    only_check = parser.parse_args(argv).check
    pages = {name: page() for name, page in PAGES.items()}
    stale = {name: text for name, text in pages.items() if _read(folder / name) != text}
    for name, text in stale.items():
        if only_check:
            print(f"docs/reference/{name} is stale: run python -m ablate.reference", file=sys.stderr)
        else:
            (folder / name).write_text(text, encoding="utf-8")
            print(folder / name)
    return 1 if only_check and stale else 0


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
