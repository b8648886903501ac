"""Figure of a confusion matrix, in per cent of the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmseol.analysis.figures.distributions import NAMED_CLASSES
from mmseol.analysis.figures.style import GAP, new_figure, order_by_count
from mmseol.metrics.scores import score_classes

__all__ = ["confusion_figure"]

_WRITTEN = 20  # of more classes, no numbers are written into the cells


def confusion_figure(
    confusion: ArrayLike,
    class_names: Sequence[str],
    counts: ArrayLike | None = None,
    title: str = "",
) -> Any:
    """Return a figure of a confusion matrix whose rows, the truth, add up to 100 per cent.

    The row of a class that the truth lacks is grey and says so.

    >>> figure = confusion_figure([[8, 2, 0], [0, 5, 0], [0, 0, 0]], ["road", "car", "pole"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['80', '20', '0', '0', '100', '0', 'not in the truth']

    Args:
        confusion: Elements by true class (row) and predicted class (column), (K, K).
        class_names: Names of the K classes.
        counts: Training samples of each class, (K,), to sort the classes by; ``None`` keeps their order.
        title: Text above.

    Raises:
        ValueError: If the matrix is not of whole numbers of shape (K, K), or the counts are not K.
    """
    truth = score_classes(confusion).truth  # checks the matrix
    matrix, classes = np.asarray(confusion), len(class_names)
    if matrix.shape != (classes, classes):
        raise ValueError(
            f"`confusion` must be of shape ({classes}, {classes}) as `class_names`, got {matrix.shape}."
        )
    order = np.arange(classes)
    if counts is not None:
        if np.shape(counts) != (classes,):
            raise ValueError(f"`counts` must be of shape ({classes},), got {np.shape(counts)}.")
        order = order_by_count(counts)
    truth = truth[order]
    cells = np.full((classes, classes), np.nan)
    seen = truth > 0
    cells[seen] = 100 * matrix[order][:, order][seen] / truth[seen, None]
    side = float(np.clip(0.36 * classes, 2.2, 6.2))
    with new_figure(side + 1.8, side + 1.2) as figure:
        panel = figure.subplots()
        panel.set_facecolor(GAP)
        image = panel.imshow(cells, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        figure.colorbar(image, ax=panel, label="per cent of the truth", fraction=0.05, pad=0.02)
        if classes <= _WRITTEN:
            for row, column in np.argwhere(np.isfinite(cells)):
                value = cells[row, column]
                color = "white" if value > 55 else "black"
                text = "<1" if 0 < value < 0.5 else f"{value:.0f}"
                panel.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        for row in np.flatnonzero(~seen).tolist():
            panel.text(
                (classes - 1) / 2,
                row,
                "not in the truth",
                ha="center",
                va="center",
                fontsize=7,
                color="white",
            )
        if classes <= NAMED_CLASSES:
            names = [class_names[k] for k in order.tolist()]
            panel.set_xticks(np.arange(classes), names, rotation=45, ha="right", rotation_mode="anchor")
            panel.set_yticks(np.arange(classes), names)
        panel.set_xlabel("predicted" + (", by training count" if counts is not None else ""))
        panel.set_ylabel("truth")
        panel.spines[:].set_visible(False)
        if title:
            panel.set_title(title)
    return figure
