"""Choose a decision by its scores on validation data, and say how far the choice can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmseol.classifiers.decisions.tallies import DecisionTallies
from mmseol.metrics.scores import overall_score, score_tallies
from mmseol.utils.arrays import FloatArray, IntArray
from mmseol.utils.text import first_few

__all__ = ["Selection", "check_classes", "select"]

_INTERVAL = (2.5, 97.5)  # per cent


@dataclass(frozen=True)
class Selection:
    """The decision that was chosen, and what speaks for it; scores in per cent.

    >>> import torch
    >>> from mmseol.classifiers.decisions import find_winners
    >>> tallies = DecisionTallies(num_classes=2, decisions=2, images=2, folds=2, replicates=4)
    >>> truth, outputs = torch.tensor([0, 1]), torch.tensor([[0.6, 0.6], [0.5, 0.5]])
    >>> second = find_winners(outputs, torch.tensor([[0.0, 1.0]]), "additive")
    >>> for image in (0, 1):
    ...     tallies.add(image, truth, outputs.argmax(0), [second])
    >>> select(tallies, "mIoU").scores
    array([25., 25.])

    Attributes:
        chosen: Number of the decision to use: ``tuned``, ``default``, or 0, the plain one.
        tuned: Number of the decision with the best score among those after the first.
        default: Number of the decision that needs no search, if any.
        scores: Score of every decision on all images, (C,).
        intervals: 95 % bootstrap interval of every score over images, (C, 2).
        out_of_fold: Score of decisions that were each tuned without the fold they are scored on.
        gain: Gain of ``tuned`` over the plain decision, and its 95 % bootstrap interval over images.
        gain_interval: See ``gain``.
        default_gain_interval: The same for ``default``.
        tuned_in_replicates: Number of the best decision in each bootstrap replicate, (B,).
        by_fold: Number of the decision that was tuned without each fold, (F,).
    """

    chosen: int
    tuned: int
    default: int | None
    scores: FloatArray
    intervals: FloatArray
    out_of_fold: float
    gain: float
    gain_interval: tuple[float, float]
    default_gain_interval: tuple[float, float] | None
    tuned_in_replicates: IntArray
    by_fold: IntArray

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as plain numbers and lists."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }


def check_classes(truth: IntArray, names: list[str], allow_absent: bool) -> None:
    """Refuse validation data that lack a class, whose decision they could not judge.

    >>> check_classes(np.array([5, 0]), ["road", "pole"], allow_absent=False)
    Traceback (most recent call last):
    ValueError: The validation data must have every class, and have none of pole: what a decision does to \
them cannot be seen. Validate on more data, or add --allow-absent to choose by the other classes.

    Raises:
        ValueError: If a class has no element, unless ``allow_absent``, or no class has any.
    """
    absent = [name for name, number in zip(names, truth, strict=True) if not number]
    if len(absent) == len(names) or (absent and not allow_absent):
        raise ValueError(
            f"The validation data must have every class, and have none of {first_few(absent, 10)}: what a "
            "decision does to them cannot be seen. Validate on more data, or add --allow-absent to choose by "
            "the other classes."
        )


def select(
    tallies: DecisionTallies,
    objective: str,
    floor: Mapping[str, float] | None = None,
    default: int | None = None,
) -> Selection:
    """Choose the decision with the best objective, if it also gains on images that did not choose it.

    The tuned decision is taken if its out-of-fold score is above those of the plain and of the default
    decision, which were chosen without validation data. Otherwise the better of these two is taken.

    >>> import torch
    >>> from mmseol.classifiers.decisions import find_winners
    >>> tallies = DecisionTallies(num_classes=2, decisions=2, images=2, folds=2, replicates=4)
    >>> truth, outputs = torch.tensor([0, 1]), torch.tensor([[0.6, 0.5], [0.3, 0.4]])
    >>> second = find_winners(outputs, torch.tensor([[0.0, 0.2]]), "additive")
    >>> for image in (0, 1):
    ...     tallies.add(image, truth, outputs.argmax(0), [second])
    >>> selection = select(tallies, "mIoU")
    >>> selection.chosen, selection.scores, selection.out_of_fold
    (1, array([ 25., 100.]), 100.0)

    Args:
        tallies: Tallies of all images.
        objective: One of :data:`mmseol.metrics.scores.OBJECTIVES`.
        floor: Least values of further scores, in per cent.
        default: Number of the decision that needs no search.

    Raises:
        ValueError: If the objective is unknown or no decision reaches the floor.
    """
    floor = dict(floor or {})
    hits, predicted = tallies.by_fold[:, 0].numpy(), tallies.by_fold[:, 1].numpy()  # (F, C, K)
    truth = tallies.truth_by_fold.numpy()[:, None]
    scores, reaches = _judge(hits.sum(0), truth.sum(0), predicted.sum(0), objective, floor)
    if len(scores) < 2:
        raise ValueError("`tallies` must be of the plain and at least one other decision, got one.")
    if not reaches.any():
        all_scores = score_tallies(hits.sum(0), truth.sum(0), predicted.sum(0))
        best = {name: float(np.nanmax(overall_score(name, all_scores))) for name in floor}
        raise ValueError(
            f"`--floor` must be reached by a decision, got {_terms(floor)}; alone, the best of them reach "
            f"{_terms(best)}. Lower it, or add --strengths."
        )
    tuned = _best(scores, reaches)
    by_fold, held_out = [], np.zeros((3, truth.shape[-1]), dtype=np.int64)
    for fold in range(tallies.folds):
        others = [f for f in range(tallies.folds) if f != fold]
        rest = [values[others].sum(0) for values in (hits, truth, predicted)]
        own, own_reaches = _judge(rest[0], rest[1], rest[2], objective, floor)
        choice = _best(own, own_reaches)
        by_fold.append(choice)
        held_out += np.stack([hits[fold, choice], truth[fold, 0], predicted[fold, choice]])
    out_of_fold = float(overall_score(objective, score_tallies(*held_out)))
    replicates = tallies.by_replicate.numpy().reshape(2, tallies.decisions, tallies.num_classes, -1)
    drawn = np.moveaxis(replicates, -1, 1)  # (2, B, C, K)
    drawn_truth = np.moveaxis(tallies.truth_by_replicate.numpy(), -1, 0)[:, None]
    drawn_scores, drawn_reaches = _judge(drawn[0], drawn_truth, drawn[1], objective, floor)
    kept = ~np.isnan(drawn_scores).any(1)  # a replicate may be empty
    drawn_scores, drawn_reaches = drawn_scores[kept], drawn_reaches[kept]
    fallback = 0
    if default is not None and reaches[default] and not (reaches[0] and scores[0] >= scores[default]):
        fallback = default
    better = out_of_fold > scores[fallback] or not reaches[fallback]
    return Selection(
        chosen=tuned if better else fallback,
        tuned=tuned,
        default=default,
        scores=scores,
        intervals=np.array([_interval(column) for column in drawn_scores.T]),
        out_of_fold=out_of_fold,
        gain=float(scores[tuned] - scores[0]),
        gain_interval=_interval(drawn_scores[:, tuned] - drawn_scores[:, 0]),
        default_gain_interval=(
            None if default is None else _interval(drawn_scores[:, default] - drawn_scores[:, 0])
        ),
        tuned_in_replicates=np.array(
            [_best(*row) for row in zip(drawn_scores, drawn_reaches, strict=True)], dtype=np.int64
        ),
        by_fold=np.array(by_fold),
    )


def _judge(
    hits: Any, truth: Any, predicted: Any, objective: str, floor: Mapping[str, float]
) -> tuple[FloatArray, Any]:
    """Return the objective of each decision, and whether it reaches the floor."""
    scores = score_tallies(hits, truth, predicted)
    values = overall_score(objective, scores)
    reaches = np.ones(values.shape, dtype=bool)
    for name, least in floor.items():
        reaches &= overall_score(name, scores) >= least
    return values, reaches


def _best(scores: FloatArray, reaches: Any) -> int:
    """Return the best decision after the first that reaches the floor; if none does, of all."""
    values = np.where(reaches, scores, -np.inf)[1:]
    if np.isneginf(values).all():
        values = scores[1:]
    return 1 + int(np.nanargmax(values))


def _interval(values: FloatArray) -> tuple[float, float]:
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)


def _terms(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.4g}" for name, value in values.items())
