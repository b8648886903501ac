"""Values with a written-out gradient, where automatic differentiation would keep many copies of outputs."""

from __future__ import annotations

from torch import Tensor

__all__ = ["with_gradient"]


def with_gradient(value: Tensor, outputs: Tensor, slopes: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return ``value`` with ``slopes`` as its gradient to ``outputs``, once differentiable.

    Args:
        value: A constant, of the shape that ``outputs`` has when summed over ``dim``.
        outputs: What to differentiate by.
        slopes: Derivative of the value by each output, a constant of the outputs' shape.
        dim: Dimensions that the value sums over.
    """
    linear = (outputs * slopes).sum(dim)
    return value + (linear - linear.detach())  # adds exactly 0
