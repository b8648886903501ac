"""The half squared error of outputs and labels of one size, and its gradient, in one pass over pieces."""

from __future__ import annotations

import torch
from torch import Tensor

from mmseol.losses.ops.inputs import Labels, chunks, expand_weight, with_channels

__all__ = ["half_squared_error", "half_squared_error_sum"]


def half_squared_error(pred: Tensor, target: Tensor, values: Tensor) -> Tensor:
    r"""Return :math:`\sum_k \frac12 (a_k - t_k)^2` of each position.

    Args:
        pred: Raw outputs :math:`a`, (N, K, *).
        target: Labels y, (N, *), where :math:`t_k = v_y [k = y]`; or soft labels s, (N, K, *), where
            :math:`t_k = s_k v_k`.
        values: Target value :math:`v_k` of each class, (K,).

    Returns:
        Losses, (N, *); their gradient is :math:`a - t`.
    """
    if target.dim() == pred.dim():
        residual = pred - target * values.view(1, -1, *[1] * (pred.dim() - 2))
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

    Beside the gradient, which is written once, only pieces that fit in the cache are allocated.

    Args:
        pred: Raw outputs :math:`a`, (N, K, *).
        labels: Labels y, (N, *).
        values: Target value :math:`v_k` of each class, (K,).
        weight: Weights :math:`w`, (N, *) or (N,).
        divisor: d, a scalar.
        requires_grad: Whether the gradient is wanted.

    Returns:
        The value, a scalar, and the gradient, (N, K, *), in float32, or float64 for such outputs.
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    gradient = torch.empty_like(pred, dtype=dtype) if requires_grad else None
    values, scale = -values.to(dtype), (1 / divisor).to(dtype)
    total = torch.zeros((), dtype=torch.float64, device=pred.device)
    for where in chunks(pred):
        label, valid = labels.piece(where)
        channels = with_channels(where)
        out = torch.empty_like(pred[channels], dtype=dtype) if gradient is None else gradient[channels]
        if weight is not None:
            piece_weight = weight[where[0]] if weight.dim() == 1 else weight[where]
            factor = expand_weight(piece_weight, out[:, 0])
        total += _piece(pred[channels], label, valid, values, None if weight is None else factor, scale, out)
    return (total / divisor).to(dtype), gradient


def _piece(
    pred: Tensor,
    label: Tensor,
    valid: Tensor,
    negative: Tensor,
    weight: Tensor | None,
    scale: Tensor,
    out: Tensor,
) -> Tensor:
    """Write the gradient of one piece to ``out`` and return its part of the sum before division."""
    out.copy_(pred)
    # a - t; not a^2 - 2at + t^2, which cancels once a is near t.
    shift = negative.index_select(0, label.reshape(-1)).view_as(label)
    out.scatter_add_(1, label.unsqueeze(1), shift.unsqueeze(1))
    if pred.device.type != "cpu" or not valid.all():
        _zero_where_not(valid, out)
    square = out.square()
    if weight is None:
        total = square.sum()
        out.mul_(scale)
    else:
        total = (square.sum(1) * weight).sum()
        out.mul_((weight * scale).unsqueeze(1))
    return 0.5 * total.double()


def _zero_where_not(valid: Tensor, out: Tensor) -> None:
    """Zero ``out``, (N, K, *), where not ``valid``, (N, *), whatever stands there: NaN * 0 would be NaN."""
    bits = torch.int32 if out.dtype == torch.float32 else torch.int64
    out.view(bits).bitwise_and_(-valid.to(bits).unsqueeze(1))  # 5 times as fast as masked_fill_
