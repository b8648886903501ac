"""Values with a gradient computed beside them, where autograd would keep many copies of the outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import Function

from mmseol.losses.ops.inputs import is_compiling

__all__ = ["limit_half_gradients", "outside_graphs", "with_elementwise_gradient", "with_gradient"]

_HALF_MAX = torch.finfo(torch.float16).max
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])

# Whether backward keeps the graph (retain_graph=True); torch 2.1 cannot tell, so assume that it does.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def outside_graphs(function: AnyFunction) -> AnyFunction:
    """Decorate a function that ``torch.compile`` must not trace, as :func:`torch.compiler.disable`.

    That decorator imports ``torch._dynamo``, which takes seconds. This one imports nothing: it uses
    ``torch.compiler.disable`` once ``torch._dynamo`` has been imported, as it is before anything is compiled.

    >>> @outside_graphs
    ... def double(x):
    ...     return 2 * x
    >>> double(torch.tensor([1.0]))
    tensor([2.])
    """
    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined] # makes the compiler break the graph here
    return call  # type: ignore[return-value]


def limit_half_gradients(loss: Tensor, *inputs: tuple[Tensor | None, torch.dtype]) -> None:
    """Limit the gradient of ``loss`` to float16's range for inputs that were converted from float16.

    The limit is relative to the gradient that arrives at ``loss``: 65504 for ``loss.backward()``, and S times
    that if a gradient scaler multiplies the loss by S. Overflow due to the scaler must stay visible to it.

    >>> pred = torch.tensor([3.0], dtype=torch.float16, requires_grad=True)
    >>> converted = pred.float()
    >>> loss = 1e6 * converted.sum()
    >>> limit_half_gradients(loss, (converted, pred.dtype))
    >>> loss.backward()
    >>> pred.grad
    tensor([65504.], dtype=torch.float16)

    Compiled code does not limit.

    Args:
        loss: The loss, of any shape.
        inputs: Tensors in float32 that ``loss`` depends on, each with its dtype before conversion.
    """
    half = [tensor for tensor, dtype in inputs if dtype == torch.float16 and tensor is not None]
    half = [tensor for tensor in half if tensor.requires_grad]
    if not half or not loss.requires_grad or is_compiling():
        return
    factor: list[Tensor] = []

    def keep(gradient: Tensor) -> None:
        factor[:] = (
            [gradient.detach().abs().max() * _HALF_MAX] if gradient.numel() else [gradient.new_ones(())]
        )

    def limit(gradient: Tensor) -> Tensor:
        return gradient.clamp(-factor[0], factor[0])

    loss.register_hook(keep)
    for tensor in half:
        tensor.register_hook(limit)


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

    >>> outputs = torch.tensor([[3.0, 4.0]], requires_grad=True)
    >>> half_squares = with_elementwise_gradient(outputs, torch.tensor([12.5]), outputs.detach(), dim=1)
    >>> half_squares.sum().backward()
    >>> outputs.grad
    tensor([[3., 4.]])

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
        return gradient * factor, None, None, None  # not in place, which a vectorised Jacobian cannot do


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
        if ctx.dtype == torch.float16:  # as limit_half_gradients
            bound = factor.abs() * _HALF_MAX
            gradient = gradient.clamp(-bound, bound)
        return gradient.to(ctx.dtype), None, None
