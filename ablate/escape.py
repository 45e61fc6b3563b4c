"""Makes text of users harmless: in LaTeX, in Markdown, in CSV, in a terminal. Jinja escapes it in HTML."""

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
"""Latin letters up to U+017F that the T1 fonts of pdflatex lack. It stops at each of them."""

CODE_POINT = r"\codepoint{"
"""How `latex` begins a character that the T1 fonts lack. The macro's argument is its code point, four hex digits or
more: a document says whether it is printed by its font or named, since only LuaLaTeX and XeLaTeX have other fonts."""

_LINE = 1_000
"""Characters of a text on one line of a .tex file. Escaped, each may take up to 32."""


_PART = re.compile(r"(?:^[\W_]{1,16})?[^\W_]{1,16}[\W_]{0,16}|[\W_]{1,16}")
"""A part of a long word after which the word may be broken: letters and digits, and the punctuation after them."""

LONGEST = 10_000
"""Characters of one text that a page shows."""

_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(\x07|\x1b\\)?|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]")
"""Control sequences of a terminal (ECMA-48): CSI, those that carry a text (a title, a link), and short ones."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins with one of these is a formula for a spreadsheet (OWASP, CSV injection)."""


def printable(text: str) -> str:
    """Remove a terminal's control sequences, and replace other control characters (such as those that change a line's
    direction) by spaces. Line breaks stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in _ANSI.sub("", text))


def cut(text: str) -> str:
    """Make the text printable, and cut it at LONGEST characters."""
    return printable(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def file_name(text: str) -> str:
    """A file name that cannot leave its folder: `_` replaces a leading dot and all but letters, digits, `.`, `-`,
    `_`."""
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", text)[:150] or "_"


def csv_value(value: object) -> object:
    """A cell of a CSV file. A text that a spreadsheet would take for a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def last_lines(text: str, *, count: int, width: int = 300) -> str:
    """The last lines of a program's output, printable, each cut at `width`."""
    lines = printable(text).rstrip().split("\n")[-count:]
    return "\n".join(line if len(line) <= width else line[: width - 1] + "…" for line in lines)


def one_line(text: str, *, limit: int = 200) -> str:
    """The text on one line, printable, cut at `limit` with an ellipsis."""
    start = text[: 20 * limit]  # a long text may be shown many times a second
    flat = " ".join(printable(start).split())
    return flat if len(flat) <= limit and len(start) == len(text) else flat[: limit - 1] + "…"


def latex(text: str, *, breakable: bool = False) -> str:
    """Text for a LaTeX table cell or caption. Line breaks become spaces.

    A leading `[` or `*` gets `{}` before it: it would be an argument of the `\\\\` or rule before the text. A kern
    parts what a font joins: `--` would be a dash, `,,` a quote. TeX reads at most 200,000 characters a line, so a long
    text gets line ends that TeX ignores. `breakable`: a long word (a path, a key) may be broken into lines.
    """
    flat = " ".join(cut(text).split())
    chars = [_latex_char(char) for char in flat]
    for joined in re.finditer("-(?=-)|,(?=,)", flat):
        chars[joined.start()] += r"\kern0pt"
    for word in re.finditer(r"\S{25,}", flat) if breakable else ():
        for part in list(_PART.finditer(word[0]))[:-1]:
            chars[word.start() + part.end() - 1] += r"\allowbreak{}"
    for index in range(_LINE, len(flat), _LINE):
        if flat[index] != " ":
            chars[index] = "%\n" + chars[index]
    return ("{}" if flat.startswith(("[", "*")) else "") + "".join(chars)


def _latex_char(char: str) -> str:
    """The escaped character. pdflatex stops at a character that its font lacks, so those go by their code points."""
    if char in _LATEX:
        return _LATEX[char]
    known = char <= "~" or ("À" <= char <= "ſ" and char not in _NOT_T1)
    return char if known else f"{CODE_POINT}{ord(char):04X}}}"


def markdown(text: str) -> str:
    """Text on one line for Markdown, also for a table's cell. Underscores inside a word and brackets that open no link
    have no meaning in Markdown, so they are not escaped."""
    return markdown_span(" ".join(text.split()))


def markdown_span(text: str) -> str:
    """Like `markdown`, for a part of a line: keeps the spaces at its ends."""
    flat = re.sub(r"\s+", " ", cut(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    flat = re.sub(r"([\\`*|~#$])", r"\\\1", flat)
    flat = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", flat)
    flat = re.sub(r"\[([^\[\]]*)\](?=[(\[:])", r"\\[\1\\]", flat)
    return re.sub(r"(?<!\\)\](?=[(\[:])", r"\\]", flat)


def markdown_code(text: str) -> str:
    """A code span. A backtick would end it, so it becomes a quote."""
    flat = " ".join(cut(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{flat}`" if flat else ""
