r"""The classes that many decisions choose, from one pass over the outputs.

The outputs of neighbouring pixels are alike. For each tile of pixels and each decision, the class whose
smallest score in the tile is highest gives a bound: a class whose largest score is below it wins at no pixel
of the tile. Few classes are left, and all decisions are made among these. A score is a rounded product or sum
and never falls when the output rises, so the bound is exact and ties are decided as among all classes.
On a CPU with Numba compiled loops over all classes are faster, and take their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.classifiers.decisions.families import Kind
from mmseol.utils.compiled_loops import has_numba

__all__ = ["Winners", "find_winners"]

_TILE = 8  # rows, and columns, of a tile
# Outputs whose tiles are bounded together, and scores of a class that are compared together. On a CPU the
# latter stay in a core's cache.
_STRIP = {"cpu": 2**22, "cuda": 2**26}
_SCORES = {"cpu": 2**17, "cuda": 2**26}


class Winners(NamedTuple):
    """Winners of P elements for C decisions: those of the first, and the changes from one to the next.

    >>> winners = Winners.of_labels(torch.tensor([[0, 1], [0, 1], [2, 1]]))
    >>> winners.first, winners.elements, winners.decisions, winners.old, winners.new
    (tensor([0, 1]), tensor([0]), tensor([2]), tensor([0]), tensor([2]))

    Attributes:
        first: Winner of every element for the first decision, (P,).
        elements: Element of each change, (E,).
        decisions: First decision with the new winner, (E,).
        old: Winner before the change, (E,).
        new: Winner after the change, (E,).
        candidates: C.
    """

    first: Tensor
    elements: Tensor
    decisions: Tensor
    old: Tensor
    new: Tensor
    candidates: int

    def labels(self) -> Tensor:
        """Return the winner of every element for every decision, (C, P)."""
        labels = self.first.expand(self.candidates, -1).clone()
        for decision in range(1, self.candidates):
            now = self.decisions == decision
            labels[decision:, self.elements[now]] = self.new[now]
        return labels

    @classmethod
    def of_labels(cls, labels: Tensor) -> Winners:
        """Return the winners with these labels, (C, P)."""
        before, elements = (labels[1:] != labels[:-1]).nonzero(as_tuple=True)
        old, new = labels[before, elements].long(), labels[before + 1, elements].long()
        return cls(labels[0].long(), elements, before + 1, old, new, len(labels))


def find_winners(outputs: Tensor, candidates: Tensor, kind: Kind) -> Winners:
    r"""Return :math:`\arg\max_k m_{ck} a_k` or :math:`\arg\max_k a_k + \log m_{ck}` for the decisions c.

    The first of equal scores wins. Without Numba and on a GPU it is fast where neighbouring elements have
    similar outputs.

    >>> outputs = torch.tensor([[0.6, 0.9], [0.4, 0.1]])  # of two elements
    >>> candidates = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])  # second class times 1, 2.7, 7.4
    >>> find_winners(outputs, candidates, "multiplicative").labels()
    tensor([[0, 0],
            [1, 0],
            [1, 0]])

    Args:
        outputs: :math:`a`, of P elements (K, P) or of a label map with P pixels (K, H, W); finite; half
            precision is computed in float32.
        candidates: :math:`\log m_{ck}`, (C, K).
        kind: ``'multiplicative'`` or ``'additive'``.
    """
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
    if outputs.dim() == 2:
        outputs = outputs[:, None]
    candidates = candidates.to(outputs.device, torch.float64)
    values = (candidates.exp() if kind == "multiplicative" else candidates).to(outputs.dtype)
    if outputs.device.type == "cpu" and has_numba():
        return _among_all_classes(outputs.flatten(1), values, kind)
    numbers = torch.arange(outputs[0].numel(), device=outputs.device).view(outputs.shape[1:])
    first = torch.empty_like(numbers).flatten()
    changes: list[tuple[Tensor, Tensor, Tensor, Tensor]] = [(first[:0],) * 4]
    for rows, columns, tile in _strips(outputs):
        tiles = _in_tiles(outputs[:, rows, columns], tile)
        elements = _in_tiles(numbers[None, rows, columns], tile)[0]
        for own, classes in _possible_classes(tiles, values, kind):
            row, column = own // tiles.shape[3], own % tiles.shape[3]
            pixels = elements[row, :, column].flatten(1)  # (T, n)
            scored = tiles[classes, row, :, column].flatten(2)  # (S, T, n)
            places = _argmax(scored, values[:, classes], kind)  # (C, T, n)
            labels = classes.T.gather(1, places[0].long())
            first[pixels] = labels
            before, at, pixel = (places[1:] != places[:-1]).nonzero(as_tuple=True)
            old, new = (classes[places[c, at, pixel].long(), at] for c in (before, before + 1))
            changes.append((pixels[at, pixel], before + 1, old, new))
    changed, decisions, old, new = (torch.cat(column) for column in zip(*changes, strict=True))
    return Winners(first, changed, decisions, old, new, len(values))


def _among_all_classes(outputs: Tensor, values: Tensor, kind: Kind) -> Winners:
    # Not at the top: Numba is optional.
    from mmseol.classifiers.decisions.winners_numba import labels_of_winners

    neutral = torch.full_like(values, 1 if kind == "additive" else 0)
    pair = (neutral, values) if kind == "additive" else (values, neutral)
    parts = [Winners.of_labels(torch.empty(len(values), 0, dtype=torch.long))]
    for start, labels in labels_of_winners(outputs, *pair):
        part = Winners.of_labels(labels)
        parts.append(part._replace(elements=part.elements + start))
    return Winners(
        torch.cat([part.first for part in parts]),
        torch.cat([part.elements for part in parts]),
        torch.cat([part.decisions for part in parts]),
        torch.cat([part.old for part in parts]),
        torch.cat([part.new for part in parts]),
        len(values),
    )


def _strips(outputs: Tensor) -> Iterator[tuple[slice, slice, tuple[int, int]]]:
    """Yield rows and columns of parts of the outputs, (K, H, W), and the rows and columns of their tiles."""
    classes, height, width = outputs.shape
    budget = _STRIP.get(outputs.device.type, _STRIP["cuda"]) // max(classes, 1)
    across = max(min(budget // _TILE, width), 1)
    for columns, tile_width in _spans(width, across):
        for rows, tile_height in _spans(height, budget // across):
            yield rows, columns, (tile_height, tile_width)


def _spans(size: int, step: int) -> Iterator[tuple[slice, int]]:
    """Yield parts of an axis and the size of their tiles: whole tiles, and one for the rest.

    >>> list(_spans(27, 20))
    [(slice(0, 16, None), 8), (slice(16, 24, None), 8), (slice(24, 27, None), 3)]
    """
    whole, step = size // _TILE * _TILE, max(step // _TILE, 1) * _TILE
    for start in range(0, whole, step):
        yield slice(start, min(start + step, whole)), _TILE
    if whole < size:
        yield slice(whole, size), size - whole


def _in_tiles(values: Tensor, tile: tuple[int, int]) -> Tensor:
    """Return (K, H, W) as (K, rows of tiles, rows in a tile, columns of tiles, columns in a tile)."""
    return values.unflatten(2, (-1, tile[1])).unflatten(1, (-1, tile[0]))


def _possible_classes(tiles: Tensor, values: Tensor, kind: Kind) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield tiles with similar numbers of possible winners, (T,), and these classes, (S, T).

    The classes of a tile ascend; the last one is repeated where there are fewer than S.
    """
    low, high = (
        reduced(reduced(tiles, 2), 3).flatten(1)  # rows first, which are vectors
        for reduced in (torch.amin, torch.amax)
    )
    combine = torch.mul if kind == "multiplicative" else torch.add
    possible = torch.zeros_like(low, dtype=torch.bool)  # (K, tiles)
    for value in values[:, :, None]:
        possible |= combine(high, value) >= combine(low, value).amax(0)
    counts = possible.sum(0)
    classes = possible.T.nonzero()[:, 1]  # those of the first tile, of the second, ..
    starts = counts.cumsum(0) - counts
    size = len(values) * tiles.shape[2] * tiles.shape[4]
    together = max(_SCORES.get(tiles.device.type, _SCORES["cuda"]) // size, 1)
    for own in counts.argsort().split(together):
        most = int(counts[own[-1]])
        places = torch.arange(most, device=own.device)[:, None].minimum(counts[own] - 1)
        yield own, classes[starts[own] + places]


def _argmax(outputs: Tensor, values: Tensor, kind: Kind) -> Tensor:
    """Return the place of the highest score, (C, T, n), of outputs (S, T, n) and values (C, S, T)."""
    combine = torch.mul if kind == "multiplicative" else torch.add
    dtype = torch.uint8 if len(outputs) < 2**8 else torch.int16 if len(outputs) < 2**15 else torch.int32
    best = combine(outputs[0], values[:, 0, :, None])
    places = torch.zeros_like(best, dtype=dtype)
    score = torch.empty_like(best)
    for place in range(1, len(outputs)):
        combine(outputs[place], values[:, place, :, None], out=score)
        better = score > best
        torch.maximum(best, score, out=best)
        # A later place is a larger number: a maximum, which is faster than a choice.
        torch.maximum(places, better.to(dtype) * place, out=places)
    return places
