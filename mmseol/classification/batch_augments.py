"""Batch augments that mmpretrain lacks. Each label score is the exact fraction of its image in the mixture.

mmpretrain's registry of batch augments has no parent, so a config names them by path::

    model = dict(train_cfg=dict(augments=[dict(type="mmseol.classification.RICAP", beta=0.3)], probs=[0.5]))

Each is called as ``augment(inputs, scores)`` with normalised images (N, C, H, W) and label scores (N, K),
and returns new ones. Random numbers are drawn once per batch, and each image is mixed with another one of the
batch, as in the host's Mixup and CutMix.
"""

# ruff: noqa: NPY002  (mmpretrain's augments draw from numpy's global generator, which the run's seed sets)

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmseol.utils.checks import number

__all__ = ["RICAP", "MixedConcat", "Random2x2", "SamplePairing", "VHBCPlus", "VHMixup"]


class SamplePairing:
    """Average two images and keep the label of the first (Inoue, arXiv 1801.02929).

    The paper uses it in 8 of 10 epochs, and neither in the first nor in the last epochs of training. Use
    ``probs=[0.8]`` in the config and mmpretrain's ``SwitchRecipeHook`` for the begin and the end.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = SamplePairing()(images, scores)
    >>> bool((labels == scores).all())
    True
    """

    def __call__(self, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the averaged images and the label scores of the first images."""
        scores = _checked(scores)
        return (inputs + inputs[torch.randperm(len(inputs))]) / 2, scores


class RICAP:
    r"""Patch four images together at a random point (Takahashi et al., ACML 2018, arXiv 1811.09030).

    The point is :math:`(\mathrm{round}(\beta_1 W), \mathrm{round}(\beta_2 H))`, :math:`\beta_i \sim
    \mathrm{Beta}(b, b)`; each patch is cropped at a random place of its image. The label scores are the
    mean of the four labels, weighted by area.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = RICAP()(images, scores)
    >>> mixed.shape, bool(labels.sum(1).isclose(torch.ones(4)).all())
    (torch.Size([4, 3, 8, 8]), True)

    Args:
        beta: :math:`b`, above 0; the paper's 0.3.

    Raises:
        ValueError: If ``beta`` is not above 0.
    """

    def __init__(self, beta: float = 0.3) -> None:
        self.beta = number("beta", beta, above=0)

    def __call__(self, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the patched images and their label scores."""
        scores = _checked(scores)
        height, width = inputs.shape[-2:]
        split = (
            _cut(height, np.random.beta(self.beta, self.beta)),
            _cut(width, np.random.beta(self.beta, self.beta)),
        )
        patched, mixed = torch.empty_like(inputs), torch.zeros_like(scores)
        for top, bottom in ((0, split[0]), (split[0], height)):
            for left, right in ((0, split[1]), (split[1], width)):
                index = torch.randperm(len(inputs))
                h, w = bottom - top, right - left
                y, x = np.random.randint(height - h + 1), np.random.randint(width - w + 1)
                patched[..., top:bottom, left:right] = inputs[index, :, y : y + h, x : x + w]
                mixed += scores[index] * (h * w / (height * width))
        return patched, mixed


class _MixedExample:
    r"""Mixture :math:`m x_1 + (1 - m) x_2` by a map of weights (Summers & Dinneen, WACV 2019).

    Args:
        alpha: Every :math:`\lambda` is drawn from Beta(alpha, alpha); the paper's 1.

    Raises:
        ValueError: If ``alpha`` is not above 0.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = number("alpha", alpha, above=0)

    def draw(self) -> float:
        """Return one :math:`\\lambda`."""
        return float(np.random.beta(self.alpha, self.alpha))

    def weights(self, height: int, width: int) -> Tensor:
        """Return the weight of the first image at every pixel, float64 (H, W)."""
        raise NotImplementedError

    def blend(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Return the mixtures of images (N, C, H, W)."""
        return weights * first + (1 - weights) * second

    def __call__(self, inputs: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixtures and their label scores, which are mixed by the mean weight."""
        scores = _checked(scores)
        index = torch.randperm(len(inputs))
        weights = self.weights(*inputs.shape[-2:])
        share = weights.mean().item()
        mixed = self.blend(inputs, inputs[index], weights.to(inputs))
        return mixed, share * scores + (1 - share) * scores[index]


class VHMixup(_MixedExample):
    r"""VH-Mixup: mix a vertical and a horizontal concatenation of two images; the best of its paper.

    With :math:`h = \mathrm{round}(\lambda_1 H)`, :math:`w = \mathrm{round}(\lambda_2 W)` the weight of the
    first image is 1 above and left of :math:`(h, w)`, :math:`\lambda_3` above and right, :math:`1 -
    \lambda_3` below and left, 0 below and right.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = VHMixup()(images, scores)
    >>> mixed.shape, bool(labels.sum(1).isclose(torch.ones(4)).all())
    (torch.Size([4, 3, 8, 8]), True)

    Args:
        alpha: Every :math:`\lambda` is drawn from Beta(alpha, alpha); the paper's 1.
    """

    def weights(self, height: int, width: int) -> Tensor:
        """Return the weight of the first image at every pixel."""
        rows, columns = _side(height, self.draw()), _side(width, self.draw())
        share = self.draw()
        return share * rows[:, None] + (1 - share) * columns[None, :]


class MixedConcat(_MixedExample):
    r"""Mixed concatenation: the first image above left and below right of a random point, else the second.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = MixedConcat()(images, scores)
    >>> mixed.shape, bool(labels.sum(1).isclose(torch.ones(4)).all())
    (torch.Size([4, 3, 8, 8]), True)

    Args:
        alpha: Every :math:`\lambda` is drawn from Beta(alpha, alpha); the paper's 1.
    """

    def weights(self, height: int, width: int) -> Tensor:
        """Return the weight of the first image at every pixel."""
        rows, columns = _side(height, self.draw()), _side(width, self.draw())
        return (rows[:, None] == columns[None, :]).double()


class Random2x2(_MixedExample):
    r"""Random 2x2: a random point divides the image into four cells; each is from either image with p = 0.5.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = Random2x2()(images, scores)
    >>> mixed.shape, bool(labels.sum(1).isclose(torch.ones(4)).all())
    (torch.Size([4, 3, 8, 8]), True)

    Args:
        alpha: Every :math:`\lambda` is drawn from Beta(alpha, alpha); the paper's 1.
    """

    def weights(self, height: int, width: int) -> Tensor:
        """Return the weight of the first image at every pixel."""
        rows, columns = _side(height, self.draw()), _side(width, self.draw())
        cells = torch.from_numpy(np.random.randint(0, 2, (2, 2)).astype(np.float64))
        return cells[rows.long()[:, None], columns.long()[None, :]]


class VHBCPlus(VHMixup):
    r"""VH-BC+: VH-Mixup with weights that depend on the images' contrast (Tokozume et al., CVPR 2018).

    Each image is centred to zero mean. Where the first has weight :math:`\lambda` in VH-Mixup, its weight is
    :math:`p = (1 + \frac{\sigma_1}{\sigma_2} \frac{1 - \lambda}{\lambda})^{-1}` and the mixture is divided
    by :math:`\sqrt{p^2 + (1 - p)^2}`. Labels are as in :class:`VHMixup`. Images are centred only when
    they are mixed, not at test time.

    >>> images, scores = torch.rand(4, 3, 8, 8), torch.eye(4)
    >>> mixed, labels = VHBCPlus()(images, scores)
    >>> mixed.shape, bool(labels.sum(1).isclose(torch.ones(4)).all())
    (torch.Size([4, 3, 8, 8]), True)

    Args:
        alpha: Every :math:`\lambda` is drawn from Beta(alpha, alpha); the paper's 1.
    """

    def blend(self, first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
        """Return the mixtures of images (N, C, H, W)."""
        first, second = (image - image.mean(dim=(1, 2, 3), keepdim=True) for image in (first, second))
        one, two = (image.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) for image in (first, second))
        p = two * weights / (two * weights + one * (1 - weights))
        return (p * first + (1 - p) * second) / (p.square() + (1 - p).square()).sqrt()


def _cut(length: int, share: float) -> int:
    return round(length * share)


def _side(length: int, share: float) -> Tensor:
    """Return 1 before the cut and 0 behind it, float64 (length,)."""
    return (torch.arange(length) < _cut(length, share)).double()


def _checked(scores: Tensor) -> Tensor:
    if scores.dim() != 2:
        raise ValueError(
            f"`scores` must be label scores of shape (N, K), got {tuple(scores.shape)}. Give the number of "
            "classes: data_preprocessor=dict(num_classes=...)."
        )
    return scores.float()
