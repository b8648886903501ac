"""Figure of the score of each class against its training count, one line per loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.analysis.figures.distributions import NAMED_CLASSES, WIDTH, legend_columns, short_count
from mmseol.analysis.figures.style import GAP, loss_styles, new_figure, order_by_count
from mmseol.counting.counts import check_counts
from mmseol.utils.arrays import FloatArray

__all__ = ["score_count_figure"]

_BINS = 10  # of more classes than have room for their names


def score_count_figure(
    counts: ArrayLike,
    scores: Mapping[str, ArrayLike],
    class_names: Sequence[str],
    score: str = "IoU",
    unit: str = "samples",
    title: str = "",
) -> Any:
    """Return a figure of the scores of each class, from the most to the least frequent, one line per loss.

    The line is the mean over seeds, the band one standard deviation to each side, if a loss has several
    seeds. A class that no loss has a score of is marked "no score"; one that a loss has none of interrupts
    its line. Of more than 40 classes, the classes are cut by count into ten groups of equal size, and their
    means are drawn.

    >>> scores = {"ce": [[90, 40, 0], [92, 44, 2]], "outlying_mse": [[88, 50, None]]}
    >>> figure = score_count_figure([9000, 800, 50], scores, ["road", "car", "pole"])
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['road (9k)', 'car (800)', 'pole (50)']

    Args:
        counts: Training samples or pixels of each class, (K,).
        scores: Scores in per cent of each loss, (seeds, K) or (K,); NaN or ``None`` where there is none.
        class_names: Names of the K classes.
        score: Name of the score.
        unit: What is counted.
        title: Text above.

    Raises:
        ValueError: If shapes do not fit, or no loss has a score.
    """
    samples: NDArray[Any] = check_counts(counts, len(class_names), name="counts")
    order = order_by_count(samples)
    values = {name: _per_class(name, value, len(samples))[:, order] for name, value in scores.items()}
    if not values or not any(np.isfinite(value).any() for value in values.values()):
        raise ValueError("`scores` must have a loss with at least one score, got none.")
    samples, names = samples[order], [class_names[k] for k in order]
    if len(names) > NAMED_CLASSES:
        samples, names, values = _in_bins(samples, values)
        axis_label = f"ranks of the classes by count (mean {unit} in training)"
    else:
        axis_label = f"class ({unit} in training)"
    labels = [f"{name} ({short_count(count)})" for name, count in zip(names, samples, strict=True)]
    width = max(WIDTH, 1.2 + 0.27 * len(labels))
    columns = legend_columns([_label(name, value) for name, value in values.items()], width)
    with new_figure(width, 3.3 + 0.16 * -(-len(values) // columns)) as figure:
        panel = figure.subplots()
        _draw_lines(panel, values, len(values) == 1)
        panel.set_xticks(np.arange(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
        panel.set_xlim(-0.5, len(labels) - 0.5)
        panel.set_ylim(-3, max(103.0, *(float(np.nanmax(value, initial=0)) for value in values.values())))
        missing = ~np.any([np.isfinite(value).any(axis=0) for value in values.values()], axis=0)
        for place in np.flatnonzero(missing).tolist():
            panel.text(
                place, 1, "no score", rotation=90, ha="center", va="bottom", fontsize=7, color="#555555"
            )
            panel.axvspan(place - 0.5, place + 0.5, color=GAP, alpha=0.18, linewidth=0)
        panel.grid(alpha=0.3, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.set_xlabel(axis_label)
        panel.set_ylabel(f"{score}, per cent")
        if title:
            panel.set_title(title)
        figure.legend(loc="outside upper center", ncols=columns)
    return figure


def _draw_lines(panel: Any, values: Mapping[str, FloatArray], alone: bool) -> None:
    styles = loss_styles(list(values))
    shift = np.linspace(-0.12, 0.12, len(values)) if not alone else [0.0]
    for (name, value), by in zip(values.items(), shift, strict=True):
        at = np.arange(value.shape[1]) + by  # dots and bars of several losses lie side by side
        mean, spread = _mean_and_spread(value)
        style = styles[name]
        panel.plot(at, mean, **style, markersize=4, linewidth=1.3, label=_label(name, value))
        if len(value) > 1:
            panel.errorbar(at, mean, spread, fmt="none", ecolor=style["color"], elinewidth=1, capsize=2)
            panel.plot(at, value.T, ".", color=style["color"], alpha=0.35, markersize=4)


def _mean_and_spread(value: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean over the seeds that have a score, and their standard deviation, 0 of one seed."""
    number = np.isfinite(value).sum(axis=0)
    total = np.nansum(value, axis=0)
    mean = np.divide(total, number, out=np.full(len(total), np.nan), where=number > 0)
    squares = np.nansum((value - mean) ** 2, axis=0)
    return mean, np.sqrt(np.divide(squares, number - 1, out=np.zeros(len(mean)), where=number > 1))


def _label(name: str, value: FloatArray) -> str:
    return f"{name} ({len(value)} seeds)" if len(value) > 1 else name


def _per_class(name: str, value: ArrayLike, classes: int) -> FloatArray:
    try:
        array = np.atleast_2d(np.array(value, dtype=np.float64))
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim != 2 or array.shape[1] != classes or not len(array):
        raise ValueError(
            f"`scores[{name!r}]` must have one number or None per class, of shape (seeds, {classes}), got "
            f"{repr(value)[:80]}."
        )
    if np.isinf(array).any():
        raise ValueError(f"`scores[{name!r}]` must be finite or missing, got an infinite score.")
    return array


def _in_bins(
    samples: NDArray[Any], values: Mapping[str, FloatArray]
) -> tuple[FloatArray, list[str], dict[str, FloatArray]]:
    """Return the mean count, the ranks, and the mean scores of ten groups of the sorted classes."""
    groups = np.array_split(np.arange(len(samples)), _BINS)
    means = {
        name: np.stack([_mean_and_spread(value[:, group].T)[0] for group in groups], axis=1)
        for name, value in values.items()
    }
    names = [f"{group[0] + 1} to {group[-1] + 1}" for group in groups]
    return np.array([samples[group].mean() for group in groups]).round(), names, means
