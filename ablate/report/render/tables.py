"""A table in Markdown, LaTeX (booktabs) or CSV. The page template writes HTML tables."""

from __future__ import annotations

import csv
import io
import math
import textwrap
import unicodedata
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from ablate import escape
from ablate.report.render.document import Column, Table

DENSE = 7  # a table with more columns is set smaller
SENTENCE = 40  # a cell with more characters is broken into lines


def to_markdown(table: Table) -> str:
    """A pipe table with its notes."""
    rows = [
        [_strong(escape.markdown(cell.text)) if index in table.bold else escape.markdown(cell.text) for cell in row]
        for index, row in enumerate(table.rows)
    ]
    headers = [escape.markdown(column.header) for column in table.columns]
    aligned = ["right" if column.number else "left" for column in table.columns]
    body = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=aligned) + "\n"
    return body + "".join(f"\n{escape.markdown(note)}\n" for note in table.notes)


def to_latex(table: Table) -> str:
    """A `longtable` with booktabs rules, which may break over pages. It needs the packages array, booktabs, longtable
    and textcomp, and where `is_wide` says so a landscape page.

    A table that is wider than that page is set in parts under each other, each with the first column.
    """
    size, parts = _set(table)
    lines = [rf"\{size.name}", r"\setlength{\tabcolsep}{3pt}", r"\setlength{\LTcapwidth}{\linewidth}"]
    for number, part in enumerate(parts):
        caption = rf"\caption{{{escape.latex(table.caption)}}}\label{{tab:{table.label.replace('_', '-')}}}\\"
        if number:
            lines.append(r"\addtocounter{table}{-1}")
            caption = r"\caption[]{(continued)}\\"
        head = " & ".join(column.head for column in part) + r" \\"
        lines += [rf"\begin{{longtable}}{{{''.join(column.layout for column in part)}}}", caption]
        lines += [r"\toprule", head, r"\midrule", r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead"]
        lines += [r"\bottomrule", r"\endlastfoot"]
        lines += [_latex_row(table, row, part) for row in range(len(table.rows))]
        lines.append(r"\end{longtable}")
    lines += [rf"\par\smallskip {escape.latex(note, breakable=True)}\par" for note in table.notes]
    text = "\n".join(["{%", *lines, r"\par}"]) + "\n"
    # In a document that does not define it.
    named = r"\providecommand{\codepoint}[1]{\texttt{U+#1}\allowbreak}" + "\n"
    return (named if escape.CODE_POINT in text else "") + text


def is_wide(table: Table) -> bool:
    """Whether LaTeX needs a landscape page for the table."""
    return _set(table)[0].landscape


@dataclass(frozen=True)
class _Size:
    """A size of type on a page. Points: `room` is the width of its text, `char` of a digit of Computer Modern."""

    name: str
    landscape: bool
    room: float
    char: float


_SIZES = (
    _Size("small", landscape=False, room=470, char=5.0),
    _Size("footnotesize", landscape=False, room=470, char=4.6),
    _Size("footnotesize", landscape=True, room=715, char=4.6),
)
"""On A4 with margins of 22 mm, the most readable first. Smaller type is not read."""

_GAP_PT = 6.0
_MEASURED = 200
"""Characters of a cell that are measured: a longer one is broken into lines anyway."""

_LONG, _NARROW, _BROKEN = 24, 18, 40
"""Digits of a column of words that may be broken into lines, the fewest that it gets, and those of a single word that
is broken too."""


@dataclass(frozen=True)
class _LatexColumn:
    """A column as LaTeX sets it: which one, its width in points, its letter (or `p{...}`), and its head."""

    index: int
    width: float
    layout: str
    head: str


def _set(table: Table) -> tuple[_Size, list[list[_LatexColumn]]]:
    """The first size at which the table fits, and its columns; at the last one in parts, if need be."""
    tried = [(size, _columns(table, size)) for size in _SIZES]
    for size, columns in tried:
        if sum(column.width for column in columns) <= size.room:
            return size, [columns]
    size, (first, *rest) = tried[-1]
    parts: list[list[_LatexColumn]] = [[first]]
    for column in rest:
        if len(parts[-1]) > 1 and sum(each.width for each in parts[-1]) + column.width > size.room:
            parts.append([first])
        parts[-1].append(column)
    return size, parts


def _columns(table: Table, size: _Size) -> list[_LatexColumn]:
    """Numbers are aligned to the right, words to the left; sentences are broken into lines, in what room is left."""
    longest = [max((len(row[index].text) for row in table.rows), default=0) for index in range(len(table.columns))]
    heads = [_in_lines(column.header, width=max(longest[i], 8)) for i, column in enumerate(table.columns)]
    named = [
        i for i in range(len(longest)) if any(escape.CODE_POINT in escape.latex(row[i].text) for row in table.rows)
    ]
    sentences = [
        i for i, column in enumerate(table.columns) if not column.number and (longest[i] > _LONG or i in named)
    ]
    shown = [[*heads[i], *(row[i].text[:_MEASURED] for row in table.rows)] for i in range(len(table.columns))]
    widths = [_GAP_PT + size.char * max(map(_digits, texts)) for texts in shown]
    left = size.room - sum(width for i, width in enumerate(widths) if i not in sentences)
    for i in sentences:
        word = max(_digits(word) for text in shown[i] for word in text.split() or [""])
        least = min(max(word, _NARROW), _BROKEN)
        if i in named:  # where its characters are named, one is as wide as six
            widths[i] = max(widths[i], _GAP_PT + size.char * _NARROW)
        widths[i] = min(widths[i], max(_GAP_PT + size.char * least, left / len(sentences)))
    return [
        _LatexColumn(
            index=i,
            width=widths[i],
            layout=rf">{{\raggedright\arraybackslash}}p{{{widths[i] - _GAP_PT:.0f}pt}}" if i in sentences else letter,
            head=_latex_head(heads[i], right=column.number),
        )
        for i, column in enumerate(table.columns)
        for letter in ["r" if column.number else "l"]
    ]


def _digits(text: str) -> float:
    """The width of a text in Computer Modern, in digits."""
    return sum(
        0.56 if char in _SLIM
        else 1.55 if char in _BROAD
        else 2.1 if unicodedata.east_asian_width(char) in "WF"
        else 1.45 if char.isupper()
        else 1
        for char in text
    )  # fmt: skip


_SLIM, _BROAD = "ijl.,:;'!|()[]/ ", "mwMW%+−±×—"


def _in_lines(header: str, *, width: int) -> list[str]:
    return textwrap.wrap(header, width=width, break_long_words=False, break_on_hyphens=False) or [""]


def _latex_head(lines: list[str], *, right: bool) -> str:
    texts = [escape.latex(line) for line in lines]
    if len(texts) == 1:
        return texts[0]
    return rf"\begin{{tabular}}[b]{{@{{}}{'r' if right else 'l'}@{{}}}}" + r"\\".join(texts) + r"\end{tabular}"


def _latex_row(table: Table, index: int, columns: list[_LatexColumn]) -> str:
    cells = table.rows[index]
    texts = [escape.latex(cells[one.index].text, breakable=one.layout not in ("l", "r")) for one in columns]
    if index in table.bold:
        texts = [rf"\textbf{{{text}}}" if text else "" for text in texts]
    return " & ".join(texts) + r" \\"


def to_csv(table: Table) -> str:
    """The unrounded values of the cells; a missing value is an empty field."""
    rows = [
        [
            value
            for column, cell in zip(table.columns, row, strict=True)
            for value in ((cell.value or (None, None)) if column.interval else (cell.value,))
        ]
        for row in table.rows
    ]
    return csv_text(table.columns, rows)


def csv_text(columns: tuple[Column, ...], rows: list[list[Any]]) -> str:
    """CSV with one header line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for column in columns for name in column.names])
    writer.writerows([["" if _missing(value) else escape.csv_value(value) for value in row] for row in rows])
    return out.getvalue()


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _strong(text: str) -> str:
    return f"**{text}**" if text else ""
