"""Scores of each class, of all classes and of groups of classes, computed from a confusion matrix.

Works on arrays alone. A class that is in the truth but never predicted, or predicted but not in the truth,
scores 0; a class that is in neither has no score and is left out of every mean. Means of F-measure, precision
and IoU run over the classes in the truth or predicted; those of recall over the classes in the truth. The
results equal scikit-learn's with ``labels=`` those classes and ``zero_division=0``.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.checks import choice

__all__ = [
    "GROUPS",
    "OBJECTIVES",
    "ClassScores",
    "confusion_matrix",
    "groups_by_limits",
    "groups_by_terciles",
    "mean_scores",
    "overall_score",
    "score_classes",
    "score_tallies",
    "summarize",
]

OBJECTIVES = ("mIoU", "macro_f1", "balanced_accuracy", "worst_class", "g_mean", "accuracy")

GROUPS = ("many", "medium", "few")


@dataclass(frozen=True)
class ClassScores:
    """Scores of each class; every array has shape (..., K), and elements are samples or pixels.

    >>> score_classes([[8, 2], [0, 5]]).hits
    array([8, 5])

    Attributes:
        hits: Elements of the class that were predicted as such.
        truth: Elements of the class.
        predicted: Elements predicted as the class.
        iou: Intersection over union, 0 to 1; NaN for a class neither in the truth nor predicted.
        f1: F-measure; NaN as ``iou``.
        precision: Fraction of the predicted elements that are hits; 0 for a class that is never predicted,
            NaN as ``iou``.
        recall: Fraction of the elements of the class that are hits; NaN for a class not in the truth.
    """

    hits: IntArray
    truth: IntArray
    predicted: IntArray
    iou: FloatArray
    f1: FloatArray
    precision: FloatArray
    recall: FloatArray

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Whether the class is in the truth or predicted, (K,)."""
        return (self.truth > 0) | (self.predicted > 0)


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, num_classes: int) -> IntArray:
    """Return the number of elements by true class (row) and predicted class (column), (K, K).

    >>> confusion_matrix(truth=[0, 0, 1], predicted=[0, 1, 1], num_classes=2)
    array([[1, 1],
           [0, 1]])

    Raises:
        ValueError: If the labels differ in shape or one is not a class.
    """
    rows, columns = (np.asarray(labels).astype(np.int64, casting="safe") for labels in (truth, predicted))
    if rows.shape != columns.shape:
        raise ValueError(f"`predicted` must be of shape {rows.shape} as `truth`, got {columns.shape}.")
    for name, labels in (("truth", rows), ("predicted", columns)):
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if wrong.size:
            raise ValueError(f"`{name}` must be classes 0 to {num_classes - 1}, got {int(wrong[0])}.")
    cells = np.bincount((rows * num_classes + columns).ravel(), minlength=num_classes**2)
    return cells.astype(np.int64).reshape(num_classes, num_classes)


def score_classes(confusion: ArrayLike) -> ClassScores:
    r"""Return the scores of each class of a confusion matrix, (K, K), with the truth in rows.

    With hits :math:`h`, row sums :math:`t` and column sums :math:`p`: recall :math:`h/t`, precision
    :math:`h/p`, F-measure :math:`2h/(t+p)`, IoU :math:`h/(t+p-h)`.

    >>> score_classes([[8, 2], [0, 5]]).recall
    array([0.8, 1. ])

    Raises:
        ValueError: If the matrix is not square, not of whole numbers, or has a negative entry.
    """
    matrix = np.asarray(confusion)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype.kind not in "iu":
        raise ValueError(
            f"`confusion` must be whole numbers of shape (K, K), got {matrix.dtype} of shape {matrix.shape}."
        )
    if (matrix < 0).any():
        raise ValueError(f"`confusion` must not be negative, got {int(matrix.min())}.")
    matrix = matrix.astype(np.int64)
    return score_tallies(np.diag(matrix).copy(), matrix.sum(1), matrix.sum(0))


def score_tallies(hits: ArrayLike, truth: ArrayLike, predicted: ArrayLike) -> ClassScores:
    """Return the scores of each class of numbers of elements, (.., K); leading axes are separate samples.

    >>> score_tallies([[8, 5], [1, 0]], [[10, 5], [1, 1]], [[8, 7], [1, 0]]).recall.tolist()
    [[0.8, 1.0], [1.0, 0.0]]

    Args:
        hits: Elements of the class that were predicted as such.
        truth: Elements of the class.
        predicted: Elements predicted as the class.
    """
    hits, truth, predicted = np.broadcast_arrays(hits, truth, predicted)
    seen = truth + predicted > 0
    precision = _ratio(hits, predicted)
    return ClassScores(
        hits,
        truth,
        predicted,
        iou=_ratio(hits, truth + predicted - hits),
        f1=_ratio(2 * hits, truth + predicted),
        precision=np.where(seen & (predicted == 0), 0.0, precision),
        recall=_ratio(hits, truth),
    )


def _ratio(part: IntArray, whole: IntArray) -> FloatArray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def groups_by_limits(counts: ArrayLike, limits: tuple[int, int] = (20, 100)) -> NDArray[np.str_]:
    """Return the group of each class, (K,): 'few' below the first limit, 'many' above the second.

    Many-, medium- and few-shot as in Liu et al., CVPR 2019.

    >>> groups_by_limits([500, 60, 5]).tolist()
    ['many', 'medium', 'few']

    Args:
        counts: Training samples of each class, (K,).
    """
    counts = np.asarray(counts)
    return np.select([counts > limits[1], counts >= limits[0]], GROUPS[:2], GROUPS[2])


def groups_by_terciles(counts: ArrayLike) -> NDArray[np.str_]:
    """Return the group of each class, (K,): classes by count, largest first, cut into three.

    The groups are as equal as possible, the first ones larger; equal counts keep class order.

    >>> groups_by_terciles([500, 60, 5, 1000]).tolist()
    ['many', 'medium', 'few', 'many']

    Args:
        counts: Training pixels of each class, (K,).
    """
    counts = np.asarray(counts)
    groups = np.empty(counts.shape, dtype="<U6")
    for group, classes in zip(GROUPS, np.array_split(np.argsort(-counts, kind="stable"), 3), strict=True):
        groups[classes] = group
    return groups


def summarize(scores: ClassScores, groups: ArrayLike | None = None) -> dict[str, float]:
    """Return the scores over all classes and, as ``many/accuracy`` and so on, by group, in per cent.

    ``accuracy`` is the fraction of hits; ``macro_f1``, ``macro_precision`` and ``mIoU`` are means over the
    classes seen; ``balanced_accuracy`` (``macro_recall`` is the same), ``g_mean`` and ``worst_class`` are the
    mean, geometric mean and minimum of the recalls of the classes in the truth. A group's ``accuracy`` is the
    mean recall of its classes, as in Liu et al., CVPR 2019: on balanced data the fraction of hits among its
    samples. Groups without a score are left out.

    >>> scores = summarize(score_classes([[8, 2], [0, 5]]), groups=["many", "few"])
    >>> scores["balanced_accuracy"], scores["worst_class"], scores["few/accuracy"]
    (90.0, 80.0, 100.0)

    Args:
        groups: Group of each class, (K,).

    Raises:
        ValueError: If nothing was scored, or there is not one group per class.
    """
    if not scores.truth.any():
        raise ValueError(
            "`scores` must be of at least one labelled element, got none. Check the data set's paths, "
            "`label_map`, `reduce_zero_label` and `ignore_index`."
        )
    summary: dict[str, Any] = dict(mean_scores(scores))
    if groups is not None:
        summary |= _summarize_groups(scores, np.asarray(groups))
    return {name: 100.0 * float(value) for name, value in summary.items()}


def mean_scores(scores: ClassScores) -> dict[str, FloatArray]:
    """Return the means of :func:`summarize` over all classes, within 0..1, of the shape of the leading axes.

    >>> mean_scores(score_tallies([[8, 5], [1, 0]], [[10, 5], [1, 1]], [[8, 7], [1, 0]]))["worst_class"]
    array([0.8, 0. ])
    """
    recall = np.nanmean(scores.recall, axis=-1)
    with np.errstate(divide="ignore"):
        g_mean = np.exp(np.nanmean(np.log(scores.recall), axis=-1))  # log 0 = -inf makes it 0
    return {
        "accuracy": scores.hits.sum(-1) / scores.truth.sum(-1),
        "macro_f1": np.nanmean(scores.f1, axis=-1),
        "macro_precision": np.nanmean(scores.precision, axis=-1),
        "macro_recall": recall,
        "balanced_accuracy": recall,
        "mIoU": np.nanmean(scores.iou, axis=-1),
        "g_mean": g_mean,
        "worst_class": np.nanmin(scores.recall, axis=-1),
    }


def overall_score(name: str, scores: ClassScores) -> FloatArray:
    """Return one of :data:`OBJECTIVES` in per cent, of the shape of the leading axes; NaN without a label.

    >>> overall_score("balanced_accuracy", score_tallies([[8, 5], [9, 1]], [10, 5], [[8, 7], [13, 2]]))
    array([90., 55.])

    Raises:
        ValueError: If there is no such score.
    """
    choice("objective", name, OBJECTIVES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing
        with np.errstate(invalid="ignore"):
            return 100.0 * np.asarray(mean_scores(scores)[name])


def _summarize_groups(scores: ClassScores, groups: NDArray[np.str_]) -> dict[str, float]:
    if groups.shape != scores.truth.shape:
        raise ValueError(f"`groups` must be of shape {scores.truth.shape}, got {groups.shape}.")
    means = {}
    for group in GROUPS:
        for name, values in (("accuracy", scores.recall), ("macro_f1", scores.f1), ("mIoU", scores.iou)):
            members = values[groups == group]
            members = members[~np.isnan(members)]
            if members.size:
                means[f"{group}/{name}"] = float(members.mean())
    return means
