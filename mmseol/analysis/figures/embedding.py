"""The command ``analyze tsne``: features of several losses -> pictures side by side, with numbers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from rich.table import Table

from mmseol.analysis.features import Features, load_features
from mmseol.analysis.figures.style import check_picture, order_by_count, save_figure
from mmseol.metrics.scores import groups_by_terciles
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import choice, number, whole_number
from mmseol.utils.text import table_text

__all__ = ["Separation", "embed", "separation"]

METHODS = ("tsne", "umap")
COMPONENTS = 50  # principal components that are embedded, as is usual
NEIGHBOURS = 15


def embed(
    features: ArrayLike, method: str = "tsne", perplexity: float = 30.0, seed: int = 0
) -> tuple[FloatArray, str]:
    """Return a picture of features in two dimensions, (P, 2), and the name of the program that made it.

    The first 50 principal components are embedded. t-SNE is that of openTSNE if it is installed, else that
    of scikit-learn; both start from principal components.

    >>> points, program = embed(np.eye(12), seed=1)
    >>> points.shape
    (12, 2)

    Args:
        features: Finite numbers, (P, D).
        method: ``'tsne'`` or ``'umap'``, which needs the package ``umap-learn``.
        perplexity: Of t-SNE, and the number of neighbours of UMAP; at most (P - 1) / 3 is used.
        seed: Seed of everything random.

    Raises:
        ValueError: If there are fewer than 8 different features, or one is not finite.
        ImportError: If the package is not installed.
    """
    choice("method", method, METHODS)
    number("perplexity", perplexity, above=0)
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"`features` must be finite numbers of shape (P, D), got shape {values.shape}.")
    different = len(np.unique(values, axis=0))
    if different < 8:
        raise ValueError(
            f"`features` must have at least 8 different rows, got {different} of {len(values)}. Write more "
            "with --per-class; a checkpoint whose features are all equal has collapsed."
        )
    perplexity = min(perplexity, (len(values) - 1) / 3)
    reduced = _principal(values, seed)
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ImportError(
                "`method` 'umap' needs the package umap-learn: pip install umap-learn, or mmseol[embedding]"
            ) from error
        neighbours = max(2, round(perplexity))
        return np.asarray(
            UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(reduced)
        ), "UMAP"
    if find_spec("openTSNE") is not None:
        from openTSNE import TSNE as OpenTSNE

        fitted = OpenTSNE(perplexity=perplexity, initialization="pca", random_state=seed).fit(reduced)
        return np.asarray(fitted), "t-SNE (openTSNE)"
    from sklearn.manifold import TSNE

    fitted = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(fitted.fit_transform(reduced), dtype=np.float64), "t-SNE (scikit-learn)"


def _principal(values: FloatArray, seed: int) -> FloatArray:
    from sklearn.decomposition import PCA

    components = min(COMPONENTS, *values.shape)
    return PCA(components, random_state=seed).fit_transform(values)


class Separation(NamedTuple):
    """How far the classes lie apart among features; ``None`` or NaN where a class has one sample or none.

    >>> Separation(0.5, 90.0, 80.0, np.array([100.0, 80.0])).knn
    90.0

    Args:
        silhouette: Mean over the classes of their mean silhouette, -1 to 1.
        knn: Mean over the classes of ``by_class``, per cent.
        knn_few: The same over the rarest third of the classes.
        by_class: Per cent of the elements of each class whose class most of the 15 nearest elements of other
            images have.
    """

    silhouette: float | None
    knn: float | None
    knn_few: float | None
    by_class: FloatArray


def separation(
    features: ArrayLike, label: ArrayLike, counts: ArrayLike, image: ArrayLike | None = None
) -> Separation:
    """Measure how far the classes lie apart, by Euclidean distances of the features themselves.

    Pixels of one object are alike. The neighbours of a pixel are therefore sought in other images.

    >>> points = np.repeat([[0.0], [9.0]], 20, axis=0) + np.linspace(0, 1, 40)[:, None]
    >>> separation(points, np.repeat([0, 1], 20), counts=[90, 9]).knn
    100.0

    Args:
        features: Finite numbers, (P, D).
        label: Class of each, (P,).
        counts: Training samples of each class, (K,), which say the rarest third.
        image: Image of each, (P,); ``None``: each is of an image of its own.
    """
    values, label = np.asarray(features, dtype=np.float64), np.asarray(label)
    counts = np.asarray(counts)
    image = np.arange(len(label)) if image is None else np.asarray(image)
    by_class = np.full(len(counts), np.nan)
    several = np.bincount(label, minlength=len(counts)) > 1
    if several.sum() < 2:
        return Separation(None, None, None, by_class)
    nearest = _nearest_class(values, label, image, len(counts))
    silhouettes = _silhouettes(values, label)
    mean = by_class.copy()
    for k in np.flatnonzero(several):
        own = (label == k) & (nearest >= 0)
        by_class[k] = 100 * (nearest[own] == k).mean() if own.any() else np.nan
        mean[k] = silhouettes[label == k].mean()
    few = groups_by_terciles(counts) == "few"
    return Separation(_mean(mean), _mean(by_class), _mean(by_class[few]), by_class)


def _mean(values: FloatArray) -> float | None:
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else None


def _silhouettes(values: FloatArray, label: IntArray) -> FloatArray:
    from sklearn.metrics import silhouette_samples

    return np.asarray(silhouette_samples(values, label))


def _nearest_class(values: FloatArray, label: IntArray, image: IntArray, classes: int) -> IntArray:
    """Return the class that most of the nearest elements of other images have, -1 if there are none."""
    from sklearn.metrics import pairwise_distances_chunked

    winners = np.empty(len(values), dtype=np.int64)
    start = 0
    for distances in pairwise_distances_chunked(values):
        rows = np.arange(start, start + len(distances))
        distances[image[rows][:, None] == image[None]] = np.inf
        nearest = np.argpartition(distances, min(NEIGHBOURS, len(values)) - 1, axis=1)[:, :NEIGHBOURS]
        votes = np.zeros((len(rows), classes), dtype=np.int64)
        for column in nearest.T:
            found = np.isfinite(distances[rows - start, column])  # there may be fewer in other images
            votes[np.flatnonzero(found), label[column[found]]] += 1
        winners[rows] = np.where(votes.any(1), votes.argmax(1), -1)
        start += len(distances)
    return winners


def prepare_tsne(args: Namespace) -> list[Features]:
    """Return the features of the files.

    >>> prepare_tsne(Namespace(out="tsne.png", dpi=150, method="tsne", perplexity=30.0, seed=0,
    ...                        titles=["a"], files=["a.npz", "b.npz"]))
    Traceback (most recent call last):
    ValueError: `--titles` must be one for each file, got 1 for 2 files.

    Raises:
        ValueError: If an argument is invalid, or the files are of different classes.
        FileNotFoundError: If there is no such file.
    """
    check_picture("--out", args.out)
    choice("--method", args.method, METHODS)
    whole_number("--dpi", args.dpi, at_least=20)
    number("--perplexity", args.perplexity, above=0)
    whole_number("--seed", args.seed, at_least=0)
    if args.titles is not None and len(args.titles) != len(args.files):
        raise ValueError(
            f"`--titles` must be one for each file, got {len(args.titles)} for {len(args.files)} files."
        )
    found = [load_features(path) for path in args.files]
    for path, one in zip(args.files, found, strict=True):
        if one.classes != found[0].classes:
            raise ValueError(
                f"The files must be of the same classes, got {', '.join(found[0].classes)} in "
                f"{args.files[0]!r} and {', '.join(one.classes)} in {path!r}."
            )
    return found


def run_tsne(found: Sequence[Features], args: Namespace) -> None:
    """Draw the picture, and print the accuracy of the nearest neighbours in each class.

    Raises:
        ValueError: If features are too few.
    """
    from mmseol.analysis.figures.scatter import Panel, embedding_figure

    titles = args.titles or [Path(path).stem for path in args.files]
    counts, panels, measured, program = found[0].counts, [], [], ""
    for title, one in zip(titles, found, strict=True):
        points, program = embed(one.features, args.method, args.perplexity, args.seed)
        measured.append(separation(one.features, one.label, counts, one.image))
        panels.append(Panel(title, points, one.label, measured[-1]))
    what = "pixels" if found[0].meta.get("task") == "segmentation" else "images"
    note = f"{program}, perplexity {args.perplexity:g}, seed {args.seed}; numbers are of the features"
    note += ", neighbours of other images" if what == "pixels" else ""
    if not all(_same_elements(found[0], one) for one in found):
        note += f". The panels show different {what}"
    names = [str(name) for name in found[0].classes]
    unit = (
        f"training {what}" if "split" not in str(found[0].meta.get("counts_from")) else f"{what} of the split"
    )
    figure = embedding_figure(panels, names, counts, unit, note)
    save_figure(figure, args.out, args.dpi)
    print(_table(titles, names, counts, measured))
    print(f"Wrote {args.out}: {note}.")


def _same_elements(first: Features, other: Features) -> bool:
    fields = ("label", "image", "position")
    return all(np.array_equal(getattr(first, name), getattr(other, name)) for name in fields)


def _table(
    titles: Sequence[str], names: Sequence[str], counts: IntArray, measured: Sequence[Separation]
) -> str:
    table = Table("class", "count", *titles, title=f"{NEIGHBOURS}-NN accuracy of the features, per cent")
    for k in order_by_count(counts):
        table.add_row(names[k], f"{counts[k]:,}", *(_shown(one.by_class[k]) for one in measured))
    table.add_section()
    table.add_row("mean", "", *(_shown(one.knn) for one in measured))
    table.add_row("mean of the rarest third", "", *(_shown(one.knn_few) for one in measured))
    silhouettes = ("-" if one.silhouette is None else f"{one.silhouette:.3f}" for one in measured)
    table.add_row("silhouette", "", *silhouettes)
    return table_text(table)


def _shown(value: Any) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.1f}"
