"""Figure of the samples or pixels of each class, as Figure 5 of the paper, with measures of the imbalance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmseol.analysis.figures.style import PALETTE, new_figure, order_by_count
from mmseol.counting.counts import ClassCounts, check_counts
from mmseol.counting.skew import gini, imbalance_ratio, tail_fraction
from mmseol.utils.arrays import IntArray

__all__ = ["NAMED_CLASSES", "WIDTH", "distribution_figure", "imbalance_rows", "legend_columns", "short_count"]

NAMED_CLASSES = 40
"""Of more classes, figures do not write the names."""

WIDTH = 4.8
"""Inches: texts are legible where a telephone shows the whole figure."""


def imbalance_rows(sets: Mapping[str, ClassCounts | Sequence[int]]) -> list[dict[str, Any]]:
    """Return the measures of the imbalance of each set of counts.

    ``gini`` is that of the samples (pixels in segmentation), ``gini_images`` that of the images in which each
    class occurs, ``None`` if they are the same; ``tail`` the per cent of the samples in the rarest third of
    the classes; ``empty`` the number of classes without a sample.

    >>> rows = imbalance_rows({"train": [90, 30, 10]})
    >>> rows[0]["ratio"], round(rows[0]["gini"], 2), rows[0]["gini_images"], round(rows[0]["tail"], 1)
    (9.0, 0.41, None, 7.7)

    Args:
        sets: Counts of each split or data set, in the order of the classes.

    Raises:
        ValueError: If counts are invalid.
    """
    rows = []
    for name, counts in sets.items():
        samples, images = _samples(name, counts), None
        if isinstance(counts, ClassCounts) and not np.array_equal(counts.samples, counts.images):
            images = gini(counts.images)
        rows.append(
            {
                "set": name,
                "total": int(samples.sum()),
                "ratio": imbalance_ratio(samples),
                "gini": gini(samples),
                "gini_images": images,
                "tail": 100 * tail_fraction(samples),
                "empty": int((samples == 0).sum()),
            }
        )
    return rows


def distribution_figure(
    sets: Mapping[str, ClassCounts | Sequence[int]],
    class_names: Sequence[str],
    unit: str = "samples",
    title: str = "",
) -> Any:
    """Return a figure of the counts of each class, on a linear and on a logarithmic axis.

    Classes are in the order of the counts of the first set. A class without a sample has no bar, and is
    marked 0. Of more than :data:`NAMED_CLASSES` classes the figure has curves over the rank, without names.

    >>> figure = distribution_figure({"train": [90, 10, 0]}, ["road", "car", "pole"], unit="pixels")
    >>> [axis.get_xscale() for axis in figure.axes]
    ['linear', 'log']

    Args:
        sets: Counts of each split or data set: :class:`ClassCounts`, or samples per class (K,).
        class_names: Names of the K classes.
        unit: What is counted.
        title: Text above.

    Raises:
        ValueError: If there is no set, or its counts are not one per name.
    """
    if not sets:
        raise ValueError("`sets` must have at least one set of counts, got none.")
    classes = len(class_names)
    samples = {name: _samples(name, counts, classes) for name, counts in sets.items()}
    measures = [_measures(row) for row in imbalance_rows(sets)]
    order = order_by_count(next(iter(samples.values())))
    named = classes <= NAMED_CLASSES
    bars = 0.24 if len(samples) == 1 else 0.12 + 0.11 * len(samples)
    height = 1.1 + 0.17 * len(measures) + (bars * classes if named else 2.6)
    with new_figure(WIDTH, height + (0.25 if title else 0)) as figure:
        panels = figure.subplots(1, 2, sharey=named)
        for panel, scale in zip(panels, ("linear", "log"), strict=True):
            (_bars if named else _curves)(
                panel, {name: counts[order] for name, counts in samples.items()}, scale
            )
            along = panel.xaxis if named else panel.yaxis
            along.grid(alpha=0.3, linewidth=0.6)
            panel.set_axisbelow(True)
            setter = panel.set_xlabel if named else panel.set_ylabel
            setter(unit if scale == "linear" else f"{unit}, logarithmic")
        if named:
            panels[0].set_yticks(np.arange(classes), [class_names[k] for k in order])
            panels[0].set_ylim(classes - 0.5, -0.5)
        if len(samples) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            columns = legend_columns(labels)
            figure.legend(handles, labels, title=title, loc="outside upper center", ncols=columns)
        elif title:
            figure.suptitle(title, fontsize=10)
        figure.supxlabel("\n".join(measures), fontsize=8)
    return figure


def _samples(name: str, counts: ClassCounts | Sequence[int], classes: int | None = None) -> IntArray:
    array = counts.samples if isinstance(counts, ClassCounts) else counts
    return check_counts(array, classes, name=f"sets[{name!r}]")


def _measures(row: Mapping[str, Any]) -> str:
    """Return the measures as one line of text."""
    ratio = "infinite" if np.isinf(row["ratio"]) else f"{row['ratio']:.3g}"
    parts = [f"{row['set']}: ratio {ratio}", f"Gini {row['gini']:.2f}"]
    parts += [] if row["gini_images"] is None else [f"by image {row['gini_images']:.2f}"]
    parts += [f"rarest third {row['tail']:.2g} %"]
    parts += [f"{row['empty']} without a sample"] if row["empty"] else []
    return ", ".join(parts)


def _bars(panel: Any, samples: Mapping[str, IntArray], scale: str) -> None:
    thick = 0.8 / len(samples)
    most = max(int(counts.max()) for counts in samples.values())
    least = min(int(counts[counts > 0].min()) for counts in samples.values())
    panel.set_xscale(scale)
    panel.set_xlim((0, most * 1.02) if scale == "linear" else (least / 3, most * 3))
    for number, (name, counts) in enumerate(samples.items()):
        at = np.arange(len(counts)) + (number - (len(samples) - 1) / 2) * thick
        panel.barh(at, counts, thick * 0.92, color=PALETTE[number % len(PALETTE)], label=name)
        for place in np.flatnonzero(counts == 0).tolist():
            low = panel.get_xlim()[0] if scale == "log" else 0
            panel.text(low, at[place], " 0", va="center", fontsize=7)
    if scale == "linear":
        panel.xaxis.set_major_locator(_few_ticks())
        panel.xaxis.set_major_formatter(lambda value, _: short_count(value))
    else:
        _decades(panel.xaxis)


def _curves(panel: Any, samples: Mapping[str, IntArray], scale: str) -> None:
    panel.set_yscale(scale)
    for number, (name, counts) in enumerate(samples.items()):
        color = PALETTE[number % len(PALETTE)]
        ranks = np.arange(1, len(counts) + 1)
        panel.plot(
            ranks, np.where(counts > 0, counts, np.nan), color=color, label=name, drawstyle="steps-mid"
        )
        if scale == "linear" and len(samples) == 1:
            panel.fill_between(ranks, counts, color=color, alpha=0.25, step="mid", linewidth=0)
        if (counts == 0).any():
            share = number * 0.09
            panel.text(
                0.98,
                0.95 - share,
                f"{int((counts == 0).sum())} classes with 0",
                transform=panel.transAxes,
                ha="right",
                fontsize=7,
                color=color,
            )
    panel.set_xlabel(f"class by count, of {len(counts)}")
    if scale == "linear":
        panel.yaxis.set_major_formatter(lambda value, _: short_count(value))
    else:
        _decades(panel.yaxis)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=4)


def _decades(axis: Any) -> None:
    """Write powers of ten as short numbers, at most six of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(lambda value, _: short_count(value))
    axis.set_minor_formatter(NullFormatter())


def short_count(value: float) -> str:
    """Return a count in at most about four characters.

    >>> [short_count(n) for n in (0, 950, 1500, 185_000, 20_076_880, 3e9)]
    ['0', '950', '1.5k', '185k', '20M', '3G']
    """
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.{0 if value >= 10 * unit else 1}f}".removesuffix(".0") + name
    return f"{value:g}"


def legend_columns(labels: Sequence[str], width: float = WIDTH) -> int:
    """Return how many columns of a legend fit into a figure.

    >>> legend_columns(["train", "validation"]), legend_columns(["weighted_ce_inverse_frequency"] * 6)
    (2, 1)

    Args:
        width: Inches.
    """
    longest = max(map(len, labels), default=1)
    return max(1, min(len(labels), int(width / (0.55 + 0.072 * longest))))
