"""The pictures of a report, drawn without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rcsd_jax.report.records import Column, Comparison, MethodResult, Row

# Okabe and Ito's colours, told apart by everybody; after them the line style changes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_STYLES = ("-", "--", ":", "-.")
_RC = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def accuracy_chart(comparison: Comparison) -> bytes:
    """A PNG: one panel for each rate of the table, one dot with its interval a method, ceilings as dashed lines."""
    columns = [column for column in comparison.columns if column.is_rate]
    rows = list(comparison.methods)
    with matplotlib.rc_context(_RC):
        height = 1.2 + 0.34 * len(rows) + 0.2 * len(comparison.ceilings)
        figure = Figure(figsize=(2.2 + 2.6 * len(columns), height), layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for panel, column in zip(panels, columns, strict=True):
            _dots(panel, rows, comparison, column)
        panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
        return _png(figure)


def _dots(panel: Axes, rows: Sequence[Row], comparison: Comparison, column: Column) -> None:
    panel.set_title(f"{column.title} (%)", fontsize=11)
    panel.tick_params(axis="y", length=0)
    for at, row in enumerate(rows):
        cell = row.cell(column)
        if cell is None:
            continue
        reach = np.array([[cell.mean - cell.low], [cell.high - cell.mean]])
        colour, _ = _look(at)
        panel.errorbar(
            100 * cell.mean, at, xerr=100 * np.maximum(reach, 0), fmt="o", color=colour, capsize=3, markersize=6
        )
        if row.name == comparison.baseline:
            label = f"baseline: {row.name}"
            panel.axvline(100 * cell.mean, color="#888888", linewidth=1, zorder=1, label=label)
    for number, ceiling in enumerate(comparison.ceilings):
        cell = ceiling.cell(column)
        if cell is not None:
            style = _STYLES[1 + number % (len(_STYLES) - 1)]
            label = f"ceiling: {ceiling.name}"
            panel.axvline(100 * cell.mean, color="#444444", linewidth=1.2, linestyle=style, zorder=1, label=label)


def learning_curves(methods: Sequence[MethodResult], curves: Mapping[str, str]) -> bytes | None:
    """A PNG: one panel for each metric that some method has, one line a method; None where there is nothing to draw.

    Args:
      methods: in the order of the table, which gives them their colours; of several runs of one the mean is drawn.
      curves: metric name -> title of its panel.
    """
    runs = {method.name: [run for run in methods if run.name == method.name] for method in methods}
    shown = {key: title for key, title in curves.items() if any(_series(r, key)[0].size > 1 for r in runs.values())}
    if not shown:
        return None
    across = min(2, len(shown))
    down = math.ceil(len(shown) / across)
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(4.8 * across, 3.0 * down + 0.7), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, (key, title) in zip(panels, shown.items(), strict=False):
            _lines(panel, runs, key)
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("step")
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        handles = {label: line for p in panels for line, label in zip(*p.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
        return _png(figure)


def _lines(panel: Axes, runs: Mapping[str, Sequence[MethodResult]], key: str) -> None:
    drawn = []
    for at, (name, of_method) in enumerate(runs.items()):
        steps, values = _series(of_method, key)
        if steps.size > 1:
            colour, style = _look(at)
            smooth = _smooth(values)
            if steps.size > 30:
                panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            panel.plot(steps, smooth, color=colour, linestyle=style, linewidth=1.6, label=name)
            drawn.append(smooth)
    low, high = min(map(np.min, drawn)), max(map(np.max, drawn))
    if low > 0 and high / low > 30:
        panel.set_yscale("log")


def _series(runs: Sequence[MethodResult], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a metric: the mean over runs at the steps where it is finite in all of them."""
    each = [{row["step"]: row[key] for row in run.metrics if math.isfinite(row.get(key, math.nan))} for run in runs]
    steps = sorted(set.intersection(*map(set, each)))
    return np.array(steps, np.float64), np.array([np.mean([of[step] for of in each]) for step in steps], np.float64)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving mean over a twentieth of the run (no padding: the window shrinks at the ends)."""
    half = values.size // 40
    if half == 0:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(values.size) - half, 0)
    high = np.minimum(np.arange(values.size) + half + 1, values.size)
    return (total[high] - total[low]) / (high - low)


def _look(at: int) -> tuple[str, str]:
    """Colour and line style of the method at this place of the table."""
    return _COLOURS[at % len(_COLOURS)], _STYLES[at // len(_COLOURS) % len(_STYLES)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
