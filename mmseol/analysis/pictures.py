"""Pictures of label maps: laid over their image, and side by side for several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.utils.files import replacing

__all__ = ["comparison_grid", "overlay"]

NEUTRAL = (255, 255, 255)
"""RGB of void: white, which is no class's colour in the usual palettes."""


def _check_palette(palette: ArrayLike) -> NDArray[np.uint8]:
    colors = np.asarray(palette)
    if colors.ndim != 2 or colors.shape[1] != 3 or colors.min() < 0 or colors.max() > 255:
        raise ValueError(
            f"`palette` must be RGB within 0..255 of shape (K, 3), got an array of shape {colors.shape}."
        )
    return colors.astype(np.uint8)


def overlay(
    image: NDArray[Any], label_map: NDArray[Any], palette: ArrayLike, alpha: float = 1.0
) -> NDArray[np.uint8]:
    """Return the label map in colours, laid over its image, uint8 of shape (H, W, 3).

    Args:
        image: RGB, 0..255, (H, W, 3).
        label_map: Whole numbers, (H, W); those outside 0..K-1 are void and become :data:`NEUTRAL`.
        palette: RGB of each class, 0..255, (K, 3).
        alpha: Share of the colours in the mix with the image: 1 is the label map alone.

    Raises:
        ValueError: If shapes do not fit or ``alpha`` lies outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie within 0..1, got {alpha!r}.")
    image, label_map = np.asarray(image), np.asarray(label_map)
    if image.ndim != 3 or image.shape[2] != 3 or label_map.shape != image.shape[:2]:
        raise ValueError(
            f"`image` must be of shape (H, W, 3) and `label_map` of shape (H, W), got {image.shape} and "
            f"{label_map.shape}."
        )
    colors = np.concatenate([_check_palette(palette), np.array([NEUTRAL], np.uint8)])
    void = len(colors) - 1
    index = np.where((label_map >= 0) & (label_map < void), label_map, void).astype(np.int64)
    mixed = alpha * colors[index].astype(np.float64) + (1 - alpha) * image
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def comparison_grid(
    path: str | Path,
    images: Sequence[NDArray[Any]],
    truths: Sequence[NDArray[Any]],
    predictions: Mapping[str, Sequence[NDArray[Any]]],
    class_names: Sequence[str],
    palette: ArrayLike,
    alpha: float = 1.0,
    column_width: float = 2.4,
    dpi: int = 150,
) -> Path:
    """Save a PNG of images (rows) against image, ground truth and each method (columns), and a legend.

    Predictions are shown everywhere, also where the truth is void.

    Args:
        path: File to write, whole or not at all.
        images: RGB, 0..255, each (H, W, 3); sizes may differ from row to row.
        truths: Label maps, each (H, W); numbers outside 0..K-1 are void.
        predictions: Label maps (H, W) of each method, by the title of its column.
        class_names: Names of the K classes.
        palette: RGB of each class, 0..255, (K, 3).
        alpha: Share of the colours in the mix with the image.
        column_width: Width of a column in inches.
        dpi: Pixels per inch of the file.

    Returns:
        ``path``.

    Raises:
        FileExistsError: If ``path`` exists.
        ValueError: If numbers or shapes do not fit each other.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    path = Path(path)
    if path.exists():
        raise FileExistsError(f"`path` {str(path)!r} exists; name another file or remove it first.")
    colors = _check_palette(palette)
    lengths = {"images": len(images), "truths": len(truths)}
    lengths |= {f"predictions[{name!r}]": len(maps) for name, maps in predictions.items()}
    if not len(images) or len(set(lengths.values())) > 1:
        raise ValueError(f"`images`, `truths` and `predictions` must be equally many, got {lengths}.")
    if len(class_names) != len(colors):
        raise ValueError(
            f"`palette` must have {len(class_names)} colours as `class_names`, got {len(colors)}."
        )

    columns = ["image", "ground truth", *predictions]
    heights = [column_width * np.shape(image)[0] / np.shape(image)[1] for image in images]
    legend_columns = max(1, int(len(columns) * column_width / 1.25))
    legend = 0.12 + 0.22 * -(-(len(class_names) + 1) // legend_columns)
    size = column_width * len(columns), sum(heights) + 0.25 + legend
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(images),
        len(columns),
        squeeze=False,
        gridspec_kw={
            "height_ratios": heights,
            "left": 0.005,
            "right": 0.995,
            "top": 1 - 0.25 / size[1],
            "bottom": legend / size[1],
            "wspace": 0.02,
            "hspace": 0.02,
        },
    )
    for row, image in enumerate(images):
        maps = [truths[row], *(predictions[name][row] for name in predictions)]
        shown = [np.asarray(image, dtype=np.uint8), *(overlay(image, one, colors, alpha) for one in maps)]
        for column, picture in enumerate(shown):
            axis = axes[row][column]
            axis.imshow(picture, interpolation="nearest", aspect="auto")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(columns[column], fontsize=9, pad=3)
    entries = [
        Patch(facecolor=tuple(color / 255), edgecolor="0.4", linewidth=0.5, label=name)
        for color, name in zip([*colors, np.array(NEUTRAL)], [*class_names, "void (not scored)"], strict=True)
    ]
    figure.legend(handles=entries, loc="lower center", ncols=legend_columns, fontsize=8, frameon=False)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
    return path
