"""The winners of many decisions in loops that Numba compiles, for a CPU: all classes at every element."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmseol.utils.compiled_loops import compiled

__all__ = ["labels_of_winners"]

# Elements whose scores are compared together: the best score of each decision stays in a core's cache.
_BLOCK = 256
# Labels of a part: memory of 8 MB and more.
_LABELS = 2**22


@compiled(fastmath=False)
def _write_labels(outputs, factors, offsets, start, labels, best, places):
    """Write the labels (C, n) of the elements from ``start`` on; the first of equal scores wins."""
    classes, (candidates, elements) = len(outputs), labels.shape
    block = best.shape[1]
    for begin in range(0, elements, block):
        size = min(block, elements - begin)
        own = slice(start + begin, start + begin + size)
        best[:], places[:] = -np.inf, 0
        for k in range(0, classes - 1, 2):  # two classes at once, since to store is the slowest step
            output, next_output = outputs[k, own], outputs[k + 1, own]
            number, next_number = np.int32(k), np.int32(k + 1)
            for c in range(candidates):
                factor, offset, highest, place = factors[c, k], offsets[c, k], best[c], places[c]
                next_factor, next_offset = factors[c, k + 1], offsets[c, k + 1]
                for i in range(size):
                    score = output[i] * factor + offset
                    next_score = next_output[i] * next_factor + next_offset
                    second = next_score > score
                    higher = next_score if second else score
                    higher_number = next_number if second else number
                    better = higher > highest[i]
                    highest[i] = higher if better else highest[i]
                    place[i] = higher_number if better else place[i]
        if classes % 2:
            output, number = outputs[classes - 1, own], np.int32(classes - 1)
            for c in range(candidates):
                factor, offset, highest, place = factors[c, -1], offsets[c, -1], best[c], places[c]
                for i in range(size):
                    score = output[i] * factor + offset
                    better = score > highest[i]
                    highest[i] = score if better else highest[i]
                    place[i] = number if better else place[i]
        for c in range(candidates):
            for i in range(size):
                labels[c, begin + i] = places[c, i]


def labels_of_winners(outputs: Tensor, factors: Tensor, offsets: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the first element of each part, and the winners of its elements for every decision, (C, n).

    >>> outputs, factors = torch.tensor([[0.6, 0.9], [0.4, 0.1]]), torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    >>> [(start, labels.tolist()) for start, labels in labels_of_winners(outputs, factors, 0 * factors)]
    [(0, [[0, 0], [1, 0]])]

    Args:
        outputs: Outputs of P elements, (K, P).
        factors: Factor of each class's outputs for each decision, (C, K), in their dtype.
        offsets: What is added to the products. With factors of 1 or offsets of 0 a score is rounded once.
    """
    candidates, elements = len(factors), outputs.shape[1]
    step = max(_LABELS // candidates, 1)
    arrays = [tensor.contiguous().numpy() for tensor in (outputs, factors, offsets)]
    best = np.empty((candidates, _BLOCK), arrays[0].dtype)
    places = np.empty((candidates, _BLOCK), np.int32)
    dtype = torch.int16 if len(outputs) < 2**15 else torch.int32
    for start in range(0, elements, step):
        labels = torch.empty(candidates, min(step, elements - start), dtype=dtype)
        _write_labels(*arrays, start, labels.numpy(), best, places)
        yield start, labels
