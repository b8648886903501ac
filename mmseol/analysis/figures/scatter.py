"""Embedded features of several losses side by side, as in Figures 3 and 6 to 8 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.analysis.figures.style import GAP, PALETTE, class_styles, new_figure, order_by_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "embedding_figure"]


class Panel(NamedTuple):
    """One loss: its points and how far the classes lie apart.

    >>> Panel("ce", np.zeros((2, 2)), np.array([0, 1]), None).title
    'ce'

    Args:
        title: Name of the loss.
        points: Places, (P, 2).
        label: Class of each point, (P,).
        measured: ``Separation`` of :mod:`mmseol.analysis.figures.embedding`; ``None`` leaves it out.
    """

    title: str
    points: NDArray[Any]
    label: NDArray[Any]
    measured: Any


def embedding_figure(
    panels: Sequence[Panel],
    classes: Sequence[str],
    counts: ArrayLike,
    unit: str = "training samples",
    note: str = "",
    columns: int = 3,
) -> Figure:
    """Return a figure with a panel for each loss; the legend lists the classes from frequent to rare.

    Every point is drawn in an order that mixes the classes, so that none hides the others.

    >>> panel = Panel("ce", np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1]), None)
    >>> figure = embedding_figure([panel], ["cat", "dog"], [90, 5])
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['cat  90', 'dog  5']

    Args:
        panels: Panels, from left to right.
        classes: Names of the K classes.
        counts: Count of each class, (K,), which orders and colours them.
        unit: What the counts are of.
        note: Small text below.
        columns: Panels in a row.

    Raises:
        ValueError: If there is no panel, or names and counts differ in number.
    """
    counts = np.asarray(counts)
    if not panels or len(classes) != len(counts):
        raise ValueError(
            f"`panels` must not be empty and `counts` be one for each class, got {len(panels)} panels, "
            f"{len(classes)} classes and {len(counts)} counts."
        )
    styles, order = class_styles(counts), order_by_count(counts)
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    with new_figure(3.3 * across + 1.9, 3.55 * down + 0.25) as figure:
        axes = figure.subplots(down, across, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes.flat, panels, strict=False):
            _draw(axis, panel, styles)
        present = set(np.concatenate([panel.label for panel in panels]).tolist())
        _legend(figure, classes, counts, styles, order, present, unit)
        if note:
            figure.supxlabel(note, fontsize=7, color="0.35")
    return figure


def _draw(axis: Any, panel: Panel, styles: Sequence[dict[str, Any]]) -> None:
    from matplotlib.colors import to_rgb

    mixed = np.random.default_rng(0).permutation(len(panel.label))
    size = float(np.clip(9000 / max(len(mixed), 1), 3, 20))
    colors = np.array([to_rgb(style["color"]) for style in styles])
    markers = np.array([style["marker"] for style in styles])
    for step in np.array_split(mixed, min(12, max(len(mixed), 1))):
        for marker in np.unique(markers[panel.label[step]]):  # each needs a call of its own
            own = step[markers[panel.label[step]] == marker]
            options: dict[str, Any] = {"c": colors[panel.label[own]], "marker": str(marker)}
            axis.scatter(*panel.points[own].T, s=size, linewidths=0, alpha=0.8, rasterized=True, **options)
    axis.set_title(panel.title)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_aspect("equal", adjustable="datalim")
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color("0.8")
    if panel.measured is not None:
        axis.set_xlabel(_numbers(panel.measured), fontsize=8)


def _numbers(measured: Any) -> str:
    if measured.silhouette is None:
        return "not measured: needs two samples of two classes"
    text = f"silhouette {measured.silhouette:.3f}\n"
    if measured.knn is None:
        return text + "15-NN accuracy not measured: one image"
    few = "" if measured.knn_few is None else f" (rarest third {measured.knn_few:.1f} %)"
    return text + f"15-NN accuracy {measured.knn:.1f} %{few}"


def _legend(
    figure: Any,
    classes: Sequence[str],
    counts: NDArray[Any],
    styles: Sequence[dict[str, Any]],
    order: NDArray[Any],
    present: set[int],
    unit: str,
) -> None:
    from matplotlib.lines import Line2D

    if len(classes) > len(PALETTE):  # neighbouring ranks cannot be told apart: show some
        order = order[np.linspace(0, len(order) - 1, 9).round().astype(int)]
    handles = []
    for k in order.tolist():
        text = f"{classes[k]}  {counts[k]:,}" + ("" if k in present else "  (none drawn)")
        color = styles[k]["color"] if k in present else GAP
        marker = styles[k]["marker"] if k in present else "x"
        handles.append(Line2D([], [], linestyle="", markersize=5, color=color, marker=marker, label=text))
    title = f"{unit}," + "\nfrequent to rare"
    figure.legend(handles=handles, loc="outside right center", title=title, title_fontsize=8)
