"""The report's figures, drawn with matplotlib's object interface: no display, no global state.

Okabe and Ito's colours, which survive colour blindness; markers and line styles say the same again in greyscale. Text
is drawn as outlines, so that a figure looks the same wherever it is shown, and the same numbers give the same bytes.
Matplotlib is imported by what draws: a report without figures does not pay for it.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate import escape
from ablate.analyze.curves import Band, Curve
from ablate.analyze.importance import Importances
from ablate.analyze.paired import Effect
from ablate.analyze.space import Dimension, Value, show

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
    "text.parse_math": False,  # a user's `$` is a dollar
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
    "svg.hashsalt": "ablate",
    "figure.dpi": 100,
    "savefig.dpi": 200,
}


@contextmanager
def style() -> Iterator[None]:
    """The report's look, and nobody else's setting; a script that no font here has is drawn as boxes, silently."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(figure: Figure) -> str:
    """One `<svg>` element without the XML prologue, to stand alone or in a page. Same figure, same bytes."""
    out = io.StringIO()
    with style():
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = out.getvalue()
    return text[text.index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The figure at 200 dots an inch."""
    out = io.BytesIO()
    with style():
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def draw_curves(curves: Sequence[Curve], *, best_id: str | None, floors: tuple[float, float] | None) -> Figure:
    """A search's learning curves: thin lines, the best bold; pruned ones dashed and ended by a cross."""
    with style():
        figure, axes = _page(height=3.2)
        looks = {"completed": ("-", "o"), "pruned": ("--", "x"), "running": (":", ">")}
        seen: set[str] = set()
        for curve in curves:
            line, marker = looks.get(curve.status, ("-.", "s"))
            kind = curve.status if curve.status in looks else "failed"
            is_best = curve.trial_id == best_id
            axes.plot(
                curve.tokens,
                curve.values,
                color=BLUE if is_best else GREY,
                linestyle=line,
                linewidth=2.2 if is_best else 0.8,
                marker=marker,
                markersize=4.5,
                markevery=[-1],
                zorder=3 if is_best else 2,
                label=f"best ({_short(curve.trial_id)})" if is_best else "_" if kind in seen else kind,
            )
            if not is_best:
                seen.add(kind)
        _finish_curves(axes, floors=floors)
    return figure


def draw_bands(bands: Sequence[Band], *, floors: tuple[float, float] | None) -> Figure:
    """The arms' learning curves: the mean over the seeds, and the range between the lowest and the highest of them."""
    with style():
        figure, axes = _page(height=3.2)
        for band, (color, line, marker) in zip(bands, _styles(len(bands)), strict=True):
            axes.fill_between(band.tokens, band.low, band.high, color=color, alpha=0.13, linewidth=0)
            axes.plot(
                band.tokens,
                band.mean,
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4,
                markevery=max(1, len(band.tokens) // 6),
                label=f"{_short(band.arm)} (n = {band.n})",
            )
        _finish_curves(axes, floors=floors)
    return figure


def draw_slice(dimension: Dimension, *, points: dict[str, tuple[list[Value], list[float]]], label: str) -> Figure:
    """One parameter against the objective. `points`: status -> (values as in the study file, objective)."""
    with style():
        figure, axes = _page(width=3.1, height=2.4)
        looks = {"completed": ("o", BLUE, BLUE), "pruned": ("D", "none", RED)}
        for status, (values, objective) in points.items():
            places = [_place(dimension, value) for value in values]
            marker, face, edge = looks[status]
            axes.scatter(places, objective, s=26, marker=marker, facecolor=face, edgecolor=edge, label=status, zorder=3)
        _scale(axes, dimension)
        axes.set_xlabel(dimension.key)
        axes.set_ylabel(label)
        axes.margins(y=0.12)
        if len(points) > 1:
            _legend_above(axes, columns=2)
    return figure


def draw_importances(importances: Importances) -> Figure:
    """A bar a parameter, largest on top."""
    with style():
        names = [_short(key) for key, _ in importances.shares][::-1]
        shares = [share for _, share in importances.shares][::-1]
        figure, axes = _page(height=0.7 + 0.32 * len(names))
        bars = axes.barh(names, shares, color=BLUE, height=0.6)
        axes.bar_label(bars, labels=[f"{share:.2f}" for share in shares], padding=3, fontsize=9)
        axes.set_xlabel("importance (PED-ANOVA, shares of 1)")
        axes.set_xlim(0, max(shares) * 1.15 or 1)
    return figure


def draw_effects(effects: Sequence[Effect], *, unit: str) -> Figure:
    """Paired differences to the baseline with their 95 % intervals; filled where the interval excludes 0."""
    with style():
        figure, axes = _page(height=0.9 + 0.34 * len(effects))
        for row, effect in enumerate(reversed(effects)):
            if not math.isfinite(effect.difference.mean):
                continue
            clear = effect.difference.above_zero or effect.difference.below_zero
            if math.isfinite(effect.difference.low):
                axes.plot([effect.difference.low, effect.difference.high], [row, row], color=BLUE, linewidth=1.6)
            axes.plot(effect.difference.mean, row, "o", color=BLUE, markerfacecolor=BLUE if clear else "white")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_yticks(range(len(effects)), [_short(effect.arm) for effect in reversed(effects)])
        axes.set_ylim(-0.6, len(effects) - 0.4)
        axes.set_xlabel(f"difference to the baseline in {effects[0].metric}{unit}")
    return figure


def draw_pareto(points: Sequence[tuple[float, float]], *, front: Sequence[bool], labels: tuple[str, str]) -> Figure:
    """Two objectives against each other; the front filled, and joined where it is more than a point."""
    with style():
        figure, axes = _page(width=4.4, height=3.2)
        on = sorted(point for point, chosen in zip(points, front, strict=True) if chosen)
        off = [point for point, chosen in zip(points, front, strict=True) if not chosen]
        if off:
            axes.scatter(*zip(*off, strict=True), s=26, facecolor="none", edgecolor=GREY, label="beaten")
        axes.plot(*zip(*on, strict=True), "o-", color=BLUE, linewidth=1.0, markersize=5.5, label="Pareto set")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        _legend_above(axes, columns=2)
    return figure


def _page(*, width: float = 6.3, height: float) -> tuple[Figure, Axes]:
    """Inches; 6.3 is a page's text width."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _styles(count: int) -> list[tuple]:
    return [_ARM_STYLES[index % len(_ARM_STYLES)] for index in range(count)]


def _short(text: str, *, limit: int = 36) -> str:
    return escape.one_line(text, limit=limit)


def _finish_curves(axes: Axes, *, floors: tuple[float, float] | None) -> None:
    from matplotlib.ticker import FuncFormatter

    for value, line, name in zip(floors or (), ((0, (1, 2)), (0, (4, 2, 1, 2))), ("unigram", "bigram"), strict=False):
        axes.axhline(value, color=ORANGE, linestyle=line, linewidth=1.2, zorder=1, label=f"{name} floor")
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("val_loss (nats/token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tokens(value)))
    axes.set_xlim(left=0)
    _legend_above(axes, columns=4)


def _legend_above(axes: Axes, *, columns: int) -> None:
    """Over the axes, where no line can run through it."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, columnspacing=1.4)


def _tokens(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _place(dimension: Dimension, value: Value) -> float:
    """Where a value stands on the axis: at its number, or at a choice's rank."""
    if dimension.kind == "choice":
        return float(dimension.choices.index(value)) if value in dimension.choices else float(len(dimension.choices))
    return float(value)  # pyright: ignore[reportArgumentType]  (a number: see Dimension.read)


def _scale(axes: Axes, dimension: Dimension) -> None:
    """The axis as the parameter was drawn: its own scale, its whole range."""
    from matplotlib.ticker import NullFormatter

    if dimension.kind == "choice":
        axes.set_xticks(range(len(dimension.choices)), [_short(show(value), limit=14) for value in dimension.choices])
        axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
        return
    if dimension.kind in ("loguniform", "logint"):
        axes.set_xscale("log")
    elif dimension.kind == "one_minus_loguniform" and dimension.high < 1:
        axes.set_xscale("function", functions=(lambda x: -np.log(np.maximum(1 - x, 1e-12)), lambda y: 1 - np.exp(-y)))
    positions = (0.0, 0.25, 0.5, 0.75, 1.0)
    ticks = sorted({_round_tick(dimension, dimension.at(position)) for position in positions})
    axes.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.set_xlim(dimension.at(-0.04), dimension.at(1.04))


def _round_tick(dimension: Dimension, value: float) -> float:
    """A tick to two digits of what varies: of the value, or of its distance to 1."""
    if dimension.whole:
        return float(round(value))
    if dimension.kind == "one_minus_loguniform":
        return 1 - float(f"{1 - value:.2g}")
    return float(f"{value:.2g}")
