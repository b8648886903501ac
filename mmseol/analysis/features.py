"""Features and raw outputs of a checkpoint: their file, and the choice of equally many of each class."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number
from mmseol.utils.files import replacing

__all__ = ["ClassReservoir", "Features", "load_features", "save_features"]

FORMAT = 1


class Features(NamedTuple):
    """Features of P images or pixels of K classes, in the order of their classes, then images.

    >>> Features(*[np.zeros(0)] * 5, ("cat", "dog"), *[np.zeros(2)] * 2, {}).classes
    ('cat', 'dog')

    Args:
        features: Input of the layer that classifies, (P, D), float32.
        outputs: Raw outputs of that layer, (P, K), float32.
        label: Class, (P,).
        image: Index of the image in its data set, (P,).
        position: Row and column in the label map, (P, 2); -1 in classification.
        classes: Names of the classes.
        counts: Training images or pixels of each class, (K,); ``meta["counts_from"]`` says whence.
        seen: Images or pixels of each class among which the P were drawn, (K,).
        meta: How the file was made: config, checkpoint, split, seed, ...
    """

    features: NDArray[np.float32]
    outputs: NDArray[np.float32]
    label: IntArray
    image: IntArray
    position: IntArray
    classes: tuple[str, ...]
    counts: IntArray
    seen: IntArray
    meta: dict[str, Any]

    @property
    def predicted(self) -> IntArray:
        """Return the argmax of the outputs, (P,)."""
        return self.outputs.argmax(1)


class ClassReservoir:
    """A random sample of at most ``size`` elements of each class from a stream of images.

    Every element of a class is kept with equal probability. Each gets a random key that follows from the seed
    and its image alone; those with the least keys stay. The memory does not grow with the number of images,
    and the sample does not depend on their order.

    >>> reservoir = ClassReservoir(classes=2, size=2)
    >>> for image in range(3):
    ...     reservoir.update(image, np.array([0, 0, 1, -1]), lambda chosen: {"position": chosen})
    >>> reservoir.seen.tolist(), reservoir.arrays()["label"].tolist()
    ([6, 3], [0, 0, 1, 1])

    Args:
        classes: Number of classes.
        size: Elements to keep of each class.
        seed: Seed of the keys.
    """

    def __init__(self, classes: int, size: int, seed: int = 0) -> None:
        self.size = whole_number("size", size, at_least=1)
        self.seed = whole_number("seed", seed, at_least=0)
        self.seen = np.zeros(classes, dtype=np.int64)
        self._kept: list[dict[str, NDArray[Any]]] = [{} for _ in range(classes)]

    def update(
        self, image: int, labels: IntArray, read: Callable[[IntArray], Mapping[str, NDArray[Any]]]
    ) -> None:
        """Add the elements of an image.

        Args:
            image: Index of the image.
            labels: Class of each element, (P,); elements outside 0..K-1 are left out.
            read: Returns arrays, (M, *) each, of M elements, which are given as indices into ``labels``. It
                is called once, for elements that enter the sample.
        """
        keys = np.random.default_rng([self.seed, image]).random(len(labels))
        chosen = []
        for k in np.unique(labels[(labels >= 0) & (labels < len(self.seen))]).tolist():
            own = np.flatnonzero(labels == k)
            self.seen[k] += len(own)
            kept = self._kept[k].get("key", np.zeros(0))
            if len(kept) == self.size:
                own = own[keys[own] < kept.max()]
            if len(own) > self.size:
                own = own[np.argpartition(keys[own], self.size - 1)[: self.size]]
            chosen.append(own)
        indices = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
        if not len(indices):
            return
        arrays = {**read(indices), "key": keys[indices], "label": labels[indices]}
        arrays["image"] = np.full(len(indices), image)
        for k in np.unique(arrays["label"]).tolist():
            own = arrays["label"] == k
            self._add(k, {name: values[own] for name, values in arrays.items()})

    def _add(self, k: int, arrays: dict[str, NDArray[Any]]) -> None:
        kept = self._kept[k]
        if kept:
            arrays = {name: np.concatenate([kept[name], values]) for name, values in arrays.items()}
        if len(arrays["key"]) > self.size:
            least = np.argpartition(arrays["key"], self.size - 1)[: self.size]
            arrays = {name: values[least] for name, values in arrays.items()}
        self._kept[k] = arrays

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the sample, in the order of classes, images and keys; ``{}`` if it is empty."""
        rows = []
        for kept in self._kept:
            if kept:
                order = np.lexsort((kept["key"], kept["image"]))
                rows.append({name: values[order] for name, values in kept.items() if name != "key"})
        return {name: np.concatenate([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def save_features(path: str | Path, features: Features) -> None:
    """Write features whole, as NPZ without pickled objects.

    Its keys are the fields of :class:`Features`; ``classes`` are strings, ``meta`` is JSON.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "ce.npz"
    >>> one, two = np.zeros(1, np.int64), np.zeros((1, 2), np.float32)
    >>> save_features(path, Features(two, two, one, one, two, ("a", "b"), one[[0, 0]], one[[0, 0]], {}))
    >>> load_features(path).features.shape
    (1, 2)

    Raises:
        ValueError: As :func:`load_features`.
    """
    _check(features, str(path))
    arrays = features._asdict()
    arrays["classes"] = np.array(features.classes, dtype=np.str_)
    arrays["meta"] = np.array(json.dumps({"format": FORMAT, **features.meta}))
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


def load_features(path: str | Path) -> Features:
    """Read a file of ``python -m mmseol analyze features``.

    >>> load_features("missing.npz")
    Traceback (most recent call last):
    FileNotFoundError: `features` must be an existing file, got 'missing.npz'.

    Raises:
        ValueError: If it is no such file, its arrays do not fit together, or a value is not finite.
        FileNotFoundError: If there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"`features` must be an existing file, got {str(path)!r}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Features._fields}
        arrays["classes"] = tuple(map(str, arrays["classes"]))
        arrays["meta"] = json.loads(str(arrays["meta"]))
    except (KeyError, ValueError, AttributeError, BadZipFile) as error:
        raise ValueError(
            f"`features` must be a file that `python -m mmseol analyze features` wrote, got {str(path)!r}: "
            f"{error}"
        ) from error
    features = Features(**arrays)
    _check(features, str(path))
    return features


def _check(features: Features, path: str) -> None:
    elements, classes = len(features.label), len(features.classes)
    shapes = {
        "features": (elements, *features.features.shape[1:2]),
        "outputs": (elements, classes),
        "label": (elements,),
        "image": (elements,),
        "position": (elements, 2),
        "counts": (classes,),
        "seen": (classes,),
    }
    for name, shape in shapes.items():
        found = getattr(features, name).shape
        if found != shape or (name == "features" and len(found) != 2):
            raise ValueError(f"`{name}` of {path!r} must be of shape {shape}, got {found}.")
    if elements and not 0 <= features.label.min() <= features.label.max() < classes:
        raise ValueError(f"`label` of {path!r} must be classes 0 to {classes - 1}.")
    for name in ("features", "outputs"):
        bad = ~np.isfinite(getattr(features, name)).all(1)
        if bad.any():
            raise ValueError(
                f"`{name}` of {path!r} must be finite, got NaN or infinity in {bad.sum()} of {elements} "
                "elements: the checkpoint has diverged. Take an earlier one, or train with a lower rate."
            )
