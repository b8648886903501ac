"""Inputs of a loss: check shapes and labels, mask ignored elements, and split a batch into chunks."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "CHUNK",
    "Labels",
    "by_class",
    "check_labels",
    "check_shapes",
    "check_sums",
    "chunks",
    "expand_weight",
    "is_compiling",
    "lift",
    "mask_ignored",
    "with_channels",
    "zero_invalid",
]

# torch 2.1 has it in a private module only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling


class Labels(NamedTuple):
    """Integer labels of a batch and the mask of those that are not ignored.

    >>> Labels.of(torch.tensor([2, 255, 1]), classes=3, ignore_index=255).valid
    tensor([ True, False,  True])
    """

    target: Tensor
    """Labels, (N, *)."""
    valid: Tensor
    """Mask of the labels that are not ignored, (N, *)."""
    classes: int
    """K."""
    ignore_index: int
    """The ignored label."""

    @classmethod
    def of(cls, target: Tensor, classes: int, ignore_index: int) -> Labels:
        """Return the labels ``target`` with the mask of those that are not ``ignore_index``."""
        return cls(target, target != ignore_index, classes, ignore_index)

    def chunk(self, where: Any) -> tuple[Tensor, Tensor]:
        """Return the int64 labels of a chunk, with ignored ones set to 0, and the mask of valid ones.

        >>> Labels.of(torch.tensor([2, 255, 1]), classes=3, ignore_index=255).chunk(slice(0, 2))
        (tensor([2, 0]), tensor([ True, False]))

        Raises:
            ValueError: If a label is neither a class nor the ignored label.
        """
        valid = self.valid[where]
        # The mask's bits, all 0 or all 1, are half the time of `torch.where`.
        label = valid.view(torch.uint8).long().neg_().bitwise_and_(self.target[where].long())
        check_labels(label, self.classes, self.ignore_index)
        return label, valid

    def counts(self) -> Tensor:
        """Return how many labels of each class are not ignored, int64 (K,), image by image.

        >>> Labels.of(torch.tensor([[2, 255, 2]]), classes=3, ignore_index=255).counts()
        tensor([0, 0, 2])
        """
        total = torch.zeros(self.classes, dtype=torch.int64, device=self.target.device)
        parts = [...] if is_compiling() else [slice(n, n + 1) for n in range(len(self.target))]
        for part in parts:
            label, valid = self.chunk(part)
            total.index_add_(0, label.flatten(), valid.flatten().long())
        return total


def check_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise if labels (0 where ignored) are not in [0, classes). On a GPU, torch's indexing checks them.

    >>> check_labels(torch.tensor([0, 3]), classes=3, ignore_index=255)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `target` must lie in [0, 3) or equal `ignore_index` (255), got 3. ...
    """
    if target.device.type != "cpu" or not target.numel() or is_compiling():
        return
    low, high = (bound.item() for bound in torch.aminmax(target))
    if low < 0 or high >= classes:
        raise ValueError(
            f"`target` must lie in [0, {classes}) or equal `ignore_index` ({ignore_index}), got "
            f"{low if low < 0 else high}. Correct the labels, the head's num_classes or `ignore_index`."
        )


def check_sums(target: Tensor, name: str) -> None:
    """Raise if soft labels, (N, K, *), do not sum to 1 over the classes; compiled code does not check.

    >>> check_sums(torch.tensor([[1.0, 0.0, 1.0]]), "OutlyingMSELoss")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: soft `target` of OutlyingMSELoss must sum to 1 over the classes, got a sum of 2. ...
    """
    if not target.numel() or is_compiling():
        return
    sums = target.detach().sum(1, dtype=torch.float32)
    distance, index = (sums - 1).abs().flatten().max(0)
    if distance > 0.01 or distance.isnan():  # float16 rounds the labels of mixup
        raise ValueError(
            f"soft `target` of {name} must sum to 1 over the classes, got a sum of "
            f"{sums.flatten()[index].item():g}. The loss is for one class per element, predicted by argmax; "
            "the thresholds of a multi-label head do not fit its outputs. Train multi-hot labels with "
            "mmseol.SigmoidFocalLoss, mmseol.SigmoidEqualizationLoss or mmseol.GHMCLoss."
        )


def mask_ignored(pred: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Set outputs and labels to 0 where ignored.

    >>> pred, target, valid = mask_ignored(torch.ones(2, 3), torch.tensor([2, 255]), 255)
    >>> pred.tolist(), target.tolist(), valid.tolist()
    ([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [2, 0], [True, False])

    Returns:
        Outputs, (N, K, *); labels, int64 (N, *), or soft labels in the outputs' dtype, (N, K, *), of which
        none is ignored; and the mask of valid elements, (N, *).
    """
    if target.dim() == pred.dim():
        return pred, target.to(pred.dtype), torch.ones_like(pred[:, 0], dtype=torch.bool)
    label, valid = Labels.of(target, pred.shape[1], ignore_index).chunk(...)
    return torch.where(valid.unsqueeze(1), pred, 0), label, valid


def by_class(values: Tensor, pred: Tensor) -> Tensor:
    """Return per-class values (K,) in ``pred``'s dtype, shaped to broadcast over (N, K, *).

    >>> by_class(torch.tensor([1, 2]), torch.zeros(4, 2, 5, 6)).shape
    torch.Size([1, 2, 1, 1])
    """
    return values.to(pred).view(1, -1, *[1] * (pred.dim() - 2))


def lift(pred: Tensor) -> Tensor:
    """Convert float16 and bfloat16 outputs to float32; return others unchanged.

    >>> lift(torch.zeros(2, dtype=torch.float16)).dtype, lift(torch.zeros(2, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return pred.float() if pred.dtype in (torch.float16, torch.bfloat16) else pred


def check_shapes(pred: Tensor, target: Tensor, weight: Tensor | None) -> None:
    """Raise a ``ValueError`` that names the argument unless shapes and dtypes fit together.

    >>> check_shapes(torch.zeros(4, 3), torch.tensor([0, 1]), None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `target` must be of shape (4,) (labels) or (4, 3) (soft labels) for `pred` of ...
    """
    if pred.dim() < 2 or not pred.is_floating_point():
        raise ValueError(f"`pred` must be floating-point (N, K, *), got {pred.dtype} {tuple(pred.shape)}.")
    if pred.shape[1] < 2:
        raise ValueError(
            f"`pred` must have at least 2 classes, got shape {tuple(pred.shape)}. A head with out_channels=1 "
            "is a sigmoid with a threshold; use num_classes=2 and out_channels=2."
        )
    elements = pred.shape[:1] + pred.shape[2:]
    if target.dim() == pred.dim():
        if target.shape != pred.shape:
            raise ValueError(
                f"soft `target` must be of `pred`'s shape {tuple(pred.shape)}, got {tuple(target.shape)}."
            )
    elif target.shape != elements:
        raise ValueError(
            f"`target` must be of shape {tuple(elements)} (labels) or {tuple(pred.shape)} (soft labels) "
            f"for `pred` of shape {tuple(pred.shape)}, got {tuple(target.shape)}."
        )
    elif target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"`target` of shape {tuple(target.shape)} must hold integer labels, got {target.dtype}."
        )
    if weight is not None and weight.shape not in (elements, pred.shape[:1]):
        raise ValueError(
            f"`weight` must be of shape {tuple(elements)} or ({pred.shape[0]},), got {tuple(weight.shape)}."
        )


def expand_weight(weight: Tensor, loss: Tensor) -> Tensor:
    """Return the weights of samples, (N,), or elements, (N, *), shaped to multiply ``loss``, (N, *).

    >>> expand_weight(torch.tensor([1, 2]), torch.zeros(2, 4, 4)).shape
    torch.Size([2, 1, 1])
    """
    return weight.to(loss.dtype).reshape(weight.shape + (1,) * (loss.dim() - weight.dim()))


# Elements of a chunk: 4 MB in float32 fit in the CPU cache; on a GPU, few large kernels are faster.
CHUNK = {"cpu": 2**20, "cuda": 2**24}

Where = tuple[slice, ...]


def chunks(outputs: Tensor) -> list[Where]:
    """Return the indices that split (N, *) of outputs (N, K, *) into chunks that fit in the CPU cache.

    They split N and, if one sample is larger than a chunk, the first dimension after K. The result is a
    list, because ``torch.compile`` does not trace generators.

    >>> parts = chunks(torch.empty(2, 4, 512, 1024))
    >>> len(parts), parts[1]
    (4, (slice(0, 1, None), slice(256, 512, None)))
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
    """Return the index into outputs (N, K, *) that matches an index into (N, *).

    >>> with_channels((slice(0, 1), slice(256, 512)))
    (slice(0, 1, None), slice(None, None, None), slice(256, 512, None))
    """
    return (where[0], slice(None), *where[1:])


def zero_invalid(valid: Tensor, out: Tensor) -> None:
    """Set ``out``, (N, K, *), to 0 where ``valid``, (N, *), is false, also where it is NaN or infinite.

    >>> out = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf]])
    >>> zero_invalid(torch.tensor([True, False]), out)
    >>> out.tolist()
    [[1.0, 2.0], [0.0, 0.0]]
    """
    bits = torch.int32 if out.dtype == torch.float32 else torch.int64
    out.view(bits).bitwise_and_(-valid.to(bits).unsqueeze(1))  # 5 times as fast as masked_fill_
