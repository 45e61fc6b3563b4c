"""`python -m ablate.init DIR`: a study file and a trainer that run as they are, to be written over."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ablate import cli
from ablate.errors import BadInput

TEMPLATES = Path(__file__).parent / "templates"
FILES = {"study.yaml": "study.yaml", "train.py": "train.py.txt"}
"""File -> its template."""


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m ablate.init`."""
    made = argparse.ArgumentParser(
        prog="python -m ablate.init",
        description="Write a study file and a 30-line trainer into a folder. They run as they are.",
        epilog="example:\n  python -m ablate.init mine",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("folder", metavar="DIR", type=Path, help="the folder; made where there is none")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Overwrites nothing."""
    folder = parser().parse_args(argv).folder
    for name in FILES:
        if (folder / name).exists():
            raise BadInput(str(folder / name), "", "", "exists already", "give another folder, or move the file away")
    folder.mkdir(parents=True, exist_ok=True)
    for name, template in FILES.items():
        text = (TEMPLATES / template).read_text(encoding="utf-8").replace("examples/walk/", f"{folder}/")
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    print(f"next: python -m ablate.check {folder / 'study.yaml'}, then python -m ablate.sweep {folder / 'study.yaml'}")
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
