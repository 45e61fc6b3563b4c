"""docs/reference/commands.md: every command, from its argparse parser."""

from __future__ import annotations

import re
import textwrap
from argparse import Action, ArgumentParser
from collections.abc import Mapping

from ablate import cli
from ablate.reference import markdown

_INTRO = """STUDY is a name under `--results`, a path, an `s3://` or `gs://` URL, or `latest` (the study started last).
`python -m COMMAND --help` prints the same. Answers go to stdout; progress and complaints go to stderr."""


def page(parsers: Mapping[str, ArgumentParser]) -> str:
    """The page, in Markdown. `parsers`: module -> the command line of `python -m MODULE`."""
    exits = markdown.table(["exit code", ""], [[str(code), meaning] for code, meaning in cli.EXIT_CODES.items()])
    commands = [block for parser in parsers.values() for block in _command(parser)]
    return markdown.page("Commands", _INTRO, *commands, "## Exit codes", exits)


def actions(parser: ArgumentParser) -> list[Action]:
    """The arguments and flags of a command, `--help` aside. argparse has no public list of them."""
    return [action for action in parser._actions if action.dest != "help"]


def examples(parser: ArgumentParser) -> list[str]:
    """The command lines in what `--help` ends with."""
    return re.findall(r"python -m .*", parser.epilog or "")


def _command(parser: ArgumentParser) -> list[str]:
    words = [f"[{_name(one)}]" if one.option_strings else _name(one) for one in actions(parser)]
    unbroken = " ".join([parser.prog, *(word.replace(" ", "\xa0") for word in words)])
    usage = textwrap.fill(unbroken, 100, subsequent_indent="    ", break_on_hyphens=False).replace("\xa0", " ")
    rows = [[f"`{_name(one)}`", markdown.prose((one.help or "") % vars(one))] for one in actions(parser)]
    return [
        f"## {parser.prog}",
        parser.description or "",
        f"```\n{usage}\n```",
        markdown.table(["argument", ""], rows),
        "```sh\n" + "\n".join(examples(parser)) + "\n```",
    ]


def _name(action: Action) -> str:
    """`--set KEY=VALUE`, `--json`, `STUDY`, for a table."""
    metavar = str(action.metavar) if action.nargs != 0 else ""
    return " ".join([*action.option_strings, metavar]).strip()
