"""A report as data: sections of paragraphs, tables and figures, before any format is chosen.

Text is unescaped here. Each output format escapes it once, when it writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ablate import formatting

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Code:
    """A name or command, set in a typewriter face."""

    text: str


Span = str | Code


@dataclass(frozen=True)
class Paragraph:
    """Running text. A notice is set apart because a reader must not miss it."""

    spans: tuple[Span, ...]
    notice: bool = False

    @property
    def plain(self) -> str:
        """The words alone."""
        return "".join(span.text if isinstance(span, Code) else span for span in self.spans)


def words(*spans: Span) -> Paragraph:
    """A paragraph of plain and typewriter parts."""
    return Paragraph(spans)


def notice(*spans: Span) -> Paragraph:
    """A paragraph that is set apart: see Paragraph."""
    return Paragraph(spans, notice=True)


@dataclass(frozen=True)
class Cell:
    """`text` for a reader, `value`, unrounded, for the CSV. An interval's value is its two ends."""

    text: str
    value: Any


def cell(text: str) -> Cell:
    """A cell whose text is its value."""
    return Cell(text, text)


def interval_cell(low: float, high: float, decimals: int, *, sign: bool = False) -> Cell:
    """`[0.012, 0.034]` for a reader, both ends unrounded for the CSV."""
    return Cell(formatting.interval(low, high, decimals, sign=sign), (low, high))


@dataclass(frozen=True)
class Column:
    """`name` heads the CSV, `header` the page. Numbers are aligned to the right. An interval is two columns of the CSV,
    `name`_low and `name`_high."""

    name: str
    header: str
    number: bool = True
    interval: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns in the CSV."""
        return (f"{self.name}_low", f"{self.name}_high") if self.interval else (self.name,)


@dataclass(frozen=True)
class Table:
    """A numbered table. `label` names its files. A table without rows has no number: a page shows the sentence `empty`
    in place of it and its caption.

    `bold`: the rows set in bold. `notes`: sentences under the table that explain its marks.
    """

    label: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "There is nothing to show here."
    bold: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A numbered figure. `label` names its files, `alt` describes it, `draw` is called when a format needs it."""

    label: str
    caption: str
    alt: str
    draw: Callable[[], Drawing] = field(compare=False)


@dataclass(frozen=True)
class Listing:
    """Text shown line by line as it is: a sample, the end of a log."""

    title: str
    text: str


Block = Paragraph | Table | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A heading and its blocks. `sub`: one level deeper."""

    title: str
    blocks: tuple[Block, ...]
    sub: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report. `summary`: its first paragraph, made from the numbers by rules."""

    title: str
    question: str
    byline: str
    summary: Paragraph
    sections: tuple[Section, ...]

    def blocks(self) -> Iterator[Block]:
        """Every block in reading order."""
        for section in self.sections:
            yield from section.blocks

    @property
    def tables(self) -> list[Table]:
        """Its tables in the order of their numbers."""
        return [block for block in self.blocks() if isinstance(block, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Its figures in the order of their numbers."""
        return [block for block in self.blocks() if isinstance(block, Figure)]
