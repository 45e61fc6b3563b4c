"""A table in Markdown, LaTeX (booktabs) or CSV. The page template writes HTML tables."""

from __future__ import annotations

import csv
import io
import math
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
    """A `table` environment with booktabs rules. It needs the packages array, booktabs, graphicx and textcomp.

    A table wider than the text is scaled down.
    """
    head = " & ".join(escape.latex(column.header) for column in table.columns) + r" \\"
    body = [_latex_row(table, index) for index in range(len(table.rows))]
    layout = "".join(_latex_column(table, index) for index in range(len(table.columns)))
    dense = [r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"] if len(table.columns) > DENSE else []
    lines = [
        r"\begin{table}",
        r"\centering",
        *dense,
        rf"\caption{{{escape.latex(table.caption)}}}",
        rf"\label{{tab:{table.label.replace('_', '-')}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {escape.latex(note)}\par}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_column(table: Table, index: int) -> str:
    """Numbers are aligned to the right, words to the left; sentences are broken into lines."""
    if table.columns[index].number:
        return "r"
    longest = max((len(row[index].text) for row in table.rows), default=0)
    width = 0.25 if len(table.columns) > DENSE else 0.5
    return rf">{{\raggedright\arraybackslash}}p{{{width}\linewidth}}" if longest > SENTENCE else "l"


def _latex_row(table: Table, index: int) -> str:
    texts = [escape.latex(cell.text) for cell in table.rows[index]]
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
