"""Influence-balanced loss (Park et al., ICCV 2021)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmseol.losses.base.class_loss import Normalize, Reduction, evaluate_once
from mmseol.losses.base.tiled import evaluate_tiles, fits_one_pass, grid_divisor, is_large
from mmseol.losses.base.weighted import WeightedClassLoss
from mmseol.losses.cross_entropy import CrossEntropyLoss
from mmseol.losses.ops.autograd import limit_half_gradients, outside_graphs, with_gradient
from mmseol.losses.ops.inputs import Labels, is_compiling, lift
from mmseol.losses.ops.softmax import CrossEntropyVisitor, SoftmaxForm, derived
from mmseol.losses.ops.tiles import LabelGrid, Tile, Visitor, differentiate
from mmseol.registry import MODELS
from mmseol.utils.checks import number, whole_number

__all__ = ["InfluenceBalancedLoss", "influence_balanced_loss"]

_EPSILON = 1e-3
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@MODELS.register_module()
class InfluenceBalancedLoss(WeightedClassLoss):
    r"""Cross entropy divided by the influence of the sample on the decision boundary.

    .. math:: L = \frac1N \sum_i \frac{\alpha\, c_i (1 - e^{-c_i})^\gamma}
        {\lVert p_i - t_i \rVert_1 \lVert h_i \rVert_1 + 10^{-3}}, \qquad c_i = -w_{y_i} \log p_{i y_i}

    where :math:`h_i` are the features that the classifier reads, and :math:`w \propto 1/n` sums to K. The
    gradient flows through the influence too; for float16 features it is limited to the range of float16.
    ``mmseol.ClassifierFeatureHook`` sets the features and the epoch; before ``start_epoch`` the loss is
    plain, unweighted cross entropy. Features of a lower resolution than ``pred`` are brought to it by
    interpolation of :math:`\lVert h \rVert_1`. They are released after an evaluation, so that they hold no
    memory; an evaluation under ``no_grad``, as mmseg's samplers do it before the real one, keeps them.

    Source: Park et al., "Influence-Balanced Loss for Imbalanced Visual Classification", ICCV 2021, and the
    authors' code (pseulki/IB-Loss), which starts at epoch 100 of 200 with :math:`\alpha` 1000;
    ``gamma=1`` is their IB + focal.

    >>> loss = InfluenceBalancedLoss(scale=1.0, class_counts=[10, 10])
    >>> loss.set_features(torch.ones(1, 8))  # before each evaluation
    >>> loss(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.0866)

    Args:
        scale: :math:`\alpha`, above 0.
        gamma: Power of the focal factor, at least 0.
        start_epoch: Epoch, from 0, from which on the influence is used.
        class_weight: As of :class:`~mmseol.losses.WeightedClassLoss`; so are ``normalize``, for which
            the authors divide by the number, and ``beta``.
        class_counts: As of :class:`~mmseol.losses.ClassLoss`; so are the arguments after it.
    """

    exclusive_classes = True
    required_hooks = ("mmseol.ClassifierFeatureHook",)

    def __init__(
        self,
        scale: float = 1000.0,
        gamma: float = 0.0,
        start_epoch: int = 100,
        class_weight: Any = "inverse_frequency",
        normalize: Normalize = "count",
        *,
        beta: float = 0.9999,
        class_counts: Any = None,
        ignore_index: int = -100,
        loss_weight: float = 1.0,
        reduction: Reduction = "mean",
        loss_name: str | None = None,
        sync_avg_factor: bool = False,
    ) -> None:
        self.scale = number("scale", scale, above=0)
        self.gamma = number("gamma", gamma, at_least=0)
        self.start_epoch = whole_number("start_epoch", start_epoch, at_least=0)
        self._epoch: int | None = None
        self._norm: Tensor | None = None
        self._features_dtype = torch.float32
        self._align_corners = False
        super().__init__(
            class_weight,
            beta,
            normalize,
            class_counts=class_counts,
            ignore_index=ignore_index,
            loss_weight=loss_weight,
            reduction=reduction,
            loss_name=loss_name,
            sync_avg_factor=sync_avg_factor,
        )

    @property
    def wants_features(self) -> bool:
        """Whether the next evaluation needs features; it does not before ``start_epoch``."""
        return self._epoch is None or self._epoch >= self.start_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the number of completed epochs."""
        self._epoch = epoch

    def set_features(self, features: Tensor, align_corners: bool = False) -> None:
        """Set the input of the classifier, (N, F, *), for the next evaluation.

        Args:
            align_corners: How the model interpolates outputs, if its features are of lower resolution.

        Raises:
            ValueError: If the features are no floating-point (N, F, *).
        """
        if features.dim() < 2 or not features.is_floating_point():
            raise ValueError(
                f"`features` must be floating-point (N, F, *), got {features.dtype} {tuple(features.shape)}."
            )
        self._features_dtype = features.dtype
        dtype = torch.promote_types(features.dtype, torch.float32)  # a sum in half precision overflows
        self._norm = torch.linalg.vector_norm(features, ord=1, dim=1, dtype=dtype)
        self._align_corners = align_corners

    def current_class_weight(self) -> Tensor | None:
        """Return the class weights, or ``None`` before ``start_epoch``."""
        return None if self._norm is None else super().current_class_weight()

    def evaluate(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        """Return the loss and release the features."""
        if self._norm is None and self.wants_features:
            raise RuntimeError(
                "`InfluenceBalancedLoss` needs the features that the classifier reads, and got none. Let the "
                "hook hand them over:\n"
                "    custom_hooks = [dict(type='mmseol.ClassifierFeatureHook'), ...]\n"
                "or call loss.set_features(h), (N, F, *), before each evaluation."
            )
        call = target, weight, ignore_index, reduction, avg_factor
        one_pass = fits_one_pass(target, pred.dim(), weight, reduction) and not is_compiling()
        if self._norm is not None and one_pass and is_large(pred):
            loss = self._in_chunks(pred, *call)
        else:
            loss = super().evaluate(pred, *call)
        # alpha w / (|p - t| |h| + 1e-3) reaches a million where features vanish.
        limit_half_gradients(loss, (self._norm, self._features_dtype))
        if torch.is_grad_enabled():
            self._norm = None
        return loss

    def fits_upsampled(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, reduction: str, align_corners: bool
    ) -> bool:
        """As in the base, with norms of features of the outputs' size, or before they are needed."""
        if not fits_one_pass(target, 4, weight, reduction):
            return False
        if self._norm is None:
            return not self.wants_features
        return self._norm.shape == pred[:, 0].shape and self._align_corners == align_corners

    def evaluate_upsampled(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        """Return the loss, with norms of features that are upsampled as the outputs; release the features."""
        call = target, weight, ignore_index, reduction, avg_factor, align_corners
        if self._norm is None:
            plain = CrossEntropyLoss(sync_avg_factor=self.sync_avg_factor)
            return self.loss_weight * evaluate_tiles(plain, pred, *call)
        lifted, norm = lift(pred), self._norm
        loss = self.loss_weight * self._in_tiles(lifted, *call)
        limit_half_gradients(loss, (lifted, pred.dtype), (norm, self._features_dtype))
        if torch.is_grad_enabled():
            self._norm = None
        return loss

    @outside_graphs
    def _in_chunks(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
    ) -> Tensor:
        """Return the loss of outputs of label size, whose gradients are computed in the same pass."""
        assert self._norm is not None
        norm = self._norm_like(pred)
        # The interpolated norms are needed once and nowhere else: their gradient takes their memory.
        by_norm = norm.detach() if norm.shape != self._norm.shape else torch.zeros_like(norm)
        requires_grad = torch.is_grad_enabled() and (pred.requires_grad or norm.requires_grad)
        with torch.no_grad():
            labels = Labels.of(target, pred.shape[1], ignore_index)
            grid = LabelGrid(pred, labels, weight, requires_grad=requires_grad)
            divisor = grid_divisor(self, grid, reduction, avg_factor)
            scale = 1 / divisor if requires_grad else None
            visitor = _OfEntropy(self, norm.detach(), self.class_weight_like(pred[:0]), scale, by_norm)
            totals, gradient = grid.visit(visitor)
            value = (totals.sum() / divisor).to(grid.dtype)
        if gradient is None:
            return value
        return with_gradient(pred, value, gradient) + with_gradient(
            norm, value.new_zeros(()), visitor.by_norm
        )

    @outside_graphs
    def _in_tiles(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        avg_factor: float | Tensor | None,
        align_corners: bool,
    ) -> Tensor:
        """Return the loss of tiles whose last channel are the norms of the features."""
        assert self._norm is not None
        classes, norm = pred.shape[1], self._norm.unsqueeze(1).to(pred.dtype)
        # A power of 2, so that norms are no larger than outputs and lose no digits.
        unit = torch.exp2(norm.detach().max().clamp(min=1e-30).log2().ceil()) if norm.numel() else norm.sum()
        joint = torch.cat([pred, norm / unit], 1)

        def total(tile: Tile) -> Tensor:
            outputs, norms = tile.outputs[:, :classes], tile.outputs[:, classes] * unit
            losses = torch.where(tile.valid, self._elements(outputs, tile.label, norms), 0)
            return (losses if tile.weight is None else losses * tile.weight).sum()

        requires_grad = torch.is_grad_enabled() and joint.requires_grad
        with torch.no_grad():
            labels = Labels.of(target, classes, ignore_index)
            divisor = grid_divisor(self, LabelGrid(pred, labels), reduction, avg_factor)
            grid = LabelGrid(joint, labels, weight, align_corners, requires_grad)
            totals, gradient = grid.visit(differentiate(total, 1 / divisor if requires_grad else None))
            value = (totals.sum() / divisor).to(grid.dtype)
        return with_gradient(joint, value, gradient)

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every element, (N, *)."""
        if self._norm is None:
            return F.cross_entropy(pred, target, reduction="none")
        return self._elements(pred, target, torch.where(valid, self._norm_like(pred), 1))

    def _elements(self, pred: Tensor, target: Tensor, norm: Tensor) -> Tensor:
        """Return the loss of every element, (N, *), for norms of features, (N, *)."""
        entropy = F.cross_entropy(pred, target, reduction="none")
        if target.dim() == pred.dim():
            weighted = F.cross_entropy(pred, target, weight=self.class_weight_like(pred), reduction="none")
            distance = (pred.softmax(1) - target).abs().sum(1)
        else:
            weight = self.weight_of(pred, target)
            weighted = entropy if weight is None else weight * entropy
            distance = -2 * torch.expm1(-entropy)  # ||p - t||_1 = 2 (1 - p_y)
        return self._balanced(weighted, distance, norm)

    def _balanced(self, weighted: Tensor, distance: Tensor, norm: Tensor) -> Tensor:
        """Return the loss of every element, of its weighted cross entropy and its influence's two factors."""
        loss = weighted * self.scale / (distance * norm + _EPSILON)
        if self.gamma > 0:
            tiny = torch.finfo(loss.dtype).tiny  # keeps 0 ** (gamma - 1) out of the gradient
            loss = loss * (-torch.expm1(-weighted)).clamp(min=tiny) ** self.gamma
        return loss

    def _norm_like(self, pred: Tensor) -> Tensor:
        """Return the norm of the features of each of ``pred``'s elements, (N, *)."""
        assert self._norm is not None
        norm, shape = self._norm.to(pred.dtype), pred.shape[2:]
        if norm.dim() != pred.dim() - 1 or norm.shape[0] != pred.shape[0]:
            raise ValueError(
                f"`features` must be (N, F, *) of the {pred.shape[0]} samples and {len(shape)} dimensions of "
                f"`pred` {tuple(pred.shape)}, got norms of shape {tuple(norm.shape)}."
            )
        if norm.shape[1:] == shape:
            return norm
        mode = _LINEAR[len(shape)]
        norm = F.interpolate(norm.unsqueeze(1), shape, mode=mode, align_corners=self._align_corners)
        return norm.squeeze(1)


class _OfEntropy(Visitor):
    """Sum the loss of outputs of label size, and write its gradient by the norms of the features.

    Args:
        loss: The loss.
        norm: Norms, (N, *).
        weight: Class weights, (K,).
        scale: Factor of the gradients; ``None`` if none is needed.
        by_norm: Memory of the gradient by the norms, (N, *), if one is needed; may be that of the norms.
    """

    def __init__(
        self,
        loss: InfluenceBalancedLoss,
        norm: Tensor,
        weight: Tensor | None,
        scale: Tensor | None,
        by_norm: Tensor,
    ) -> None:
        self.loss, self.norm, self.weight, self.scale, self.by_norm = loss, norm, weight, scale, by_norm

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        norm = self.norm[tile.image][tile.where].unsqueeze(0)
        norm = torch.where(tile.valid, norm, 1)

        def balanced(entropy: Tensor, weight: Tensor | None) -> Tensor:
            distance = -2 * torch.expm1(-entropy)  # ||p - t||_1 = 2 (1 - p_y)
            loss = self.loss._balanced(entropy if weight is None else weight * entropy, distance, norm)
            if self.scale is not None:
                with torch.no_grad():
                    by_norm = -loss * distance / (distance * norm + _EPSILON) * tile.factor() * self.scale
                    self.by_norm[tile.image][tile.where] = by_norm[0]
            return loss

        form = SoftmaxForm(weight=self.weight, modulate=derived(balanced))
        return CrossEntropyVisitor(form, self.scale)(tile)


def influence_balanced_loss(
    pred: Tensor,
    target: Tensor,
    features: Tensor,
    scale: float = 1000.0,
    gamma: float = 0.0,
    *,
    class_weight: Any = None,
    normalize: Normalize = "count",
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return cross entropy divided by the sample's influence, as :class:`InfluenceBalancedLoss`.

    >>> influence_balanced_loss(torch.zeros(1, 2), torch.tensor([0]), torch.ones(1, 8), scale=1.0)
    tensor(0.0866)

    Args:
        pred: Raw outputs, (N, K, *).
        target: Labels, integer (N, *), or soft labels, (N, K, *).
        features: Input of the classifier, (N, F, *); the gradient flows through them too.
        scale: :math:`\alpha`, above 0.
        gamma: Power of the focal factor, at least 0.
        class_weight: Weights :math:`w`, (K,); the authors' are proportional to 1/n and sum to K.
        normalize: As of :class:`~mmseol.losses.WeightedClassLoss`.
        weight: Factor of each element, (N, *), or of each sample, (N,).
        ignore_index: Label of the elements to leave out.
        reduction: ``'mean'``, ``'sum'``, or ``'none'`` for one loss per element, (N, *).
    """

    def build() -> InfluenceBalancedLoss:
        loss = InfluenceBalancedLoss(
            scale,
            gamma,
            class_weight=class_weight,
            normalize=normalize,
            ignore_index=ignore_index,
            reduction=reduction,
        )
        loss.set_features(features)
        return loss

    return evaluate_once(build, pred, target, weight)
