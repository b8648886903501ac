"""The half squared error of outputs and labels of one size, and its gradient, in one pass over chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseol.losses.ops.inputs import Labels, by_class, chunks, expand_weight, with_channels, zero_invalid

__all__ = ["half_squared_error", "half_squared_error_sum"]


def half_squared_error(pred: Tensor, target: Tensor, values: Tensor) -> Tensor:
    r"""Return :math:`\sum_k \frac12 (a_k - t_k)^2` of each element.

    >>> half_squared_error(torch.zeros(1, 3), torch.tensor([1]), torch.tensor([1.0, 2.0, 3.0]))
    tensor([2.])

    Args:
        pred: Raw outputs :math:`a`, (N, K, *).
        target: Labels y, (N, *), where :math:`t_k = v_y [k = y]`; or soft labels s, (N, K, *), where
            :math:`t_k = s_k v_k`.
        values: Target value :math:`v_k` of each class, (K,).

    Returns:
        Losses, (N, *); their gradient is :math:`a - t`.
    """
    if target.dim() == pred.dim():
        residual = pred - target * by_class(values, pred)
    else:
        # a - t without a one-hot tensor; not a^2 - 2at + t^2, which cancels once a is near t.
        residual = pred.scatter_add(1, target.unsqueeze(1), -values[target].unsqueeze(1))
    return 0.5 * residual.square().sum(1)


def half_squared_error_sum(
    pred: Tensor,
    labels: Labels,
    values: Tensor,
    weight: Tensor | None,
    divisor: Tensor,
    requires_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""Return :math:`\frac1d \sum_p w_p \sum_k \frac12 (a_{pk} - v_{y_p} [k = y_p])^2` and its gradient.

    Apart from the gradient, which is written once, it allocates only chunks that fit in the CPU cache.

    >>> labels = Labels.of(torch.tensor([1, 255]), classes=2, ignore_index=255)
    >>> pred, values, divisor = torch.ones(2, 2), torch.tensor([1.0, 3.0]), torch.tensor(1.0)
    >>> value, gradient = half_squared_error_sum(pred, labels, values, None, divisor, requires_grad=True)
    >>> value.item(), gradient.tolist()
    (2.5, [[1.0, -2.0], [0.0, 0.0]])

    Args:
        pred: Raw outputs :math:`a`, (N, K, *).
        labels: Labels y, (N, *).
        values: Target value :math:`v_k` of each class, (K,).
        weight: Weights :math:`w`, (N, *) or (N,).
        divisor: d, a scalar.
        requires_grad: Whether to compute the gradient.

    Returns:
        The value, a scalar, and the gradient, (N, K, *), in float32, or float64 for such outputs.
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    gradient = torch.empty_like(pred, dtype=dtype) if requires_grad else None
    values, scale = -values.to(dtype), (1 / divisor).to(dtype)
    total = torch.zeros((), dtype=torch.float64, device=pred.device)
    for where in chunks(pred):
        label, valid = labels.chunk(where)
        channels = with_channels(where)
        out = torch.empty_like(pred[channels], dtype=dtype) if gradient is None else gradient[channels]
        if weight is not None:
            chunk_weight = weight[where[0]] if weight.dim() == 1 else weight[where]
            factor = expand_weight(chunk_weight, out[:, 0])
        total += _write_chunk(
            pred[channels], label, valid, values, None if weight is None else factor, scale, out
        )
    return (total / divisor).to(dtype), gradient


def _write_chunk(
    pred: Tensor,
    label: Tensor,
    valid: Tensor,
    negative: Tensor,
    weight: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> Tensor:
    """Write the gradient of one chunk to ``out`` and return its part of the sum before division."""
    out.copy_(pred)
    # a - t; not a^2 - 2at + t^2, which cancels once a is near t.
    shift = negative.index_select(0, label.reshape(-1)).view_as(label)
    out.scatter_add_(1, label.unsqueeze(1), shift.unsqueeze(1))
    if pred.device.type != "cpu" or not valid.all():
        zero_invalid(valid, out)
    square = out.square()
    if weight is None:
        total = square.sum()
        out.mul_(scale)
    else:
        total = (square.sum(1) * weight).sum()
        out.mul_((weight * scale).unsqueeze(1))
    return 0.5 * total.double()
