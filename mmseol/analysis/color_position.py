"""The baseline to beat: logistic regression on the colour and position of single pixels.

A network must score higher, since this model sees no neighbouring pixel, texture or shape. Its features are
red, green, blue, row and column, each within 0..1, alone (``degree=1``, 5 features) or with their squares and
products (``degree=2``, 20 features). They are standardised and classified by the multinomial logistic
regression of scikit-learn, without class weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseol.metrics.scores import confusion_matrix, score_classes
from mmseol.utils.checks import whole_number

__all__ = [
    "BaselineScore",
    "color_position_baseline",
    "confusion_of",
    "fit_pixels",
    "pixel_features",
    "sample_pixels",
]

Source = NDArray[Any] | str | Path
Sample = tuple[Source, Source]


@dataclass(frozen=True)
class BaselineScore:
    """Scores of the baseline.

    >>> score = BaselineScore(np.array([[3, 1], [0, 0]]), np.array([0.75, 0.0]), np.array([9, 2]))
    >>> score.mean_iou, score.accuracy
    (0.375, 0.75)

    Attributes:
        confusion: Pixels by true class (row) and predicted class (column), int64 of shape (K, K).
        iou: Intersection over union per class within 0..1, (K,); NaN for a class absent from both sides.
        train_pixels: Number of fitted pixels of each class, (K,).
    """

    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    train_pixels: NDArray[np.int64]

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the classes that are in the truth or predicted."""
        return float(np.nanmean(self.iou))

    @property
    def accuracy(self) -> float:
        """Fraction of the labelled pixels that are predicted correctly."""
        return float(np.trace(self.confusion) / self.confusion.sum())


def _read(sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return image (H, W, 3) and label map (H, W) of a pair of arrays or files."""
    from PIL import Image

    arrays: list[NDArray[Any]] = []
    for source, mode in zip(sample, ("RGB", None), strict=True):
        if isinstance(source, (str, Path)):
            with Image.open(source) as file:
                arrays.append(np.asarray(file.convert(mode) if mode else file))
        else:
            arrays.append(np.asarray(source))
    image, label = arrays
    if image.ndim != 3 or image.shape[2] != 3 or label.shape != image.shape[:2]:
        names = [str(source) if isinstance(source, (str, Path)) else "an array" for source in sample]
        raise ValueError(
            f"An image must be of shape (H, W, 3) and its label map of shape (H, W), got {image.shape} "
            f"({names[0]}) and {label.shape} ({names[1]})."
        )
    return image, label


def pixel_features(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return red, green, blue, row and column of each pixel, each within 0..1, float32 of shape (H, W, 5).

    >>> pixel_features(np.full((2, 1, 3), 255))[1, 0].tolist()
    [1.0, 1.0, 1.0, 0.75, 0.5]

    Args:
        image: RGB, 0..255, (H, W, 3).
    """
    height, width = image.shape[:2]
    features = np.empty((height, width, 5), dtype=np.float32)
    features[..., :3] = image / np.float32(255)
    features[..., 3] = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height
    features[..., 4] = (np.arange(width, dtype=np.float32)[None] + 0.5) / width
    return features


def sample_pixels(
    samples: Iterable[Sample],
    num_classes: int,
    pixels_per_image: int = 200,
    seed: int = 0,
    crop: tuple[int, int] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features (M, 5) and classes (M,) of randomly chosen labelled pixels.

    >>> image, label_map = np.zeros((2, 2, 3)), np.array([[0, 1], [1, 255]])
    >>> features, classes = sample_pixels([(image, label_map)], num_classes=2)
    >>> features.shape, sorted(classes.tolist())
    ((3, 5), [0, 1, 1])

    Args:
        samples: Pairs of an RGB image (H, W, 3) and a label map (H, W), arrays or files.
        num_classes: K; labels of K and above are void.
        pixels_per_image: Number of pixels drawn from each image, without replacement; all labelled pixels
            if there are fewer.
        seed: Seed of the random choice.
        crop: Height and width of a randomly placed window from which pixels are drawn. Rows and columns
            are still those of the whole image.

    Raises:
        ValueError: If an argument is out of range or fewer than two classes are drawn.
    """
    whole_number("pixels_per_image", pixels_per_image, at_least=1)
    whole_number("num_classes", num_classes, at_least=2)
    rng = np.random.default_rng(seed)
    features, classes = [], []
    for sample in samples:
        image, label = _read(sample)
        high, wide = label.shape if crop is None else crop
        if not (1 <= high <= label.shape[0] and 1 <= wide <= label.shape[1]):
            raise ValueError(f"`crop` must lie within the image, got {crop} for {label.shape} (H, W).")
        top, left = int(rng.integers(label.shape[0] - high + 1)), int(rng.integers(label.shape[1] - wide + 1))
        window = np.s_[top : top + high, left : left + wide]
        inside = label[window]
        labelled = np.flatnonzero(inside < num_classes)
        chosen = rng.choice(labelled, min(pixels_per_image, labelled.size), replace=False)
        features.append(pixel_features(image)[window].reshape(-1, 5)[chosen])
        classes.append(inside.reshape(-1)[chosen].astype(np.int64))
    drawn = np.concatenate(classes) if classes else np.zeros(0, np.int64)
    if np.unique(drawn).size < 2:
        raise ValueError(
            f"`samples` must hold at least two classes below `num_classes` ({num_classes}), got "
            f"{np.unique(drawn).tolist()} in {len(classes)} images."
        )
    return np.concatenate(features), drawn


def fit_pixels(features: NDArray[Any], classes: NDArray[Any], degree: int = 2) -> Any:
    """Return a fitted scikit-learn pipeline that predicts classes from features.

    >>> features = np.random.default_rng(0).random((50, 5))
    >>> fit_pixels(features, features[:, 0] > 0.5, degree=1).predict([[0.9, 0.5, 0.5, 0.5, 0.5]]).tolist()
    [True]

    Args:
        features: (M, F).
        classes: (M,).
        degree: Highest degree of the polynomial features, 1 or 2.

    Raises:
        ValueError: If ``degree`` is neither.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    whole_number("degree", degree, at_least=1, at_most=2)
    expand = PolynomialFeatures(degree, include_bias=False)
    model = make_pipeline(expand, StandardScaler(), LogisticRegression(max_iter=2000))
    return model.fit(np.asarray(features, dtype=np.float64), classes)


def confusion_of(model: Any, samples: Iterable[Sample], num_classes: int) -> NDArray[np.int64]:
    """Return labelled pixels by true class (row) and predicted class (column), int64 of shape (K, K).

    >>> class AlwaysOne:
    ...     def predict(self, features):
    ...         return np.ones(len(features), np.int64)
    >>> confusion_of(AlwaysOne(), [(np.zeros((1, 3, 3)), np.array([[0, 1, 255]]))], num_classes=2).tolist()
    [[0, 1], [0, 1]]
    """
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    for sample in samples:
        image, label = _read(sample)
        valid = label < num_classes
        if valid.any():
            predicted = model.predict(pixel_features(image)[valid].astype(np.float64))
            confusion += confusion_matrix(label[valid], predicted, num_classes)
    return confusion


def color_position_baseline(
    train: Sequence[Sample],
    val: Sequence[Sample],
    num_classes: int,
    pixels_per_image: int = 200,
    seed: int = 0,
    crop: tuple[int, int] | None = None,
    degree: int = 2,
) -> BaselineScore:
    """Fit on pixels drawn from ``train`` and score all labelled pixels of ``val``.

    >>> label_map = np.arange(64).reshape(8, 8) // 32
    >>> sample = np.repeat(label_map[..., None] * 200, 3, axis=2), label_map
    >>> color_position_baseline([sample], [sample], num_classes=2, degree=1).mean_iou
    1.0

    The other arguments are those of :func:`sample_pixels` and :func:`fit_pixels`.

    Raises:
        ValueError: If an argument is out of range, or ``val`` has no labelled pixel.
    """
    features, classes = sample_pixels(train, num_classes, pixels_per_image, seed, crop)
    confusion = confusion_of(fit_pixels(features, classes, degree), val, num_classes)
    if not confusion.any():
        raise ValueError(f"`val` must have labelled pixels, got none in {len(val)} images.")
    return BaselineScore(confusion, score_classes(confusion).iou, np.bincount(classes, minlength=num_classes))
