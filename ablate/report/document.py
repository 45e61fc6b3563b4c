"""A report as data: sections of paragraphs, tables and figures, before any format is chosen.

Text is what a reader reads, unescaped; every writer escapes for its own format, and nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True)
class Code:
    """A name or command that is set in a typewriter face."""

    text: str


Span = str | Code


@dataclass(frozen=True)
class Paragraph:
    """Running text. A notice is set apart: what a reader must not miss."""

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
    """A paragraph that is set apart."""
    return Paragraph(spans, notice=True)


@dataclass(frozen=True)
class Cell:
    """What a reader sees, and the value behind it for machines (the CSV's, unrounded); of an interval both its ends."""

    text: str
    value: Any


def cell(text: str) -> Cell:
    """A cell of words, which are their own value."""
    return Cell(text, text)


@dataclass(frozen=True)
class Column:
    """`name` heads the CSV, `header` the page. Numbers stand to the right. An interval is two columns of the CSV,
    `name`_low and `name`_high."""

    name: str
    header: str
    number: bool = True
    interval: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns in the CSV."""
        return (f"{self.name}_low", f"{self.name}_high") if self.interval else (self.name,)


@dataclass(frozen=True)
class Table:
    """A numbered table; `label` names its files. A table without rows is said in words (`empty`) on the page.

    `bold`: rows set in bold. `notes` stand under the table: what its marks mean.
    """

    label: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "Nothing to show."
    bold: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A numbered figure; `label` names its files, `alt` says in words what it shows. Drawn when a format asks."""

    label: str
    caption: str
    alt: str
    draw: Callable[[], Drawing] = field(compare=False)


@dataclass(frozen=True)
class Listing:
    """Lines set as they are: a sample, a command."""

    title: str
    text: str


Block = Paragraph | Table | Figure | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `sub` sections are a level deeper.

    `beside`: table and figure side by side where the page is wide enough."""

    title: str
    blocks: tuple[Block, ...]
    sub: bool = False
    beside: bool = False


@dataclass(frozen=True)
class Document:
    """A whole report. `answer` is the paragraph made from the numbers by rules."""

    title: str
    question: str
    byline: str
    answer: Paragraph
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
