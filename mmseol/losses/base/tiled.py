"""Losses of outputs that are made, or differentiated, one tile at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmseol.losses.ops.autograd import outside_graphs, with_gradient
from mmseol.losses.ops.compiled_versions import for_device
from mmseol.losses.ops.inputs import Labels
from mmseol.losses.ops.softmax import softmax_sums
from mmseol.losses.ops.tiles import TILE, LabelGrid, Tile, Visitor, differentiate

if TYPE_CHECKING:
    from mmseol.losses.base.class_loss import ClassLoss, Reduction

__all__ = [
    "element_losses",
    "evaluate_tiles",
    "fits_one_pass",
    "fits_tiles",
    "grid_divisor",
    "has_element_losses",
    "is_large",
    "visit_elements",
]


def fits_tiles(loss: ClassLoss, target: Tensor, dims: int, weight: Tensor | None, reduction: str) -> bool:
    """Return whether a call can be evaluated tile by tile, with its gradient computed in the same pass.

    Soft labels, ``'none'`` and weights that require a gradient cannot, nor can losses whose elements depend
    on each other (``per_element = False``) unless they override :meth:`ClassLoss.evaluate_grid`.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> labels = torch.zeros(1, 4, 4, dtype=torch.long)
    >>> [fits_tiles(CrossEntropyLoss(), labels, 4, None, reduction) for reduction in ("mean", "none")]
    [True, False]

    Args:
        loss: The loss.
        target: Labels.
        dims: Number of dimensions of the outputs.
        weight: Weights of pixels or samples, if any.
        reduction: Reduction of the call.
    """
    if not fits_one_pass(target, dims, weight, reduction):
        return False
    overridden = _owner(loss, "evaluate_grid")
    if overridden is not _base(loss, "evaluate_grid"):  # unless a subclass changes the equation
        equations = [name for name in ("evaluate", "position_loss", "class_losses") if hasattr(loss, name)]
        return all(issubclass(overridden, _owner(loss, name)) for name in equations)
    return has_element_losses(loss)


def has_element_losses(loss: ClassLoss) -> bool:
    """Return whether :func:`element_losses` gives the loss of every pixel.

    >>> from mmseol.losses import CrossEntropyLoss, DiceLoss, OneHotMSELoss
    >>> [has_element_losses(loss) for loss in (CrossEntropyLoss(), OneHotMSELoss(), DiceLoss())]
    [True, True, False]
    """
    adds_elements = vars(_owner(loss, "evaluate")).get("adds_elements", False)
    return loss.per_element and loss.takes_avg_factor and adds_elements


def fits_one_pass(target: Tensor, dims: int, weight: Tensor | None, reduction: str) -> bool:
    """Return whether the gradient of a call can be computed in the same pass, whatever the loss.

    >>> labels = torch.zeros(1, 4, 4, dtype=torch.long)
    >>> fits_one_pass(labels, 4, None, "mean"), fits_one_pass(labels, 4, None, "none")
    (True, False)

    Args:
        target: Labels.
        dims: Number of dimensions of the outputs.
        weight: Weights of pixels or samples, if any.
        reduction: Reduction of the call.
    """
    return target.dim() != dims and reduction != "none" and not (weight is not None and weight.requires_grad)


def is_large(pred: Tensor) -> bool:
    """Return whether outputs of label size fill a tile in each image; autograd is faster for smaller ones.

    >>> is_large(torch.zeros(128, 10)), is_large(torch.zeros(1, 11, 320, 320))
    (False, True)
    """
    return pred.dim() > 2 and pred[:1].numel() >= TILE["cpu"]


@outside_graphs
def evaluate_tiles(
    loss: ClassLoss,
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
    avg_factor: float | Tensor | None,
    align_corners: bool = False,
) -> Tensor:
    """Return the loss before ``loss_weight``, with its gradient computed in the same pass.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> pred, target = torch.zeros(1, 2, 1, 1), torch.zeros(1, 4, 4, dtype=torch.long)
    >>> evaluate_tiles(CrossEntropyLoss(), pred, target, None, 255, "mean", None)
    tensor(0.6931)

    Args:
        loss: The loss; the call must fit (:func:`fits_tiles`).
        pred: Raw outputs, (N, K, h, w), or of label size, (N, K, *).
        target: Labels, (N, H, W), or (N, *).
        weight: Weights of pixels or samples.
        ignore_index: The ignored label.
        reduction: ``'mean'`` or ``'sum'``.
        avg_factor: As of :meth:`ClassLoss.forward`.
        align_corners: As of :func:`torch.nn.functional.interpolate`.
    """
    labels = Labels.of(target, pred.shape[1], ignore_index)
    requires_grad = torch.is_grad_enabled() and pred.requires_grad
    with torch.no_grad():
        grid = LabelGrid(pred, labels, weight, align_corners, requires_grad)
        value, gradient = loss.evaluate_grid(grid, reduction, avg_factor)
        value = value.to(grid.dtype)
    return with_gradient(pred, value, gradient)


@outside_graphs
@torch.no_grad()
def element_losses(
    loss: ClassLoss, pred: Tensor, target: Tensor, ignore_index: int, align_corners: bool = False
) -> Tensor:
    """Return the loss of every pixel of upsampled outputs, (N, H, W), 0 where ignored, without gradient.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> target = torch.tensor([[[0, 1, 255, 1]]])
    >>> element_losses(CrossEntropyLoss(), torch.zeros(1, 2, 1, 2), target, 255)
    tensor([[[0.6931, 0.6931, 0.0000, 0.6931]]])

    Args:
        loss: The loss; it must have a loss of every pixel (:func:`has_element_losses`).
        pred: Raw outputs, (N, K, h, w).
        target: Labels, (N, H, W).
        ignore_index: The ignored label.
        align_corners: As of :func:`torch.nn.functional.interpolate`.
    """
    grid = LabelGrid(pred, Labels.of(target, pred.shape[1], ignore_index), None, align_corners)
    made = pred.new_zeros(target.shape, dtype=grid.dtype)

    def write(tile: Tile) -> Tensor:
        losses = _tile_losses(loss, loss.position_loss, tile)
        made[tile.image][tile.where] = losses[0] if tile.upsample is None else losses.T
        return losses.new_zeros(())

    grid.visit(differentiate(write))
    return loss.loss_weight * made


def grid_divisor(
    loss: ClassLoss, grid: LabelGrid, reduction: Reduction, avg_factor: float | Tensor | None
) -> Tensor:
    """Return the divisor of a call, a scalar, without labels of the whole batch in memory if possible.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> labels = Labels.of(torch.zeros(1, 4, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> grid = LabelGrid(torch.zeros(1, 2, 1, 1), labels)
    >>> grid_divisor(CrossEntropyLoss(class_weight=[0.5, 1.0]), grid, "mean", None)
    tensor(8.)
    """
    target, valid = grid.labels.target, grid.labels.valid
    weight = loss.class_weight_like(grid.pred[:0].double())
    if reduction == "mean" and avg_factor is None and weight is not None:
        if _owner(loss, "divisor") is not _base(loss, "divisor"):
            target, valid = grid.labels.chunk(...)
        elif loss.normalize == "weight":
            avg_factor = (grid.labels.counts() * weight).sum()
    return loss._resolve_divisor(target, valid, reduction, avg_factor, grid.dtype)


def visit_elements(
    loss: ClassLoss,
    grid: LabelGrid,
    divisor: Tensor,
    position_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return the sum of the losses of all elements, divided by ``divisor``, and its gradient.

    ``position_loss`` takes the place of the loss's own.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> labels = Labels.of(torch.zeros(1, 4, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> visit_elements(CrossEntropyLoss(), LabelGrid(torch.zeros(1, 2, 1, 1), labels), torch.tensor(16.0))
    (tensor(0.6931, dtype=torch.float64), None)
    """
    scale = (1 / divisor.double()).to(grid.dtype) if grid.requires_grad else None
    form = loss.softmax_form() if position_loss is None else None
    if form is not None and issubclass(_owner(loss, "softmax_form"), _owner(loss, "position_loss")):
        form = form._replace(weight=loss.class_weight_like(grid.pred[:0].to(grid.dtype)))
        compute = softmax_sums if grid.same_size else for_device(softmax_sums, grid.pred)
        totals, gradient = compute(grid, form, scale)
    else:
        totals, gradient = grid.visit(_differentiated(loss, position_loss or loss.position_loss, scale))
    return totals.sum() / divisor, gradient


def _differentiated(
    loss: ClassLoss, position_loss: Callable[[Tensor, Tensor, Tensor], Tensor], scale: Tensor | None
) -> Visitor:
    """Return the visitor that sums the losses of pixels, differentiated by autograd."""

    def total(tile: Tile) -> Tensor:
        losses = _tile_losses(loss, position_loss, tile)
        return (losses if tile.weight is None else losses * tile.weight).sum()

    return differentiate(total, scale)


def _tile_losses(
    loss: ClassLoss, position_loss: Callable[[Tensor, Tensor, Tensor], Tensor], tile: Tile
) -> Tensor:
    """Return the losses of a tile's pixels, as its labels, 0 where ignored."""
    losses = torch.where(tile.valid, position_loss(tile.outputs, tile.label, tile.valid), 0)
    if loss._class_factor is not None:
        class_weight = loss.weight_of(tile.outputs, tile.label)
        assert class_weight is not None
        losses = losses * class_weight
    return losses


def _owner(loss: ClassLoss, name: str) -> type:
    """Return the class that defines a method of the loss."""
    return next(cls for cls in type(loss).__mro__ if name in vars(cls))


def _base(loss: ClassLoss, name: str) -> type:
    """Return the first class that defines a method: ``ClassLoss``."""
    return [cls for cls in type(loss).__mro__ if name in vars(cls)][-1]
