"""Figures of the scores of each class, and of single scalars, in the course of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmseol.analysis.figures.distributions import WIDTH, legend_columns
from mmseol.analysis.figures.style import PALETTE, class_styles, loss_styles, new_figure, order_by_count
from mmseol.metrics.scores import GROUPS, groups_by_terciles

__all__ = ["class_curve_figure", "scalar_figure"]


def class_curve_figure(
    steps: Sequence[float],
    scores: ArrayLike,
    class_names: Sequence[str],
    counts: ArrayLike | None = None,
    score: str = "IoU",
    step_name: str = "epoch",
    title: str = "",
) -> Any:
    """Return a figure of the score of each class over the epochs or iterations of a run.

    The legend names the classes from the most to the least frequent. A missing score interrupts a line; a
    class without any score is listed as such. Of more classes than the palette has colours, the lines are
    coloured from the most (dark) to the least (bright) frequent, and the means of the thirds by count are
    drawn instead of a legend of all.

    >>> figure = class_curve_figure([1, 2], [[80, 10], [90, None]], ["road", "car"], counts=[900, 10])
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['road', 'car']

    Args:
        steps: Epochs or iterations of the validations, (E,).
        scores: Scores in per cent, (E, K); NaN or ``None`` where there is none.
        class_names: Names of the K classes.
        counts: Training samples or pixels of each class, (K,); ``None`` keeps the order of the classes.
        score: Name of the score.
        step_name: What ``steps`` are.
        title: Text above.

    Raises:
        ValueError: If shapes do not fit, or there is no validation.
    """
    values = np.array(scores, dtype=np.float64)
    classes = len(class_names)
    if not len(steps) or values.shape != (len(steps), classes):
        raise ValueError(
            f"`scores` must be of shape ({len(steps)}, {classes}) with at least one validation, got "
            f"{np.shape(scores)}."
        )
    weights = np.arange(classes, 0, -1) if counts is None else np.asarray(counts)
    if weights.shape != (classes,):
        raise ValueError(f"`counts` must be of shape ({classes},), got {weights.shape}.")
    styles = class_styles(weights)
    many = classes > len(PALETTE)
    with new_figure(WIDTH, 3.2) as figure:
        panel = figure.subplots()
        marker = 4 if len(steps) <= 30 else 0
        for k in order_by_count(weights).tolist():
            known = np.isfinite(values[:, k]).any()
            style = {**styles[k], "linewidth": 1.4, "markersize": marker}
            style["label"] = class_names[k] + ("" if known else " (no score)")
            if many:
                style |= {"alpha": 0.35, "linewidth": 0.8, "marker": None, "label": None}
            panel.plot(steps, values[:, k], **style)
        if many:
            _draw_groups(panel, steps, values, weights)
        _finish(panel, step_name, f"{score}, per cent", title)
        figure.legend(loc="outside right upper")
    return figure


def _draw_groups(panel: Any, steps: Sequence[float], values: Any, weights: Any) -> None:
    """Draw the means of the thirds of the classes by count."""
    groups = groups_by_terciles(weights)
    for number, group in enumerate(GROUPS):
        own = values[:, groups == group]
        known = np.isfinite(own).sum(axis=1)
        means = np.divide(np.nansum(own, axis=1), known, out=np.full(len(own), np.nan), where=known > 0)
        label = f"{group}, mean of {own.shape[1]}"
        panel.plot(steps, means, color=PALETTE[number], linewidth=2.2, label=label)


def scalar_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    name: str,
    step_name: str = "iteration",
    title: str = "",
    logarithmic: bool = False,
) -> Any:
    """Return a figure of one scalar, one line per run, with markers where there are few values.

    >>> figure = scalar_figure({"ce": ([1, 2], [0.9, 0.4])}, "loss")
    >>> figure.axes[0].get_ylabel()
    'loss'

    Args:
        curves: Steps and values of each run, by its name.
        name: Name of the scalar.
        step_name: What the steps are.
        title: Text above.
        logarithmic: Whether the axis of the scalar is.

    Raises:
        ValueError: If there is no value.
    """
    if not any(len(steps) for steps, _ in curves.values()):
        raise ValueError(f"`curves` must have a value of {name!r}, got none.")
    marker = 4 if max(len(steps) for steps, _ in curves.values()) <= 40 else 0
    with new_figure(WIDTH, 2.6) as figure:
        panel = figure.subplots()
        for (run, (steps, values)), style in zip(
            curves.items(), loss_styles(list(curves)).values(), strict=True
        ):
            panel.plot(steps, values, **style, markersize=marker, linewidth=1.3, label=run)
        if logarithmic:
            panel.set_yscale("log")
            _plain_ticks(panel.yaxis, [value for _, values in curves.values() for value in values])
        _finish(panel, step_name, name, title)
        if len(curves) > 1:
            figure.legend(loc="outside upper center", ncols=legend_columns(list(curves)))
    return figure


def _plain_ticks(axis: Any, values: Sequence[float]) -> None:
    """Write ticks of a logarithmic axis as decimal numbers, and those between if there are few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    few = max(values) < 30 * min(values)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _finish(panel: Any, along: str, up: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(alpha=0.3, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.set_xlabel(along)
    panel.set_ylabel(up)
    if title:
        panel.set_title(title)
