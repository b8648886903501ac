"""Values whose gradient is written out, where automatic differentiation would keep many copies of outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.ops.inputs import is_compiling

__all__ = ["with_gradient", "with_slopes"]

# Tells whether the graph lives on (retain_graph); torch 2.1 does not say, so there it might.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def with_gradient(pred: Tensor, value: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the scalar ``value`` such that its backward pass hands ``gradient`` to ``pred``.

    Args:
        pred: What is differentiated by.
        value: The scalar.
        gradient: Its derivative, of ``pred``'s shape; ``None`` if nobody will ask. Backward scales it in
            place and gives it away unless the graph is retained.

    Returns:
        ``value``, differentiable once; a second derivative raises an error that says what to do.
    """
    return value if gradient is None else _WithGradient.apply(pred, value, gradient)


def with_slopes(value: Tensor, outputs: Tensor, slopes: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return ``value`` with ``slopes`` as its gradient to ``outputs``, once differentiable.

    Args:
        value: A constant, of the shape that ``outputs`` has when summed over ``dim``.
        outputs: What to differentiate by.
        slopes: Derivative of the value by each output, a constant of the outputs' shape.
        dim: Dimensions that the value sums over.
    """
    return _WithSlopes.apply(outputs, value, slopes, dim)


class _WithSlopes(Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, value: Tensor, slopes: Tensor, dim: int | tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(slopes)
        ctx.dim = (dim,) if isinstance(dim, int) else dim
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled() and not is_compiling():  # by create_graph=True, as below
            raise RuntimeError("This loss is differentiable once; it cannot be used with create_graph=True.")
        (slopes,) = ctx.saved_tensors
        for dim in sorted(ctx.dim):
            factor = factor.unsqueeze(dim)
        return slopes * factor, None, None, None


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
                "This loss is differentiable once. For create_graph=True, take the mean or sum of what "
                "reduction_override='none' returns, which is differentiable any number of times."
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
