"""Predictions of several losses side by side: label maps with their errors, or images with their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.analysis.figures.style import PALETTE, loss_styles, new_figure, rgb
from mmseol.analysis.pictures import NEUTRAL, check_palette, overlay
from mmseol.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_figure", "comparison_grid", "error_map", "label_map_figure"]

_RIGHT, _WRONG = (235, 235, 235), (64, 64, 64)
_TITLE, _CAPTION, _LINE = 0.25, 0.17, 0.2  # inches: column titles, text below a row, a line of the legend


def error_map(
    truth: NDArray[Any], predictions: Mapping[str, NDArray[Any]], num_classes: int
) -> tuple[NDArray[np.uint8], dict[str, tuple[int, int, int]]]:
    """Return which predictions are right, as RGB (H, W, 3), and the meaning of its colours.

    One loss: right or wrong. Two: both, one or none of them right. More: how many are wrong. Void is white.

    >>> truth = np.array([[0, 1, 1, 9]])
    >>> maps = {"ce": np.array([[0, 0, 1, 0]]), "mse": np.array([[0, 1, 0, 0]])}
    >>> picture, meaning = error_map(truth, maps, num_classes=2)
    >>> list(meaning), picture[0, 3].tolist()
    (['both right', 'only ce right', 'only mse right', 'both wrong'], [255, 255, 255])

    Args:
        truth: Labels, (H, W); those outside 0..K-1 are void.
        predictions: Label maps (H, W) by the names of the losses.
        num_classes: K.
    """
    names = list(predictions)
    wrong = np.stack([np.asarray(one) != truth for one in predictions.values()]).astype(np.int64)
    if len(names) == 2:
        texts = ["both right", f"only {names[0]} right", f"only {names[1]} right", "both wrong"]
        both = [tuple(color) for color in rgb(list(loss_styles(names).values())).tolist()]
        colors, index = [_RIGHT, *both, _WRONG], wrong[1] + 2 * wrong[0]
    else:
        steps = np.linspace(_RIGHT, _WRONG, len(names) + 1).round().astype(int).tolist()
        colors, index = [tuple(step) for step in steps], wrong.sum(0)
        texts = ["all right", *(f"{n} wrong" for n in range(1, len(names))), "all wrong"]
        texts = ["right", "wrong"] if len(names) == 1 else texts
    picture = np.array(colors, np.uint8)[index]
    picture[(truth < 0) | (truth >= num_classes)] = NEUTRAL
    return picture, dict(zip(texts, colors, strict=True))


def label_map_figure(
    images: Sequence[NDArray[Any]],
    truths: Sequence[NDArray[Any]],
    predictions: Mapping[str, Sequence[NDArray[Any]]],
    class_names: Sequence[str],
    palette: ArrayLike,
    alpha: float = 1.0,
    column_width: float = 2.4,
    errors: bool = False,
    captions: Sequence[str] = (),
    order: Sequence[int] | None = None,
) -> Figure:
    """Return a figure with a row for each image: image, ground truth, prediction of each loss, errors.

    Predictions are also drawn where the truth is void.

    >>> image, labels = np.zeros((4, 4, 3)), np.eye(4, dtype=int)
    >>> palette = [[0, 0, 0], [200, 100, 0]]
    >>> figure = label_map_figure([image], [labels], {"ce": [labels]}, ["road", "car"], palette, errors=True)
    >>> [axis.get_title() for axis in figure.axes]
    ['image', 'ground truth', 'ce', 'errors']

    Args:
        images: RGB, 0..255, each (H, W, 3); sizes may differ from row to row.
        truths: Label maps, each (H, W); labels outside 0..K-1 are void.
        predictions: Label maps (H, W) of each loss, by its column title.
        class_names: Names of the K classes.
        palette: RGB of each class, 0..255, (K, 3).
        alpha: Weight of the label colours against the image.
        column_width: Width of a column in inches.
        errors: Add a column of :func:`error_map`.
        captions: Text below each row.
        order: Order of the classes in the legend.

    Raises:
        ValueError: If the numbers of images or the shapes differ.
    """
    colors = check_palette(palette)
    lengths = {"images": len(images), "truths": len(truths)}
    lengths |= {f"predictions[{name!r}]": len(maps) for name, maps in predictions.items()}
    lengths |= {"captions": len(captions)} if captions else {}
    if not len(images) or len(set(lengths.values())) > 1:
        raise ValueError(
            f"`images`, `truths` and `predictions` must have equal numbers of items, got {lengths}."
        )
    if len(class_names) != len(colors):
        raise ValueError(
            f"`palette` must have {len(class_names)} colours, one for each of `class_names`, got "
            f"{len(colors)}."
        )
    rows: list[Sequence[NDArray[Any]]] = []
    meaning: dict[str, tuple[int, int, int]] = {}
    for row, image in enumerate(images):
        maps = {name: np.asarray(several[row]) for name, several in predictions.items()}
        shown = [np.asarray(image, dtype=np.uint8)]
        shown += [overlay(image, one, colors, alpha) for one in (np.asarray(truths[row]), *maps.values())]
        if errors:
            picture, meaning = error_map(np.asarray(truths[row]), maps, len(colors))
            shown.append(picture)
        rows.append(shown)
    titles = ["image", "ground truth", *predictions, *(["errors"] if errors else [])]
    listed = range(len(colors)) if order is None else order
    legends = [[(class_names[k], tuple(colors[k])) for k in listed]]
    legends[0].append(("void (not scored)", NEUTRAL))
    legends += [[(f"errors: {text}", color) for text, color in meaning.items()]] if errors else []
    return _grid(rows, titles, legends, list(captions), column_width)


def _grid(
    rows: Sequence[Sequence[NDArray[Any]]],
    titles: Sequence[str],
    legends: Sequence[Sequence[tuple[str, Any]]],
    captions: Sequence[str],
    column_width: float,
) -> Figure:
    """Lay pictures out by inches: titles, rows with captions, legends."""
    gap, caption = 0.02 * column_width, _CAPTION if captions else 0.0
    heights = [column_width * np.shape(shown[0])[0] / np.shape(shown[0])[1] for shown in rows]
    width = column_width * len(titles)
    spaces = [_legend_size(entries, width) for entries in legends]
    below = 0.1 + sum(_LINE * lines for _, lines in spaces)
    height = _TITLE + sum(heights) + (gap + caption) * len(rows) + below
    with new_figure(width, height, layout="none") as figure:
        top = height - _TITLE
        for row, shown in enumerate(rows):
            bottom = top - heights[row]
            for column, picture in enumerate(shown):
                place = (column * column_width + gap / 2, bottom, column_width - gap, heights[row])
                axis = figure.add_axes(_relative(place, width, height))
                axis.imshow(picture, interpolation="nearest", aspect="auto")
                axis.set_axis_off()
                if row == 0:
                    axis.set_title(titles[column], fontsize=9, pad=3)
            if captions:
                place_of_text = gap / width, (bottom - 0.02) / height
                figure.text(*place_of_text, captions[row], fontsize=8, va="top")
            top = bottom - gap - caption
        top = below - 0.05
        for entries, (columns, lines) in zip(legends, spaces, strict=True):
            _add_legend(figure, entries, columns, top / height)
            top -= _LINE * lines
    return figure


def _relative(place: Sequence[float], width: float, height: float) -> tuple[float, float, float, float]:
    left, bottom, wide, high = place
    return left / width, bottom / height, wide / width, high / height


def _legend_size(entries: Sequence[tuple[str, Any]], width: float) -> tuple[int, int]:
    """Return the columns and the lines of a legend."""
    widest = 0.45 + 0.058 * max(len(text) for text, _ in entries)
    columns = max(1, min(len(entries), int(width / widest)))
    return columns, -(-len(entries) // columns)


def _add_legend(figure: Any, entries: Sequence[tuple[str, Any]], columns: int, top: float) -> None:
    from matplotlib.patches import Patch

    edge: Any = {"edgecolor": "0.4", "linewidth": 0.5}
    handles = [Patch(facecolor=tuple(np.divide(color, 255)), label=text, **edge) for text, color in entries]
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, top), "borderaxespad": 0, "borderpad": 0}
    figure.legend(handles=handles, ncols=columns, fontsize=8, **place)


def class_figure(
    images: Sequence[NDArray[Any]],
    truths: Sequence[str],
    predictions: Mapping[str, Sequence[str]],
    columns: int = 6,
    note: str = "",
) -> Figure:
    """Return a grid of images, each with its class and the class that each loss predicts.

    >>> figure = class_figure([np.zeros((8, 8, 3))], ["cat"], {"ce": ["dog"], "mse": ["cat"]})
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['cat', '\u2717 ce: dog', '\u2713 mse: cat']

    Args:
        images: RGB, 0..255, each (H, W, 3).
        truths: Class of each.
        predictions: Predicted class of each, by the names of the losses.
        columns: Images in a row.
        note: Small text below.

    Raises:
        ValueError: If the numbers of items differ.
    """
    lengths = {len(images), len(truths), *map(len, predictions.values())}
    if len(lengths) > 1 or not len(images):
        raise ValueError(
            f"`images`, `truths` and `predictions` must have equal numbers of items, got {sorted(lengths)}."
        )
    across = min(columns, len(images))
    down = -(-len(images) // across)
    lines = 1 + len(predictions)
    widest = max(len(f"x {name}: {label}") for name, labels in predictions.items() for label in labels)
    width = max(1.3, 0.075 * widest)
    height = width + _CAPTION * lines
    with new_figure(width * across, height * down + 0.2, layout="none") as figure:
        total = height * down + 0.2
        for number, image in enumerate(images):
            row, column = divmod(number, across)
            bottom = total - row * height - width
            place = (column * width + 0.06, bottom + 0.04, width - 0.12, width - 0.12)
            axis = figure.add_axes(_relative(place, width * across, total))
            axis.imshow(np.asarray(image, dtype=np.uint8), interpolation="nearest")
            axis.set_axis_off()
            texts = [(truths[number], "black", "bold")]
            for name, labels in predictions.items():
                right = labels[number] == truths[number]
                color, mark = (PALETTE[0], "\u2713") if right else (PALETTE[1], "\u2717")
                texts.append((f"{mark} {name}: {labels[number]}", color, "normal"))
            for line, (text, color, weight) in enumerate(texts):
                down_by = -(0.04 + _CAPTION * line) / (width - 0.12)
                axis.text(
                    0,
                    down_by,
                    text,
                    color=color,
                    weight=weight,
                    fontsize=8,
                    va="top",
                    transform=axis.transAxes,
                )
        if note:
            figure.text(0.06 / (width * across), 0.05 / total, note, fontsize=7, color="0.35")
    return figure


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
    """Save a PNG with a row for each image: image, ground truth and prediction of each method; with a legend.

    Predictions are also drawn where the truth is void.

    >>> import tempfile
    >>> image, label_map = np.zeros((4, 4, 3)), np.eye(4, dtype=int)
    >>> path = Path(tempfile.mkdtemp()) / "grid.png"
    >>> palette = [[0, 0, 0], [200, 100, 0]]
    >>> comparison_grid(path, [image], [label_map], {"ce": [label_map]}, ["road", "car"], palette).name
    'grid.png'

    Args:
        path: File to write; an error leaves no file.
        images: RGB, 0..255, each (H, W, 3); sizes may differ from row to row.
        truths: Label maps, each (H, W); labels outside 0..K-1 are void.
        predictions: Label maps (H, W) of each method, by its column title.
        class_names: Names of the K classes.
        palette: RGB of each class, 0..255, (K, 3).
        alpha: Weight of the label colours against the image.
        column_width: Width of a column in inches.
        dpi: Pixels per inch of the file.

    Returns:
        ``path``.

    Raises:
        FileExistsError: If ``path`` exists.
        ValueError: If the numbers of images or the shapes differ.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"`path` {str(path)!r} exists; name another file or remove it first.")
    figure = label_map_figure(images, truths, predictions, class_names, palette, alpha, column_width)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
    return path
