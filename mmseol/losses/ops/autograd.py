"""Values with a gradient computed beside them, where autograd would keep many copies of the outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.ops.inputs import is_compiling

__all__ = ["with_elementwise_gradient", "with_gradient"]

# Whether backward keeps the graph (retain_graph=True); torch 2.1 cannot tell, so assume that it does.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def with_gradient(pred: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the scalar ``value`` such that its backward pass gives ``gradient`` to ``pred``.

    >>> pred = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> with_gradient(pred, torch.tensor(25.0), 2 * pred.detach()).backward()
    >>> pred.grad
    tensor([6., 8.])

    Args:
        pred: Outputs to differentiate by.
        value: The scalar.
        gradient: Its derivative, of ``pred``'s shape; ``None`` if no gradient is needed. Backward reuses
            this tensor as the gradient unless ``retain_graph=True``.

    Returns:
        ``value``, differentiable once; a second derivative raises an error that names the remedy.
    """
    return value if gradient is None else _WithGradient.apply(pred, value, gradient)


def with_elementwise_gradient(
    outputs: Tensor, value: Tensor, gradient: Tensor, dim: int | tuple[int, ...]
) -> Tensor:
    """Return ``value`` with ``gradient`` as its derivative by ``outputs``, differentiable once.

    Args:
        outputs: Outputs to differentiate by.
        value: A constant, of the shape that ``outputs`` has when summed over ``dim``.
        gradient: Derivative of the value by each output, a constant of the outputs' shape.
        dim: Dimensions that the value sums over.
    """
    return _WithElementwiseGradient.apply(outputs, value, gradient, dim)


class _WithElementwiseGradient(Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, value: Tensor, gradient: Tensor, dim: int | tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dim = (dim,) if isinstance(dim, int) else dim
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled() and not is_compiling():  # by create_graph=True, as below
            raise RuntimeError("This loss is differentiable once; it cannot be used with create_graph=True.")
        (gradient,) = ctx.saved_tensors
        for dim in sorted(ctx.dim):
            factor = factor.unsqueeze(dim)
        return gradient * factor, None, None, None


class _WithGradient(Function):
    @staticmethod
    def forward(ctx: Any, pred: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        # No save_for_backward: its reference would make autograd copy the gradient into a leaf's `grad`.
        ctx.gradient, ctx.dtype = gradient, pred.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # by create_graph=True; a gradient penalty would silently be a constant
            raise RuntimeError(
                "This loss is differentiable once. For create_graph=True, take the mean or sum of the losses "
                "of reduction_override='none', which are differentiable any number of times."
            )
        gradient = ctx.gradient
        if gradient is None:
            raise RuntimeError(
                "Trying to backward through the graph a second time. Specify retain_graph=True in the first "
                "call."
            )
        if _keeps_graph():
            gradient = gradient * factor
        else:
            ctx.gradient = None
            if factor.is_cuda or factor.item() != 1:
                gradient.mul_(factor)
        return gradient.to(ctx.dtype), None, None
