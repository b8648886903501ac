"""One free factor per class, fitted to a sample of the elements."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmseol.classifiers.decisions.families import Kind
from mmseol.metrics.scores import overall_score, score_tallies
from mmseol.utils.arrays import FloatArray

__all__ = ["ElementSample", "fit_free"]

_STEPS = np.array([-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0])
_ROUNDS = 3


class ElementSample:
    """Outputs of some elements of every image, in bounded memory.

    From each image, every class gives the same number of elements, or all that it has; their weights make up
    for it, so that weighted tallies estimate those of all elements.

    >>> sample = ElementSample(images=2, num_classes=2, budget=8)
    >>> sample.add(0, 0, torch.eye(2), torch.tensor([0, 1]))
    >>> outputs, truth, weights, folds = sample.columns()
    >>> outputs.shape, truth.tolist(), weights.tolist(), folds.tolist()
    (torch.Size([2, 2]), [0, 1], [1.0, 1.0], [0, 0])

    Args:
        images: Number of images.
        num_classes: K.
        budget: Number of outputs to keep.
        seed: Of the draw.
    """

    def __init__(self, images: int, num_classes: int, budget: int = 2 * 10**6, seed: int = 0) -> None:
        self.share = budget / num_classes / images  # elements of an image; below 1, of some images
        self.seed = seed
        self._parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def add(self, image: int, fold: int, outputs: Tensor, truth: Tensor, ignore_index: int = 255) -> None:
        """Draw elements of an image with outputs (K, P) and labels (P,)."""
        generator = np.random.default_rng((self.seed, 1, image))
        if self.share < 1 and generator.random() > self.share:
            return
        labels = truth.cpu().numpy()
        present = np.unique(labels[labels != ignore_index])
        chosen, weights = [], []
        for label in present:
            own = np.flatnonzero(labels == label)
            number = min(len(own), max(1, int(self.share / len(present))))
            chosen.append(generator.choice(own, number, replace=False))
            weights.append(np.full(number, len(own) / number / min(self.share, 1.0)))
        if chosen:
            elements = torch.from_numpy(np.concatenate(chosen))
            taken = outputs.index_select(1, elements.to(outputs.device)).float().cpu()
            weight = torch.from_numpy(np.concatenate(weights))
            own_truth = truth.cpu()[elements].long()
            self._parts.append((taken, own_truth, weight, torch.full_like(own_truth, fold)))

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs (K, M), labels, weights and folds (M,)."""
        outputs, *others = zip(*self._parts, strict=True)
        truth, weights, folds = (torch.cat(column) for column in others)
        return torch.cat(outputs, dim=1), truth, weights, folds


def fit_free(
    outputs: Tensor, truth: Tensor, weights: Tensor, kind: Kind, objective: str, start: FloatArray
) -> FloatArray:
    r"""Return :math:`\log m_k` that raises an objective on a sample, by steps in one class after another.

    Each step keeps the other classes; there are three rounds. The result fits the sample, so it has to be
    judged on other images.

    >>> outputs = torch.tensor([[0.6, 0.7, 0.9], [0.4, 0.5, 0.1]])
    >>> truth = torch.tensor([1, 1, 0])
    >>> fitted = fit_free(outputs, truth, torch.ones(3), "multiplicative", "accuracy", np.zeros(2))
    >>> (outputs * torch.from_numpy(np.exp(fitted))[:, None]).argmax(0).tolist()
    [1, 1, 0]

    Args:
        outputs: Outputs, (K, M).
        truth: Labels, (M,).
        weights: Number of elements that each stands for, (M,).
        kind: ``'multiplicative'`` or ``'additive'``.
        objective: One of :data:`mmseol.metrics.scores.OBJECTIVES`.
        start: First :math:`\log m_k`, (K,).
    """
    classes = len(outputs)
    logs = torch.from_numpy(np.array(start, dtype=np.float64))
    steps, weights = torch.from_numpy(_STEPS), weights.double()
    scores = _stepped(outputs.double(), logs[:, None], kind)
    total = torch.bincount(truth, weights, minlength=classes).numpy()

    def objective_of(labels: Tensor) -> float:
        predicted = torch.bincount(labels, weights, minlength=classes).numpy()
        hits = torch.bincount(labels, weights * (labels == truth), minlength=classes).numpy()
        return float(overall_score(objective, score_tallies(hits, total, predicted)))

    for _ in range(_ROUNDS):
        before = logs.clone()
        for k in range(classes):
            others = scores.clone()
            others[k] = -torch.inf
            best, label = others.max(0)
            values = [
                objective_of(torch.where(_stepped(scores[k], step, kind) > best, k, label)) for step in steps
            ]
            chosen = steps[int(np.argmax(np.array(values) + 1e-9 * (_STEPS == 0)))]  # no step without a gain
            logs[k] += chosen
            scores[k] = _stepped(scores[k], chosen, kind)
        if torch.equal(before, logs):
            break
    return (logs - logs.mean()).numpy()


def _stepped(scores: Tensor, logs: Tensor, kind: Kind) -> Tensor:
    return scores * logs.exp() if kind == "multiplicative" else scores + logs
