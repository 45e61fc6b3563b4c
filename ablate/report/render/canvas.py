"""What all figures share: style, file formats, panels, legends and the scales of parameters.

It uses Matplotlib's object interface, which needs no display and keeps no global state. The colours are Okabe and
Ito's, which people with colour blindness can tell apart; markers and line styles do the same in greyscale. Fonts
are part of it, so a figure looks the same everywhere, and equal numbers give equal bytes. Functions import
Matplotlib themselves, because importing it is slow.
"""

from __future__ import annotations

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate import escape, formatting
from ablate.analyze.search.space import Dimension, Value, show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY = "#8a8a8a"

_ARM_STYLES = [
    (BLACK, "-", "o"),
    (BLUE, "--", "s"),
    (RED, "-.", "^"),
    (GREEN, ":", "D"),
    (PURPLE, (0, (5, 1, 1, 1, 1, 1)), "v"),
    (ORANGE, (0, (8, 2)), "P"),
    (SKY, (0, (1, 1)), "X"),
]

_STYLE: dict[Any, Any] = {
    "font.family": ["STIXGeneral", "DejaVu Serif", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "text.parse_math": False,  # a `$` in a user's text is a dollar sign
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.4,
    "axes.unicode_minus": True,
    "svg.fonttype": "path",
    "pdf.fonttype": 42,  # TrueType: many publishers refuse the other kind, Type 3
    "svg.hashsalt": "ablate",
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "text.hinting": "none",  # else a PNG's letters outgrow the layout
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the report's style, then restore the settings: of Matplotlib's own, not of a user's matplotlibrc.
    Characters that no font has become boxes, silently."""
    # Where its folders cannot be written, it takes a temporary one and says so twice. The figures are the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    with _without_backend():
        from matplotlib import style

    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@contextmanager
def _without_backend() -> Iterator[None]:
    """Hide $MPLBACKEND while Matplotlib is imported: files need none, and Jupyter's or a window's may not load here."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen


def _settle(figure: Figure) -> None:
    """Lay the figure out once for all its formats: the layout takes most of the time of drawing."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def to_svg(figure: Figure) -> str:
    """One `<svg>` element without the XML prologue, for a file or a page. Equal figures give equal bytes."""
    out = io.StringIO()
    with style():
        _settle(figure)
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The figure at 200 dots an inch."""
    out = io.BytesIO()
    with style():
        _settle(figure)
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """For LaTeX: vectors, text in embedded TrueType fonts. Equal figures give equal bytes."""
    out = io.BytesIO()
    with style():
        _settle(figure)
        figure.savefig(out, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return out.getvalue()


def one_panel(*, width: float = 6.3, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel. Inches; 6.3 is the width of a page's text."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def panels(count: int, *, width: float, height: float, sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels side by side. `sharey`: they have one y scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count, sharey=sharey)))


def shifts(count: int) -> list[float]:
    """Offsets along x for `count` lines, so that their error bars do not hide each other."""
    return [0.06 * (index - (count - 1) / 2) for index in range(count)]


def arm_styles(count: int) -> list[tuple]:
    """(colour, line style, marker) for each of `count` lines."""
    size = len(_ARM_STYLES)
    return [
        (
            _ARM_STYLES[index % size][0],
            _ARM_STYLES[(index + index // size) % size][1],  # when colours repeat, the line style changes
            _ARM_STYLES[(index + 2 * (index // size)) % size][2],
        )
        for index in range(count)
    ]


def short_name(text: str, *, limit: int = 44) -> str:
    """A user's text on one line of at most `limit` characters."""
    return escape.one_line(text, limit=limit)


def in_lines(text: str, *, width: int = 30, most: int = 4) -> str:
    """A long name in lines, broken after a dot or else an underscore. It is not cut at once: the names of a factorial's
    cells may differ in their last part only."""
    lines = [""]
    for part in re.split(r"(?<=\.)", short_name(text, limit=width * most)):
        for piece in [part] if len(part) <= width else re.split(r"(?<=_)", part):
            if lines[-1] and len(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    shown = [short_name(line, limit=width) for line in lines]
    return "\n".join(shown if len(shown) <= most else [*shown[: most - 1], "…"])


def finish_curves(axes: Axes, *, label: str, floors: tuple[float, float] | None) -> None:
    """Draw the corpus's floors as lines, label the axes, and put the legend above all panels."""
    for value, line, name in zip(floors or (), ((0, (1, 2)), (0, (4, 2, 1, 2))), ("unigram", "bigram"), strict=False):
        axes.axhline(value, color=ORANGE, linestyle=line, linewidth=1.2, zorder=1, label=f"{name} floor")
    tokens_axis(axes)
    axes.set_xlim(left=0)
    axes.set_ylabel(label)
    legend_above(axes, columns=4, whole_page=True)


def tokens_axis(axes: Axes) -> None:
    """Label the x axis as tokens seen: 50k, 100k, ..."""
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel("tokens seen")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: formatting.tokens(value)))


LINE = 92  # characters that fit in one line of a legend of full width


def legend_columns(labels: Sequence[str], *, most: int = 4) -> int:
    """How many columns fit: a legend wider than the figure would leave the axes no room."""
    widest = max((len(label) for label in labels), default=1) + 7  # the line's sample and the gap
    return max(1, min(most, LINE // widest))


def legend_above(axes: Axes, *, columns: int, whole_page: bool = False) -> None:
    """Put the legend above the axes, or above all panels, where it hides no line."""
    handles, labels = axes.get_legend_handles_labels()
    columns = legend_columns(labels, most=columns)
    if labels and whole_page:
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns, columnspacing=1.4)
    elif labels:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.4)


def axis_position(dimension: Dimension, value: Value) -> float:
    """Where a value is drawn on the axis: at its number, or at the rank of a choice."""
    if dimension.kind == "choice":
        return float(dimension.choices.index(value)) if value in dimension.choices else float(len(dimension.choices))
    return float(value)  # pyright: ignore[reportArgumentType]  (a number: see Dimension.read)


def scale_axis(axes: Axes, dimension: Dimension, *, axis: str = "x") -> None:
    """Give the axis the scale that the parameter was sampled on, and its whole range."""
    from matplotlib.ticker import NullFormatter

    set_ticks, set_limits, set_scale, ruler = (
        (axes.set_xticks, axes.set_xlim, axes.set_xscale, axes.xaxis)
        if axis == "x"
        else (axes.set_yticks, axes.set_ylim, axes.set_yscale, axes.yaxis)
    )
    if dimension.kind == "choice":
        set_ticks(range(len(dimension.choices)), [short_name(show(value), limit=14) for value in dimension.choices])
        set_limits(-0.5, len(dimension.choices) - 0.5)
        return
    if dimension.kind in ("loguniform", "logint"):
        set_scale("log")
    elif dimension.kind == "one_minus_loguniform" and dimension.high < 1:
        set_scale("function", functions=(lambda x: -np.log(np.maximum(1 - x, 1e-12)), lambda y: 1 - np.exp(-y)))
    positions = (0.0, 0.25, 0.5, 0.75, 1.0)
    ticks = sorted({_round_tick(dimension, dimension.at(position)) for position in positions})
    set_ticks(ticks, [f"{tick:.4g}" for tick in ticks])
    ruler.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    set_limits(dimension.at(-0.04), dimension.at(1.04))


def _round_tick(dimension: Dimension, value: float) -> float:
    """A tick rounded to two digits of the value, or of its distance to 1 where that is what varies."""
    if dimension.whole:
        return float(round(value))
    if dimension.kind == "one_minus_loguniform":
        return 1 - float(f"{1 - value:.2g}")
    return float(f"{value:.2g}")
