"""The report's figures, each drawn from the result of one analysis. canvas.py holds what they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ablate.analyze.arms.contrasts import Factorial
from ablate.analyze.arms.curves import Band, Curve
from ablate.analyze.arms.paired import Effect
from ablate.analyze.basis.frames import floats
from ablate.analyze.search.importance import Importances
from ablate.analyze.search.space import Dimension, Value
from ablate.report.render.canvas import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    arm_styles,
    axis_position,
    finish_curves,
    in_lines,
    legend_above,
    legend_columns,
    one_panel,
    panels,
    scale_axis,
    shifts,
    short_name,
    style,
    tokens_axis,
)
from ablate.spec.designs import BASELINE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MANY = 1_000  # more points than this are drawn as pixels, in SVG and PDF too: vectors would be large
PANELS = 3  # of the figure of interactions


def draw_curves(
    curves: Sequence[Curve], *, label: str, best_id: str | None, floors: tuple[float, float] | None
) -> Figure:
    """A search's learning curves: thin lines, the best bold, pruned ones dashed and ended by a cross. A second panel
    shows their second half on its own scale, where a curve has two points there."""
    with style():
        line_styles = {"completed": ("-", "o"), "pruned": ("--", "x"), "running": (":", ">")}
        half = max((curve.tokens[-1] for curve in curves), default=0.0) / 2
        late = [curve for curve in curves if (curve.tokens >= half).sum() > 1]
        figure, (axes, *late_panel) = panels(2 if late else 1, width=6.3, height=3.2, sharey=False)
        seen: set[str] = set()
        for curve in curves:
            line, marker = line_styles.get(curve.status, ("-.", "s"))
            kind = curve.status if curve.status in line_styles else "failed"
            is_best = curve.trial_id == best_id
            look: dict[str, Any] = {
                "color": BLUE if is_best else GREY,
                "linestyle": line,
                "linewidth": 2.2 if is_best else 0.8,
                "marker": marker,
                "markersize": 4.5,
                "markevery": [-1],
                "zorder": 3 if is_best else 2,
            }
            name = f"best ({short_name(curve.trial_id)})" if is_best else "_" if kind in seen else kind
            axes.plot(curve.tokens, curve.values, label=name, **look)
            in_half = curve.tokens >= half
            for panel in late_panel if in_half.any() else []:
                panel.plot(curve.tokens[in_half], curve.values[in_half], **look)
            if not is_best:
                seen.add(kind)
        finish_curves(axes, label=label, floors=floors)
        for panel in late_panel:
            tokens_axis(panel)
    return figure


def draw_bands(bands: Sequence[Band], *, label: str, floors: tuple[float, float] | None) -> Figure:
    """The arms' learning curves: the mean over the seeds, and the range from the lowest to the highest seed.

    A second panel, where the first band is the baseline's: every mean minus the baseline's, over the second half of
    the run. In the first panel, whose scale holds the first losses, these late curves cannot be told apart.
    """
    with style():
        names = [f"{short_name(band.arm)} (n = {band.n})" for band in bands]
        legend_rows = math.ceil((len(names) + 2) / legend_columns(names))
        baseline, late = bands[0], bands[0].tokens >= bands[0].tokens[-1] / 2
        compared = baseline.arm == BASELINE and len(bands) > 1 and late.sum() > 1
        figure, (axes, *gap_panel) = panels(
            2 if compared else 1, width=6.3, height=2.8 + 0.2 * legend_rows, sharey=False
        )
        for name, band, (color, line, marker) in zip(names, bands, arm_styles(len(bands)), strict=True):
            look: dict[str, Any] = {"color": color, "linestyle": line, "marker": marker, "markersize": 4}
            axes.fill_between(band.tokens, band.low, band.high, color=color, alpha=0.13, linewidth=0)
            axes.plot(band.tokens, band.mean, markevery=max(1, len(band.tokens) // 6), label=name, **look)
            for panel in gap_panel:
                tokens = baseline.tokens[late]
                means = np.interp(tokens, band.tokens, band.mean)
                panel.plot(tokens, means - baseline.mean[late], markevery=max(1, len(tokens) // 6), **look)
        finish_curves(axes, label=label, floors=floors)
        for panel in gap_panel:
            tokens_axis(panel)
            panel.set_ylabel("mean minus the baseline's")
    return figure


def draw_run(reports: pd.DataFrame, *, metric: str, label: str, floors: tuple[float, float]) -> Figure:
    """One trial: the loss of every step, its mean over each report, and the held-out loss where it was measured."""
    with style():
        figure, axes = one_panel(height=3.2)
        tokens = floats(reports, "tokens_seen")
        starts = np.concatenate([[0.0], tokens[:-1]])
        losses = [np.asarray(values if values is not None else [], dtype=float) for values in reports["losses"]]
        steps = [
            np.linspace(start, end, len(part) + 1)[1:] for start, end, part in zip(starts, tokens, losses, strict=True)
        ]
        every = np.concatenate(losses)
        axes.plot(
            np.concatenate(steps), every, color=GREY, linewidth=0.5, label="each step", rasterized=len(every) > MANY
        )
        means = [float(np.mean(part)) if len(part) else math.nan for part in losses]
        axes.plot(tokens, means, color=ORANGE, linestyle="--", label="training, mean a report")
        values = floats(reports, metric)
        measured = np.isfinite(values)
        name = "held out" if metric == "val_loss" else metric
        axes.plot(tokens[measured], values[measured], "o-", color=BLUE, markersize=4, label=name)
        loss = "loss (nats/token)" if metric == "val_loss" else label
        finish_curves(axes, label=loss, floors=floors if all(map(math.isfinite, floors)) else None)
    return figure


def draw_slice(dimension: Dimension, *, points: dict[str, tuple[list[Value], list[float]]], label: str) -> Figure:
    """One parameter against the objective. `points`: status -> (parameter values, objective values)."""
    with style():
        figure, axes = one_panel(width=3.1, height=2.4)
        markers = {"completed": ("o", BLUE, BLUE), "pruned": ("D", "none", RED)}
        for status, (values, objective) in points.items():
            places = [axis_position(dimension, value) for value in values]
            marker, face, edge = markers[status]
            axes.scatter(
                places, objective, s=26, marker=marker, facecolor=face, edgecolor=edge, label=status, zorder=3,
                rasterized=len(places) > MANY,
            )  # fmt: skip
        scale_axis(axes, dimension)
        axes.set_xlabel(dimension.key)
        axes.set_ylabel(label)
        axes.margins(y=0.12)
        if len(points) > 1:
            legend_above(axes, columns=2)
    return figure


def draw_importances(importances: Importances) -> Figure:
    """One bar for each parameter, the largest on top."""
    with style():
        shares = importances.shares[::-1]
        places = list(range(len(shares)))
        figure, axes = one_panel(height=0.7 + 0.32 * len(shares))
        axes.barh(places, [share.value for share in shares], color=SKY, edgecolor=BLUE, height=0.6)
        axes.hlines(places, [s.low for s in shares], [s.high for s in shares], color=BLACK, linewidth=1.2)
        axes.set_yticks(places, [short_name(share.key) for share in shares])
        axes.set_xlabel("importance (PED-ANOVA, shares of 1), 95% bootstrap intervals")
        axes.set_xlim(0, max(share.high for share in shares) * 1.05 or 1)
    return figure


def draw_effects(effects: Sequence[Effect], *, unit: str) -> Figure:
    """A forest plot: paired differences to the baseline with 95 % intervals. A marker is filled where the interval
    excludes 0; an A/A arm is a grey square with its interval as a band, the positive control a diamond."""
    with style():
        names = [f"{in_lines(effect.arm)} (n = {effect.n})" for effect in reversed(effects)]
        row_height = max(0.34, 0.16 + 0.15 * max(name.count("\n") + 1 for name in names))
        figure, axes = one_panel(height=0.9 + row_height * len(effects))
        for row, effect in enumerate(reversed(effects)):
            difference, color = effect.difference, GREY if effect.check else BLUE
            if math.isfinite(difference.low):
                axes.plot([difference.low, difference.high], [row, row], color=color, linewidth=1.6)
            face = color if difference.excludes_zero else "white"
            marker = "s" if effect.check else "D" if effect.control else "o"
            if effect.check and math.isfinite(difference.low):
                axes.axvspan(difference.low, difference.high, color=GREY, alpha=0.18, linewidth=0, zorder=0)
            axes.plot(difference.mean, row, marker, color=color, markerfacecolor=face)
        axes.axvline(0, color=BLACK, linewidth=0.8)
        axes.set_yticks(range(len(effects)), names)
        axes.set_ylim(-0.6, len(effects) - 0.4)
        axes.set_xlabel(f"difference to the baseline in {effects[0].metric}{unit}")
    return figure


def draw_interactions(design: Factorial, *, label: str) -> Figure:
    """A panel for each of the first three pairs of factors: the first factor along the axis, one line for each level of
    the second. A point is the mean over the cells with both levels, its bar the mean half-width of their intervals."""
    from itertools import combinations

    with style():
        pairs = list(combinations(design.factors, 2))[:PANELS] or [(next(iter(design.factors)),) * 2]
        figure, axes_N = panels(len(pairs), width=min(6.3, 2.1 + 2.1 * len(pairs)), height=3.0)
        for axes, (along, across) in zip(axes_N, pairs, strict=True):
            lines = design.factors[across] if along != across else ("",)
            drawn_as = zip(lines, arm_styles(len(lines)), shifts(len(lines)), strict=True)
            for level, (color, line, marker), shift in drawn_as:
                means, halves = [], []
                for place in design.factors[along]:
                    cells = [
                        cell.value
                        for cell in design.cells
                        if cell.levels[along] == place and (not level or cell.levels[across] == level)
                    ]
                    means.append(float(np.mean([value.mean for value in cells])))
                    halves.append(float(np.mean([value.high - value.mean for value in cells])))
                places = np.arange(len(means)) + shift
                axes.errorbar(
                    places, means, yerr=halves, color=color, linestyle=line, marker=marker, markersize=5, capsize=3,
                    label=f"{short_name(across)} = {short_name(level, limit=14)}" if level else None,
                )  # fmt: skip
            axes.set_xticks(range(len(design.factors[along])), [short_name(v, limit=14) for v in design.factors[along]])
            axes.set_xlim(-0.4, len(design.factors[along]) - 0.6)
            axes.set_xlabel(along)
            axes.set_ylabel(label if axes is axes_N[0] else "")
            legend_above(axes, columns=1)
    return figure


def draw_pair(
    dimensions: tuple[Dimension, Dimension],
    *,
    points: tuple[Sequence[Value], Sequence[Value]],
    values: Sequence[float],
    label: str,
    sign: float,
) -> Figure:
    """Trials over two parameters; a better trial is darker. `sign`: 1 where less is better, -1 where more is."""
    with style():
        figure, axes = one_panel(width=4.9, height=3.6)
        x, y = (
            [axis_position(dimension, value) for value in column]
            for dimension, column in zip(dimensions, points, strict=True)
        )
        # The better half of the trials gets half of the colours: otherwise a few bad trials take most of them.
        low, middle, high = np.quantile(values, [0, 0.5, 1.0])
        limits = (low, 2 * middle - low) if sign > 0 else (2 * middle - high, high)
        drawn = axes.scatter(
            x, y, c=values, s=30, cmap="cividis" if sign > 0 else "cividis_r", vmin=limits[0], vmax=limits[1] or None,
            edgecolor=BLACK, linewidth=0.4, rasterized=len(x) > MANY,
        )  # fmt: skip
        best = int(np.argmin(sign * np.asarray(values)))
        axes.plot(x[best], y[best], "*", color="white", markeredgecolor=BLACK, markersize=13)
        for axis, dimension in zip("xy", dimensions, strict=True):
            scale_axis(axes, dimension, axis=axis)
        axes.set_xlabel(dimensions[0].key)
        axes.set_ylabel(dimensions[1].key)
        figure.colorbar(drawn, ax=axes, label=label, extend="max" if sign > 0 else "min")
    return figure


def draw_pareto(points: Sequence[tuple[float, float]], *, front: Sequence[bool], labels: tuple[str, str]) -> Figure:
    """Two objectives against each other. The points of the front are filled and joined by a line."""
    with style():
        figure, axes = one_panel(width=4.4, height=3.2)
        on = sorted(point for point, chosen in zip(points, front, strict=True) if chosen)
        off = [point for point, chosen in zip(points, front, strict=True) if not chosen]
        if off:
            axes.scatter(
                *zip(*off, strict=True),
                s=26,
                facecolor="none",
                edgecolor=GREY,
                label="beaten",
                rasterized=len(off) > MANY,
            )
        axes.plot(*zip(*on, strict=True), "o-", color=BLUE, linewidth=1.0, markersize=5.5, label="Pareto set")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        legend_above(axes, columns=2)
    return figure
