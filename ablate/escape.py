"""What users wrote, made harmless: in LaTeX, in Markdown, on one line. (HTML is Jinja's autoescape.)"""

from __future__ import annotations

import re

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "▸": r"$\triangleright$",
    "·": r"$\cdot$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "ρ": r"$\rho$",
    "η": r"$\eta$",
    "—": "---",
    "–": "--",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "’": "'",
    "\N{NO-BREAK SPACE}": "~",
}


def printable(text: str) -> str:
    """Without a terminal's colours and other control characters; line breaks stay."""
    clean = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    return "".join(char if char.isprintable() or char == "\n" else " " for char in clean)


def last_lines(text: str, *, count: int, width: int = 300) -> str:
    """The last lines of what a program wrote, printable, each cut at `width`."""
    lines = printable(text).rstrip().split("\n")[-count:]
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


def one_line(text: str, *, limit: int = 200) -> str:
    """On one line, printable, cut at `limit` with an ellipsis."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def latex(text: str) -> str:
    """Text for a LaTeX table cell or caption; any line breaks become spaces."""
    return "".join(_latex_char(char) for char in " ".join(printable(text).split()))


def _latex_char(char: str) -> str:
    """pdflatex stops at a character that its font has not: beyond Latin letters (to U+017F) the code point is shown."""
    if char in _LATEX:
        return _LATEX[char]
    return char if char <= "~" or "À" <= char <= "ſ" else rf"\texttt{{U+{ord(char):04X}}}"


def markdown(text: str) -> str:
    """Text for Markdown, a table's cell included, on one line. An underscore inside a word and a bracket that opens no
    link mean nothing there, so they stay readable."""
    return markdown_span(" ".join(text.split()))


def markdown_span(text: str) -> str:
    """As `markdown`, for a part of a line: the spaces at its ends are kept."""
    flat = re.sub(r"\s+", " ", printable(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*|~#$])", r"\\\1", flat)
    flat = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
    return re.sub(r"\](?=[(\[:])", r"\\]", flat)


def markdown_code(text: str) -> str:
    """A typewriter span; a backtick in it would end it, so it becomes a quote."""
    flat = " ".join(printable(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`" if flat else ""
