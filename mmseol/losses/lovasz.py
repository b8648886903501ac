"""Lovász extensions of the Jaccard loss."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseol.losses.base.class_loss import Reduction, evaluate_once
from mmseol.losses.base.region import Classes, RegionLoss
from mmseol.losses.ops.autograd import with_elementwise_gradient
from mmseol.losses.ops.inputs import expand_weight, is_compiling
from mmseol.losses.ops.jaccard import jaccard_extension
from mmseol.losses.ops.planes import ClassPlanes, ProbabilityPlanes
from mmseol.losses.ops.tiles import LabelGrid
from mmseol.registry import MODELS

__all__ = ["LovaszHingeLoss", "LovaszSoftmaxLoss", "lovasz_hinge_loss", "lovasz_softmax_loss"]

_ELEMENTS = 2**21
"""Errors sorted at once: small maps sort many classes together, large ones one class at a time."""


class LovaszLoss(RegionLoss):
    r"""Lovász extension :math:`\sum_i m_{\pi_i} g_i` of the Jaccard loss of each class.

    :math:`m` are the errors of the pixels with respect to the class, :math:`\pi` sorts them, largest first,
    and :math:`g_i` is the increase of the Jaccard loss by the i-th pixel (Berman et al., CVPR 2018, Eq. (8),
    (9)). Each rank sorts its own pixels: several ranks equal one process only with ``per_image=True`` and
    ``sync_avg_factor=True``.
    """

    soft_targets: ClassVar[bool] = False

    def scores(self, pred: Tensor) -> Tensor:
        """Return the scores that are compared with the labels, of ``pred``'s shape."""
        raise NotImplementedError

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the errors of scores, not negative, which increase by 1 per unit in the wrong direction.

        Args:
            scores: Scores of some classes for every pixel, (C, P).
            truth: Mask of the pixels labelled as the class, (C, P).
        """
        raise NotImplementedError

    def class_losses(self, pred: Tensor, target: Tensor, pixel_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the Lovász extension of every class and the mask of the classes present, (B, K)."""
        n, k = pred.shape[:2]
        target, pixel_weight = target.reshape(n, -1), pixel_weight.reshape(n, -1).double()
        scores = self.scores(pred.reshape(n, k, -1))
        groups = [slice(i, i + 1) for i in range(n)] if self.per_image else [slice(None)]
        values, presence, gradient = scores.new_zeros(len(groups), k), [], torch.zeros_like(scores)
        with torch.no_grad():
            for i, group in enumerate(groups):
                empty = pixel_weight.new_zeros(k)
                labelled = empty.index_add(0, target[group].flatten(), pixel_weight[group].flatten())
                presence.append(labelled > 0)
                classes = self.chosen_classes(k)
                if self.classes == "present" and not is_compiling():
                    classes = presence[-1].nonzero().flatten().tolist()
                step = max(1, _ELEMENTS // max(1, pixel_weight[group].numel()))
                for start in range(0, len(classes), step):
                    part = classes[start : start + step]
                    values[i, part], gradient[group, part] = self._extension(
                        scores[group, part], target[group], pixel_weight[group], part
                    )
        if self.per_image:
            losses = with_elementwise_gradient(scores, values, gradient, 2)
        else:
            losses = with_elementwise_gradient(scores, values[0], gradient, (0, 2)).unsqueeze(0)
        return losses, torch.stack(presence)

    def evaluate_grid(
        self, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the loss and its gradient, class by class."""
        images, classes = grid.pred.shape[:2]
        weight = grid.labels.valid.to(grid.dtype)
        if grid.weight is not None:
            weight = weight * expand_weight(grid.weight, weight)
        groups = [slice(i, i + 1) for i in range(images)] if self.per_image else [slice(None)]
        present = torch.stack([self._labelled(grid, weight, group) > 0 for group in groups])
        # The loss is linear in those of the classes.
        losses = torch.zeros(present.shape, dtype=torch.float64, device=present.device, requires_grad=True)
        with torch.enable_grad():
            total = self.over_classes(losses, present, reduction)
        (factors,) = torch.autograd.grad(total, losses)
        planes = self.planes(grid)
        for k in self.chosen_classes(classes):
            needed = [bool(factor) for factor in factors[:, k].ne(0).tolist()]
            if not any(needed):
                continue
            scores = planes.scores(k)
            gradient = torch.zeros_like(scores)
            for i, group in enumerate(groups):
                if needed[i]:
                    truth = (grid.labels.target[group] == k).flatten()
                    errors = self.errors(scores[group].reshape(1, -1), truth.unsqueeze(0))[0]
                    valid = grid.labels.valid[group].flatten()
                    given = None if grid.weight is None else weight[group].flatten()
                    losses.data[i, k], by_score = jaccard_extension(errors, truth, valid, given)
                    gradient[group] = by_score.mul_(factors[i, k]).view_as(gradient[group])
            planes.add_gradient(k, scores, gradient)
        return (losses.detach() * factors).sum(), planes.gradient()

    def planes(self, grid: LabelGrid) -> ClassPlanes:
        """Return the scores of a grid, class by class."""
        raise NotImplementedError

    def _labelled(self, grid: LabelGrid, weight: Tensor, group: slice) -> Tensor:
        """Return the sum of the weights of the pixels of each class in some images, float64 (K,)."""
        total = torch.zeros(grid.pred.shape[1], dtype=torch.float64, device=weight.device)
        for n in range(len(grid.pred))[group]:
            label, _ = grid.labels.chunk(slice(n, n + 1))
            total.index_add_(0, label.flatten(), weight[n].flatten().double())
        return total

    def _extension(
        self, scores: Tensor, target: Tensor, pixel_weight: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return value, (C,), and gradient, (N, C, L), of some classes for scores (N, C, L)."""
        n, c, _ = scores.shape
        truth = target.reshape(1, -1) == torch.tensor(classes, device=target.device).unsqueeze(1)
        errors = self.errors(scores.transpose(0, 1).reshape(c, -1), truth)
        # The order is constant around almost every point, so the factor of an error has no gradient.
        factors = jaccard_gradient(errors, truth, pixel_weight.reshape(-1)).to(scores.dtype)
        value = (errors * factors).sum(1)
        gradient = torch.where(truth, -factors, factors).mul_(errors > 0)
        return value, gradient.view(c, n, -1).transpose(0, 1)


def jaccard_gradient(errors: Tensor, truth: Tensor, pixel_weight: Tensor) -> Tensor:
    r"""Return the increase of the Jaccard loss by each pixel in the order of errors, :math:`g` of Eq. (9).

    A labelled pixel of weight w reduces the intersection I and adds :math:`w / U`; another pixel increases
    the union U and adds :math:`I w / (U (U + w))`. In this form small steps do not cancel, as differences of
    neighbouring losses would.

    >>> errors, truth = torch.tensor([[0.9, 0.1]]), torch.tensor([[True, False]])
    >>> jaccard_gradient(errors, truth, torch.ones(2, dtype=torch.float64))
    tensor([[1., 0.]], dtype=torch.float64)

    Args:
        errors: Errors of each class, (C, P).
        truth: Mask of the pixels labelled as the class, (C, P).
        pixel_weight: Weight of each pixel, float64 (P,); 0 where ignored.

    Returns:
        Increases, float64 (C, P), 0 where ignored.
    """
    order = errors.argsort(dim=1, descending=True, stable=True)  # pixels of weight 0 change no sum
    size, truth = pixel_weight[order], truth.gather(1, order)
    covered = (size * truth).cumsum(1)
    intersection = covered[:, -1:] - covered
    union = intersection + size.cumsum(1)  # after this pixel
    steps = torch.where(truth, size / union, intersection * size / (union * (union - size)))
    steps = torch.where((union == size) & ~truth, 1, steps)  # first pixel of a class that has none
    steps = torch.where(size > 0, steps, 0)
    return torch.zeros_like(steps).scatter_(1, order, steps)


@MODELS.register_module()
class LovaszSoftmaxLoss(LovaszLoss):
    r"""Lovász-Softmax loss: errors :math:`|[y = c] - p_c|` of the softmax, averaged over classes.

    The loss of an absent class that counts (``classes='all'``) is its largest probability. A pixel's
    ``weight`` is its size in the intersection and the union.

    Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, Eq. (8), (9), (11), (12).

    >>> LovaszSoftmaxLoss()(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def scores(self, pred: Tensor) -> Tensor:
        """Return the probabilities."""
        return pred.softmax(1)

    def planes(self, grid: LabelGrid) -> ClassPlanes:
        """Return the probabilities, class by class."""
        return ProbabilityPlanes(grid)

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of the probabilities from the one-hot labels."""
        return (scores - truth.to(scores.dtype)).abs()


@MODELS.register_module()
class LovaszHingeLoss(LovaszLoss):
    r"""Lovász hinge of every class against the rest: errors :math:`\max(0, 1 - a_c s_c)` of raw outputs.

    :math:`s_c` is 1 for pixels of class c and -1 for others. The authors define the binary loss of one output
    z; it is this one for outputs (-z, z) and ``classes=[1], per_image=True``. The mean over classes is ours.

    Source: Berman et al., "The Lovász-Softmax loss", CVPR 2018, Eq. (8), (9), after Yu & Blaschko, "The
    Lovász Hinge", TPAMI 2018.

    >>> LovaszHingeLoss()(torch.tensor([[[2.0, 0.5], [-2.0, -0.5]]]), torch.tensor([[0, 0]]))
    tensor(0.2500)

    Args:
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    def scores(self, pred: Tensor) -> Tensor:
        """Return the raw outputs."""
        return pred

    def planes(self, grid: LabelGrid) -> ClassPlanes:
        """Return the raw outputs, class by class."""
        return ClassPlanes(grid)

    def errors(self, scores: Tensor, truth: Tensor) -> Tensor:
        """Return the hinge of the outputs."""
        return (1 + torch.where(truth, -scores, scores)).relu()


def lovasz_softmax_loss(
    pred: Tensor,
    target: Tensor,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the Lovász extension of errors :math:`|[y = c] - p_c|`, as :class:`LovaszSoftmaxLoss`.

    >>> lovasz_softmax_loss(torch.zeros(1, 2, 2), torch.tensor([[0, 0]]))
    tensor(0.5000)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *).
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        weight: Weight of each pixel, (N, *), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per class, (K,) or (N, K).
    """
    return evaluate_once(
        LovaszSoftmaxLoss,
        pred,
        target,
        weight,
        classes=classes,
        per_image=per_image,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def lovasz_hinge_loss(
    pred: Tensor,
    target: Tensor,
    *,
    classes: Classes = "present",
    per_image: bool = False,
    class_weight: Any = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the Lovász extension of :math:`\max(0, 1 - a_c s_c)`, as :class:`LovaszHingeLoss`.

    >>> lovasz_hinge_loss(torch.tensor([[[2.0, 0.5], [-2.0, -0.5]]]), torch.tensor([[0, 0]]))
    tensor(0.2500)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *).
        classes: As of :class:`~mmseol.losses.RegionLoss`; so are ``per_image`` and ``class_weight``.
        weight: Weight of each pixel, (N, *), or of each sample, (N,).
        ignore_index: Label of the pixels to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per class, (K,) or (N, K).
    """
    return evaluate_once(
        LovaszHingeLoss,
        pred,
        target,
        weight,
        classes=classes,
        per_image=per_image,
        class_weight=class_weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )
