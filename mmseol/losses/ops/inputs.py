"""Inputs of a loss: check shapes and labels, mask ignored elements, and split a batch into chunks."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CHUNK",
    "Labels",
    "check_labels",
    "check_shapes",
    "chunks",
    "expand_weight",
    "is_compiling",
    "lift",
    "mask_ignored",
    "with_channels",
]

# torch 2.1 has it in a private place only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling


class Labels(NamedTuple):
    """Integer labels, looked at piece by piece."""

    target: Tensor
    """Labels, (N, *)."""
    valid: Tensor
    """Which of them are not ignored, (N, *)."""
    classes: int
    """K."""
    ignore_index: int
    """Label of the others."""

    @classmethod
    def of(cls, target: Tensor, classes: int, ignore_index: int) -> Labels:
        """Return ``target``'s labels with a mask of those that are not ``ignore_index``."""
        return cls(target, target != ignore_index, classes, ignore_index)

    def piece(self, where: Any) -> tuple[Tensor, Tensor]:
        """Return the labels at an index, int64, 0 where ignored, and where they are not.

        Raises:
            ValueError: If one of them is no class.
        """
        valid = self.valid[where]
        # All bits of a label or none: half the time of `torch.where`.
        label = valid.view(torch.uint8).long().neg_().bitwise_and_(self.target[where].long())
        check_labels(label, self.classes, self.ignore_index)
        return label, valid


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise if labels, 0 where ignored, are not in [0, classes); on a GPU, torch's indexing does that."""
    if target.device.type != "cpu" or not target.numel() or is_compiling():
        return
    low, high = (bound.item() for bound in torch.aminmax(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"`target` must lie in [0, {classes}) or equal `ignore_index` ({ignore_index}), got "
            f"{low if low < 0 else high}. Correct the labels, the head's num_classes or `ignore_index`."
        )


def mask_ignored(pred: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs and labels, both zero where ignored, and where they are not, (N, *)."""
    if target.dim() == pred.dim():
        valid = torch.ones_like(pred[:, 0], dtype=torch.bool)
        return pred, target.to(pred.dtype), valid
    valid = target != ignore_index
    target = torch.where(valid, target, 0).long()
    check_labels(target, pred.shape[1], ignore_index)
    return torch.where(valid.unsqueeze(1), pred, 0), target, valid


def lift(pred: Tensor) -> Tensor:
    """Return half-precision outputs in float32, others as they are."""
    return pred.float() if pred.dtype in (torch.float16, torch.bfloat16) else pred


def check_shapes(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if pred.dim() < 2 or not pred.is_floating_point():
        raise ValueError(f"`pred` must be floating-point (N, K, *), got {pred.dtype} {tuple(pred.shape)}.")
    if pred.shape[1] < 2:
        raise ValueError(
            f"`pred` must have at least 2 classes, got shape {tuple(pred.shape)}. A head with out_channels=1 "
            "is a sigmoid with a threshold; use num_classes=2 and out_channels=2."
        )
    positions = pred.shape[:1] + pred.shape[2:]
    if target.dim() == pred.dim():
        if target.shape != pred.shape:
            raise ValueError(
                f"soft `target` must be of `pred`'s shape {tuple(pred.shape)}, got {tuple(target.shape)}."
            )
    elif target.shape != positions:
        raise ValueError(
            f"`target` must be of shape {tuple(positions)} (labels) or {tuple(pred.shape)} (soft labels) "
            f"for `pred` of shape {tuple(pred.shape)}, got {tuple(target.shape)}."
        )
    elif target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"`target` of shape {tuple(target.shape)} must hold integer labels, got {target.dtype}."
        )
    if weight is not None and weight.shape not in (positions, pred.shape[:1]):
        raise ValueError(
            f"`weight` must be of shape {tuple(positions)} or ({pred.shape[0]},), got {tuple(weight.shape)}."
        )


def expand_weight(weight: Tensor, loss: Tensor) -> Tensor:
    """Return the weights of samples or positions in a shape that multiplies ``loss``, (N, *)."""
    return weight.to(loss.dtype).reshape(weight.shape + (1,) * (loss.dim() - weight.dim()))


# Elements of a chunk: 4 MB in float32 stay in the cache; a GPU wants few, large kernels.
CHUNK = {"cpu": 2**20, "cuda": 2**24}

Where = tuple[slice, ...]


def chunks(outputs: Tensor) -> list[Where]:
    """Return the indices that split (N, *) of outputs (N, K, *) into chunks that fit in the CPU cache.

    Along N and, where one sample is larger than a chunk, along the first dimension after K. It is a list:
    compilers do not follow generators.
    """
    shape, elements = outputs.shape, CHUNK.get(outputs.device.type, CHUNK["cpu"])
    if len(shape) == 2:
        step = elements // shape[1] + 1
        return [(slice(start, start + step),) for start in range(0, shape[0], step)]
    row = max(shape[1] * prod(shape[3:]), 1)
    samples, rows = max(elements // (row * max(shape[2], 1)), 1), max(elements // row, 1)
    return [
        (slice(n, n + samples), slice(start, start + rows))
        for n in range(0, shape[0], samples)
        for start in range(0, shape[2], rows)
    ]


def with_channels(where: Where) -> Where:
    """Return the index into outputs (N, K, *) that goes with one into (N, *)."""
    return (where[0], slice(None), *where[1:])
