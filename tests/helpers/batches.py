"""Random outputs and labels for the tests of losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = 255


def batch(
    shape: Sequence[int] = (2, 4, 3),
    classes: int = 5,
    *,
    outputs: Sequence[int] | None = None,
    ignored: float = 0.2,
    scale: float = 3.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 3,
) -> tuple[Tensor, Tensor]:
    """Return outputs, which require a gradient, and integer labels.

    Args:
        shape: Shape of the labels, (N, *).
        classes: K.
        outputs: Spatial size of the outputs where it is not that of the labels.
        ignored: Fraction of the labels that are :data:`IGNORE`.
        scale: Standard deviation of the outputs.
        dtype: Type of the outputs.
        seed: Seed of everything drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    size = shape[1:] if outputs is None else outputs
    pred = torch.randn(shape[0], classes, *size, generator=generator, dtype=dtype) * scale
    target = torch.randint(0, classes, tuple(shape), generator=generator)
    target[torch.rand(tuple(shape), generator=generator) < ignored] = IGNORE
    if ignored < 1 and target.numel() >= 4 * classes:
        target.view(-1)[:classes] = torch.arange(classes)  # a class that is missing hides its own errors
    return pred.requires_grad_(), target


def soft_labels(pred: Tensor, seed: int = 5) -> Tensor:
    """Return labels of ``pred``'s shape that are positive and sum to 1 over the classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(pred.shape, dtype=torch.float64, generator=generator).softmax(1)
