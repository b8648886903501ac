"""Hits and predictions of each class under many decisions, by fold and by bootstrap replicate, summed up.

The sums do not grow with the number of images: no output and no image's tally is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmseol.classifiers.decisions.winners import Winners
from mmseol.metrics.base import check_range
from mmseol.utils.arrays import IntArray
from mmseol.utils.checks import whole_number

__all__ = ["DecisionTallies"]


class DecisionTallies:
    r"""Tallies of C decisions, of which the first is the plain argmax.

    Each image belongs to one of the folds, and enters each bootstrap replicate as often as a Poisson variable
    of mean 1 says, which is drawn from its number and the seed (the Poisson bootstrap: Oza & Russell, 2001).
    Processes that score different images therefore give the same sums as one.

    >>> tallies = DecisionTallies(num_classes=2, decisions=1, images=2, folds=2, replicates=4)
    >>> tallies.add(0, torch.tensor([0, 0, 1, 255]), torch.tensor([0, 1, 1, 1]), [])
    >>> tallies.hits, tallies.predicted, tallies.truth
    (array([[1, 1]]), array([[1, 2]]), array([2, 1]))

    Args:
        num_classes: K.
        decisions: C, the plain one included.
        images: Number of images.
        folds: F, at least 2.
        replicates: B of the bootstrap.
        blocks: Whether a fold is a block of neighbouring images, as frames of a video need; otherwise images
            are assigned at random.
        ignore_index: Label of the elements that are not scored.
        seed: Of the folds and the bootstrap.
    """

    def __init__(
        self,
        num_classes: int,
        decisions: int,
        images: int,
        folds: int = 5,
        replicates: int = 200,
        blocks: bool = True,
        ignore_index: int = 255,
        seed: int = 0,
    ) -> None:
        whole_number("folds", folds, at_least=2)
        whole_number("replicates", replicates, at_least=1)
        if images < folds:
            raise ValueError(
                f"`--folds` must be at most the number of validation images, got {folds} for {images}."
            )
        self.num_classes, self.decisions, self.images, self.folds = num_classes, decisions, images, folds
        self.replicates, self.blocks, self.ignore_index, self.seed = replicates, blocks, ignore_index, seed
        # Hits and predictions; truth: by fold, and by replicate.
        self.by_fold = torch.zeros(folds, 2, decisions, num_classes, dtype=torch.int64)
        self.truth_by_fold = torch.zeros(folds, num_classes, dtype=torch.int64)
        self.by_replicate = torch.zeros(2, decisions * num_classes, replicates, dtype=torch.float64)
        self.truth_by_replicate = torch.zeros(num_classes, replicates, dtype=torch.float64)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        """Elements by true class and class of the plain decision."""
        self.seen = 0

    @property
    def hits(self) -> IntArray:
        """Hits of each decision and class in all images, (C, K)."""
        return self.by_fold[:, 0].sum(0).numpy()

    @property
    def predicted(self) -> IntArray:
        """Elements predicted as each class by each decision in all images, (C, K)."""
        return self.by_fold[:, 1].sum(0).numpy()

    @property
    def truth(self) -> IntArray:
        """Elements of each class in all images, (K,)."""
        return self.truth_by_fold.sum(0).numpy()

    def add(self, image: int, truth: Tensor, plain: Tensor, winners: Sequence[Winners]) -> None:
        """Add the elements of one image.

        Args:
            image: Number of the image; one that is past the last image repeats another and is skipped.
            truth: Labels, (P,).
            plain: Winners of the plain decision, (P,).
            winners: Winners of the other decisions, in order.
        """
        if image >= self.images:
            return
        size, valid = self.num_classes, truth != self.ignore_index
        self._check_labels(torch.where(valid, truth, 0))
        truth = torch.where(valid, truth.long(), size)
        cells = torch.bincount(truth * size + plain.long(), minlength=(size + 1) * size)
        confusion = cells.view(size + 1, size)[:size].cpu()
        tally = [torch.stack([confusion.diagonal(), confusion.sum(0)])[:, None]]
        tally += [self._count(truth, one, valid).cpu() for one in winners]
        self.add_counted(image, torch.cat(tally, dim=1), confusion.sum(1))
        self.confusion += confusion

    def add_counted(self, image: int, tally: Tensor, truth: Tensor) -> None:
        """Add an image whose elements are counted already; :attr:`confusion` stays as it is.

        Args:
            image: As of :meth:`add`.
            tally: Hits and predictions of each decision and class, (2, C, K).
            truth: Elements of each class, (K,).
        """
        if image >= self.images:
            return
        fold, weights = self._draw(image)
        self.by_fold[fold] += tally
        self.truth_by_fold[fold] += truth
        flat = tally.flatten()
        cell = flat.nonzero().squeeze(1)
        self.by_replicate.view(flat.numel(), -1).index_add_(0, cell, flat[cell, None] * weights)
        self.truth_by_replicate += truth[:, None] * weights
        self.seen += 1

    def add_samples(
        self, images: Sequence[int], truth: Tensor, plain: Tensor, winners: Sequence[Winners]
    ) -> None:
        """Add images with one label each; as :meth:`add`, with one element per image."""
        inside = torch.tensor([number < self.images for number in images])
        labels = torch.cat([plain[None].long().cpu(), *(one.labels().cpu() for one in winners)])[:, inside]
        truth = truth.long().cpu()[inside]
        self._check_labels(truth)
        draws = [self._draw(number) for number in images if number < self.images]
        if not draws:
            return
        folds = torch.tensor([fold for fold, _ in draws])
        weights = torch.stack([weight for _, weight in draws])  # (n, B)
        hit = labels == truth
        cells = torch.arange(self.decisions)[:, None] * self.num_classes + labels  # (C, n)
        for which, counted in ((0, hit), (1, torch.ones_like(hit))):
            decision, sample = counted.nonzero(as_tuple=True)
            cell = cells[decision, sample]
            self.by_replicate[which].index_add_(0, cell, weights[sample])
            flat = self.by_fold[:, which].reshape(self.folds, -1)
            flat.index_put_((folds[sample], cell), torch.ones_like(cell), accumulate=True)
            self.by_fold[:, which] = flat.view(self.folds, self.decisions, self.num_classes)
        self.truth_by_replicate.index_add_(0, truth, weights)
        ones = torch.ones_like(truth)
        self.truth_by_fold.index_put_((folds, truth), ones, accumulate=True)
        self.confusion.index_put_((truth, labels[0]), ones, accumulate=True)
        self.seen += len(draws)

    def fold_of(self, image: int) -> int:
        """Return the fold of an image."""
        return self._draw(image)[0]

    def reduce(self) -> None:
        """Add up the tallies of all processes."""
        sums = (
            self.by_fold,
            self.truth_by_fold,
            self.by_replicate,
            self.truth_by_replicate,
            self.confusion,
        )
        for tensor in sums:
            all_reduce(tensor, "sum")
        seen = torch.tensor(self.seen)
        all_reduce(seen, "sum")
        self.seen = int(seen)

    def _draw(self, image: int) -> tuple[int, Tensor]:
        """Return the fold of an image, and how often it enters each replicate, (B,)."""
        generator = np.random.default_rng((self.seed, image))
        fold = int(generator.integers(self.folds))
        if self.blocks:
            fold = image * self.folds // self.images
        return fold, torch.from_numpy(generator.poisson(1.0, self.replicates).astype(np.float64))

    def _check_labels(self, labels: Tensor) -> None:
        if labels.numel():
            low, high = torch.stack(torch.aminmax(labels)).tolist()
            check_range("label", low, high, self.num_classes, " in the validation data")

    def _count(self, truth: Tensor, winners: Winners, valid: Tensor) -> Tensor:
        """Return the hits and predictions of several decisions, (2, C, K); truth is K where not valid."""
        size, cells = self.num_classes, winners.candidates * self.num_classes
        first = torch.where(valid, winners.first, size)
        codes = first + (size + 1) * ((first == truth) & valid)
        missed, hits = torch.bincount(codes, minlength=2 * size + 2).view(2, -1)[:, :size]
        own, row = truth.index_select(0, winners.elements), winners.decisions * size
        changed = torch.zeros(2, cells, dtype=torch.int64, device=truth.device)  # at each decision
        changed[0, :size], changed[1, :size] = hits, missed + hits
        for sign, labels in ((1, winners.new), (-1, winners.old)):
            codes = torch.where(own < size, row + labels, cells) + (cells + 1) * (labels == own)
            missed, hits = torch.bincount(codes, minlength=2 * cells + 2).view(2, -1)[:, :cells]
            changed += sign * torch.stack([hits, missed + hits])
        return changed.view(2, winners.candidates, size).cumsum(1)
