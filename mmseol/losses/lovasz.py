"""Lovász extensions of the Jaccard loss."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mmseol.losses.base.region import RegionLoss
from mmseol.losses.ops.autograd import with_slopes
from mmseol.losses.ops.inputs import is_compiling
from mmseol.registry import MODELS

__all__ = ["LovaszHingeLoss", "LovaszSoftmaxLoss"]

_ELEMENTS = 2**21
"""Errors sorted at once: many classes of few pixels together, large maps class by class."""


class LovaszLoss(RegionLoss):
    r"""Lovász extension :math:`\sum_i m_{\pi_i} g_i` of the Jaccard loss of each class.

    :math:`m` are the errors of the pixels with respect to the class, :math:`\pi` sorts them, largest first,
    and :math:`g_i` is what the i-th adds to the Jaccard loss of the pixels before it (Berman et al., CVPR
    2018, Eq. (8), (9)). Each rank sorts its own pixels: several ranks equal one process with
    ``per_image=True`` and ``sync_avg_factor=True`` alone.
    """

    soft_targets: ClassVar[bool] = False

    def scores(self, pred: Tensor) -> Tensor:
        """Return what is compared with the labels, of ``pred``'s shape."""
        raise NotImplementedError

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the errors of scores, none negative, that grow by 1 per unit in the wrong direction.

        Args:
            scores: Of some classes at every pixel, (C, P).
            truth: Whether the pixel is labelled as the class, (C, P).
        """
        raise NotImplementedError

    def class_losses(self, pred: Tensor, target: Tensor, measure: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Lovász extension of every class and which are present, (B, K)."""
        n, k = pred.shape[:2]
        target, measure = target.reshape(n, -1), measure.reshape(n, -1).double()
        scores = self.scores(pred.reshape(n, k, -1))
        groups = [slice(i, i + 1) for i in range(n)] if self.per_image else [slice(None)]
        values, presence, slopes = scores.new_zeros(len(groups), k), [], torch.zeros_like(scores)
        with torch.no_grad():
            for i, group in enumerate(groups):
                empty = measure.new_zeros(k)
                labelled = empty.index_add(0, target[group].flatten(), measure[group].flatten())
                presence.append(labelled > 0)
                classes = self.chosen_classes(k)
                if self.classes == "present" and not is_compiling():
                    classes = presence[-1].nonzero().flatten().tolist()
                step = max(1, _ELEMENTS // max(1, measure[group].numel()))
                for start in range(0, len(classes), step):
                    part = classes[start : start + step]
                    values[i, part], slopes[group, part] = self._extension(
                        scores[group, part], target[group], measure[group], part
                    )
        if self.per_image:
            losses = with_slopes(values, scores, slopes, 2)
        else:
            losses = with_slopes(values[0], scores, slopes, (0, 2)).unsqueeze(0)
        return losses, torch.stack(presence)

    def _extension(
        self, scores: Tensor, target: Tensor, measure: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return value, (C,), and slopes, (N, C, L), of some classes for scores (N, C, L)."""
        n, c, _ = scores.shape
        truth = target.reshape(1, -1) == torch.tensor(classes, device=target.device).unsqueeze(1)
        errors = self.errors(scores.transpose(0, 1).reshape(c, -1), truth)
        # The order is constant around almost every point: what an error is multiplied with has no gradient.
        slopes = jaccard_slopes(errors, truth, measure.reshape(-1)).to(scores.dtype)
        value = (errors * slopes).sum(1)
        slopes = torch.where(truth, -slopes, slopes).mul_(errors > 0)
        return value, slopes.view(c, n, -1).transpose(0, 1)


def jaccard_slopes(errors: Tensor, truth: Tensor, measure: Tensor) -> Tensor:
    r"""Return what each pixel adds to the Jaccard loss of those with larger errors, :math:`g` of Eq. (9).

    One more labelled pixel of measure m shrinks the intersection I, by :math:`m / U`; one more other pixel
    grows the union U, by :math:`I m / (U (U + m))`. Written so, small steps do not cancel as differences of
    neighbouring losses would.

    Args:
        errors: Of every pixel, (C, P).
        truth: Whether the pixel is labelled as the class, (C, P).
        measure: How much each pixel counts, float64 (P,); 0 where ignored.

    Returns:
        Slopes, float64 (C, P), 0 where ignored.
    """
    order = errors.masked_fill(measure == 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
    size, truth = measure[order], truth.gather(1, order)
    covered = (size * truth).cumsum(1)
    intersection = covered[:, -1:] - covered
    union = intersection + size.cumsum(1)  # after this pixel
    slopes = torch.where(truth, size / union, intersection * size / (union * (union - size)))
    slopes = torch.where((union == size) & ~truth, 1, slopes)  # first pixel of a class that has none
    slopes = torch.where(size > 0, slopes, 0)
    return torch.zeros_like(slopes).scatter_(1, order, slopes)


@MODELS.register_module()
class LovaszSoftmaxLoss(LovaszLoss):
    r"""Lovász-Softmax loss: errors :math:`|[y = c] - p_c|` of the softmax, averaged over classes.

    An absent class that counts (``classes='all'``) costs its largest probability. A pixel's ``weight``
    is its size in the intersection and the union.

    Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, Eq. (8), (9), (11), (12).

    Args:
        **kwargs: ``classes``, ``per_image`` and class weights, see
            :class:`~mmseol.losses.base.region.RegionLoss`, and arguments of every loss.
    """

    def scores(self, pred: Tensor) -> Tensor:
        """Return the probabilities."""
        return pred.softmax(1)

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of the probabilities from the one-hot labels."""
        return (scores - truth.to(scores.dtype)).abs()


@MODELS.register_module()
class LovaszHingeLoss(LovaszLoss):
    r"""Lovász hinge of every class against the rest: errors :math:`\max(0, 1 - a_c s_c)` of raw outputs.

    :math:`s_c` is 1 at pixels of class c and -1 elsewhere. The authors define the binary loss of one output
    z; it is this one for outputs (-z, z) and ``classes=[1], per_image=True``. The mean over classes is ours.

    Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, Eq. (8), (9), after Yu & Blaschko, "The
    Lovász Hinge", TPAMI 2018.

    Args:
        **kwargs: ``classes``, ``per_image`` and class weights, see
            :class:`~mmseol.losses.base.region.RegionLoss`, and arguments of every loss.
    """

    def scores(self, pred: Tensor) -> Tensor:
        """Return the raw outputs."""
        return pred

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the hinge of the outputs."""
        return (1 + torch.where(truth, -scores, scores)).relu()
