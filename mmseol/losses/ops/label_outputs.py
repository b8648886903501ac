"""Reading and writing of one number at each element: an output of its label, or a value of its class."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from mmseol.losses.ops.inputs import is_compiling

__all__ = ["add_at_labels", "at_labels", "look_up", "set_at_labels"]

# Outputs of which places in flat memory are kept, in elements; they are int64 and serve later calls.
_LARGEST = 2**20


def look_up(values: Tensor, label: Tensor) -> Tensor:
    """Return ``values[label]``, in a third of its time.

    >>> look_up(torch.tensor([5.0, 7.0]), torch.tensor([[1, 0]])).tolist()
    [[7.0, 5.0]]
    """
    return values.index_select(0, label.reshape(-1)).view(label.shape)


def at_labels(outputs: Tensor, label: Tensor) -> Tensor:
    """Return the labels' outputs, (N, *), of (N, K, *).

    >>> at_labels(torch.tensor([[5.0, 7.0]]), torch.tensor([1])).tolist()
    [7.0]
    """
    if _is_flat(outputs):  # in half of the time
        return outputs.view(-1).index_select(0, _places(outputs, label)).view(label.shape)
    return outputs.gather(1, label.unsqueeze(1)).squeeze(1)


def set_at_labels(outputs: Tensor, label: Tensor, values: Tensor) -> None:
    """Write values, (N, *), to the labels' outputs, of (N, K, *).

    >>> outputs = torch.tensor([[5.0, 7.0]])
    >>> set_at_labels(outputs, torch.tensor([1]), torch.tensor([9.0]))
    >>> outputs.tolist()
    [[5.0, 9.0]]
    """
    outputs, dim, index, values = _addressed(outputs, label, values)
    outputs.scatter_(dim, index, values)


def add_at_labels(outputs: Tensor, label: Tensor, values: Tensor) -> None:
    """Add values, (N, *), to the labels' outputs, of (N, K, *).

    >>> outputs = torch.tensor([[5.0, 7.0]])
    >>> add_at_labels(outputs, torch.tensor([1]), torch.tensor([-1.0]))
    >>> outputs.tolist()
    [[5.0, 6.0]]
    """
    outputs, dim, index, values = _addressed(outputs, label, values)
    outputs.scatter_add_(dim, index, values)


def _addressed(outputs: Tensor, label: Tensor, values: Tensor) -> tuple[Tensor, int, Tensor, Tensor]:
    """Return outputs, dimension, index and values for a scatter at the labels."""
    if _is_flat(outputs):
        return outputs.view(-1), 0, _places(outputs, label), values.reshape(-1)
    return outputs, 1, label.unsqueeze(1), values.unsqueeze(1)


def _is_flat(outputs: Tensor) -> bool:
    """Return whether places of labels may be kept; on a GPU tiles are large, and so would their places be."""
    on_cpu = outputs.device.type == "cpu" and outputs.is_contiguous()
    return on_cpu and outputs.numel() <= _LARGEST and not is_compiling()


def _places(outputs: Tensor, label: Tensor) -> Tensor:
    """Return where the labels' outputs are in flattened outputs, (N, K, *)."""
    samples, classes, *size = outputs.shape
    return torch.add(_first_places(samples, classes, prod(size)), label.reshape(-1), alpha=prod(size))


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _first_places(samples: int, classes: int, elements: int) -> Tensor:
    first = torch.arange(samples).mul_(classes * elements).unsqueeze(1)
    return (first + torch.arange(elements)).flatten()
