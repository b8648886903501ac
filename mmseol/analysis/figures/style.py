"""The style of all figures: colours, order of the classes, fonts, files.

A function of this folder takes arrays, returns a figure of :func:`new_figure`, and leaves the file to
:func:`save_figure`. Losses get their colours from :func:`loss_styles`, classes from :func:`class_styles`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.utils.arrays import IntArray
from mmseol.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PALETTE",
    "check_picture",
    "class_styles",
    "loss_styles",
    "new_figure",
    "order_by_count",
    "rgb",
    "save_figure",
]

PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),  # of Okabe and Ito
    *("#502800", "#7800F0", "#282850", "#A0F078", "#F00050", "#F0C8C8"),
)
"""Colours that differ under normal vision and under each dichromacy as far as those of Okabe and Ito do."""

GAP = "#9A9A9A"
"""Colour of what is missing, as the text of a gap."""

SUFFIXES = (".png", ".pdf", ".svg")
_MARKERS = ("o", "^", "s", "D", "v", "P")
_LINES = ("-", "--", ":", "-.")
_OF_LOSS = ("ce", "outlying_mse", "mse", "focal", "balanced_softmax", "logit_adjusted", "ldam")
_FONTS: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
}


def order_by_count(counts: ArrayLike) -> IntArray:
    """Return the classes from the most to the least frequent, (K,); equal counts keep the classes' order.

    >>> order_by_count([5, 90, 5]).tolist()
    [1, 0, 2]
    """
    return np.argsort(-np.asarray(counts, dtype=np.float64), kind="stable")


def loss_styles(losses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the keywords of ``Axes.plot`` for each loss: a common loss has the same colour in every figure.

    >>> styles = loss_styles(["mse", "ce", "outlying_mse:alpha=1", "outlying_mse:alpha=6"])
    >>> styles["ce"]
    {'color': '#0072B2', 'linestyle': '-', 'marker': 'o'}
    >>> len({style["color"] for style in styles.values()})
    4

    Args:
        losses: Names as of ``--loss``, with or without arguments; a loss that is there twice counts once.
    """
    names = list(dict.fromkeys(losses))
    chosen: dict[str, int] = {}
    for name in names:
        base = name.partition(":")[0]
        if base in _OF_LOSS and _OF_LOSS.index(base) not in chosen.values():
            chosen[name] = _OF_LOSS.index(base)
    free = (number for number in range(len(PALETTE) * len(_LINES)) if number not in set(chosen.values()))
    for name in names:
        if name not in chosen:
            chosen[name] = next(free)
    return {name: _style(chosen[name]) for name in names}


def _style(number: int) -> dict[str, Any]:
    line, color = divmod(number, len(PALETTE))
    return {"color": PALETTE[color], "linestyle": _LINES[line % len(_LINES)], "marker": _MARKERS[color % 6]}


def class_styles(counts: ArrayLike) -> list[dict[str, Any]]:
    """Return ``color`` and ``marker`` of each class, in the order of the classes.

    Up to twelve classes have the colours of :data:`PALETTE` in the order of their counts; more have a scale
    from dark blue (most frequent) to yellow (rarest), as neighbouring ranks cannot be told apart.

    >>> [style["color"] for style in class_styles([5, 90])]
    ['#D55E00', '#0072B2']

    Args:
        counts: Training samples or pixels of each class, (K,).
    """
    order = order_by_count(counts)
    classes = len(order)
    styles: list[dict[str, Any]] = [{}] * classes
    for rank, k in enumerate(order):
        if classes <= len(PALETTE):
            styles[k] = {"color": PALETTE[rank], "marker": _MARKERS[rank % 6]}
        else:
            from matplotlib import colormaps

            styles[k] = {"color": colormaps["cividis"](rank / (classes - 1)), "marker": "o"}
    return styles


def rgb(styles: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """Return the colours of styles as RGB, 0..255, (K, 3): a palette for label maps.

    >>> rgb(class_styles([5, 90])).tolist()
    [[213, 94, 0], [0, 114, 178]]
    """
    from matplotlib.colors import to_rgb

    return np.round(255 * np.array([to_rgb(style["color"]) for style in styles])).astype(np.uint8)


@contextmanager
def new_figure(width: float, height: float, **options: Any) -> Iterator[Figure]:
    """Make a figure without a window; what is drawn within the block has the fonts of all figures.

    >>> with new_figure(6, 4) as figure:
    ...     axis = figure.subplots()
    >>> axis.title.get_fontsize()
    10.0

    Args:
        width: Inches.
        height: Inches.
        **options: Further keywords of ``matplotlib.figure.Figure``; ``layout`` is ``'constrained'``.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_FONTS):
        figure = Figure(figsize=(width, height), **{"layout": "constrained", **options})
        FigureCanvasAgg(figure)
        yield figure


def check_picture(argument: str, path: str | Path) -> Path:
    """Return the path of a picture that can be written.

    >>> check_picture("--out", "new.svg").name
    'new.svg'
    >>> check_picture("--out", "new.jpg")
    Traceback (most recent call last):
    ValueError: `--out` must end in .png, .pdf, .svg, got 'new.jpg'.

    Raises:
        ValueError: If its suffix is another, or the file exists.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"`{argument}` must end in {', '.join(SUFFIXES)}, got {str(path)!r}.")
    if path.exists():
        raise ValueError(f"`{argument}` {str(path)!r} exists; name another file or remove it first.")
    return path


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure whole, as PNG, PDF or SVG by the suffix; equal figures give equal files.

    >>> import tempfile
    >>> with new_figure(1, 1) as figure:
    ...     save_figure(figure, Path(tempfile.mkdtemp()) / "empty.png").name
    'empty.png'

    Args:
        figure: Figure of :func:`new_figure`.
        path: File to write; missing folders are made.
        dpi: Pixels per inch of a PNG and of the images within the others.

    Raises:
        ValueError: If the suffix is another, or the file exists.
    """
    from matplotlib import rc_context

    path = check_picture("path", path)
    kind = path.suffix[1:].lower()
    undated: Any = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with rc_context({**_FONTS, "svg.hashsalt": "mmseol"}), replacing(path) as file:
        smaller: Any = {"pil_kwargs": {"optimize": True}} if kind == "png" else {}
        figure.savefig(file, format=kind, dpi=dpi, metadata=undated.get(kind), **smaller)
    return path
