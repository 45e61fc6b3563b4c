"""What the pages share: a notice of where they come from, tables, and links to the pages beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NOTICE = "Written by `python -m ablate.reference` from the code; edit the code, not this page."


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A header "" is a column that explains itself."""
    cells = [[text.replace("|", r"\|") for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *cells))


def prose(text: str) -> str:
    """A docstring on one line. `docs/x.md` becomes a link to that page, as seen from docs/reference/."""
    return re.sub(r"docs/([\w/-]+\.md)", _link, " ".join(text.split()))


def page(title: str, *blocks: str) -> str:
    """A whole page: the title, the notice, the blocks."""
    return "\n\n".join([f"# {title}", NOTICE, *blocks]) + "\n"


def _link(found: re.Match[str]) -> str:
    name = found[1]
    beside = name.startswith("reference/")
    return f"[{found[0]}]({name.removeprefix('reference/') if beside else f'../{name}'})"
