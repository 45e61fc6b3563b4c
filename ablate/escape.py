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

_NOT_T1 = "ĦħĸĿŀŉŦŧſ"
"""Latin letters to U+017F that pdflatex's T1 fonts lack: it stops at each."""

_LINE = 1_000
"""Characters of a text (up to 14 each, once escaped) that may stand on one line of a .tex file."""


LONGEST = 10_000
"""Characters of one text that a page shows."""

_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")
"""A terminal's commands (ECMA-48): CSI, those that carry a text (a title, a link), and the short ones."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet calculate a cell (OWASP, CSV injection)."""


def printable(text: str) -> str:
    """Without a terminal's commands and other control characters, those that turn a line around among them; line
    breaks stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in _ANSI.sub("", text))


def cut(text: str) -> str:
    """Printable, and at most LONGEST characters of it."""
    return printable(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def file_name(text: str) -> str:
    """A name that stays in its folder: `_` for whatever is no letter, digit, `.`, `-` or `_`, and for a leading dot."""
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", text)[:150] or "_"


def csv_value(value: object) -> object:
    """A cell of a CSV; a text that a spreadsheet would take for a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def last_lines(text: str, *, count: int, width: int = 300) -> str:
    """The last lines of what a program wrote, printable, each cut at `width`."""
    lines = printable(text).rstrip().split("\n")[-count:]
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


def one_line(text: str, *, limit: int = 200) -> str:
    """On one line, printable, cut at `limit` with an ellipsis."""
    looked_at = text[: 20 * limit]  # a text of megabytes is shown many times a second
    flat = " ".join(printable(looked_at).split())
    return flat if len(flat) <= limit and len(looked_at) == len(text) else flat[: limit - 1] + "…"


def latex(text: str) -> str:
    """Text for a LaTeX table cell or caption; any line breaks become spaces.

    A `[` or `*` that comes first would be an argument of the `\\\\` or rule before it. TeX reads lines of 200,000
    characters at most: a long text gets line ends that it does not see.
    """
    flat = " ".join(cut(text).split())
    chars = [_latex_char(char) for char in flat]
    for index in range(_LINE, len(flat), _LINE):
        if flat[index] != " ":
            chars[index] = "%\n" + chars[index]
    return ("{}" if flat.startswith(("[", "*")) else "") + "".join(chars)


def _latex_char(char: str) -> str:
    """pdflatex stops at a character that its font has not: for others the code point is shown."""
    if char in _LATEX:
        return _LATEX[char]
    known = char <= "~" or ("À" <= char <= "ſ" and char not in _NOT_T1)
    return char if known else rf"\texttt{{U+{ord(char):04X}}}"


def markdown(text: str) -> str:
    """Text for Markdown, a table's cell included, on one line. An underscore inside a word and a bracket that opens no
    link mean nothing there, so they stay readable."""
    return markdown_span(" ".join(text.split()))


def markdown_span(text: str) -> str:
    """As `markdown`, for a part of a line: the spaces at its ends are kept."""
    flat = re.sub(r"\s+", " ", cut(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*|~#$])", r"\\\1", flat)
    flat = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
    flat = re.sub(r"\[([^\[\]]*)\](?=[(\[:])", r"\\[\1\\]", flat)
    return re.sub(r"(?<!\\)\](?=[(\[:])", r"\\]", flat)


def markdown_code(text: str) -> str:
    """A typewriter span; a backtick in it would end it, so it becomes a quote."""
    flat = " ".join(cut(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`" if flat else ""
