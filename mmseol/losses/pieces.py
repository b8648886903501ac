"""Outputs cut into pieces, so that what stands between outputs and gradient stays in the cache."""

from __future__ import annotations

from math import prod

from torch import Tensor

__all__ = ["pieces", "with_channels"]

# Elements of a piece: 4 MB in float32 stay in the cache; a GPU wants few, large kernels.
PIECE = {"cpu": 2**20, "cuda": 2**24}

Where = tuple[slice, ...]


def pieces(outputs: Tensor) -> list[Where]:
    """Return the indices that cut (N, *) of outputs (N, K, *) into pieces.

    Along N and, where one sample is larger than a piece, along the first dimension after K. It is a list:
    compilers do not follow generators.
    """
    shape, elements = outputs.shape, PIECE.get(outputs.device.type, PIECE["cpu"])
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
