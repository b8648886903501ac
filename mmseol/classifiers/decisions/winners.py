r"""The classes that many decisions choose, from one pass over the outputs.

For :math:`\log m_k = b_k + t d_k` the difference of two classes' scores changes its sign at most once over t.
If the same class wins at two strengths, it therefore wins at all between. The winners of all pixels are
computed at both ends; only pixels whose winners differ are looked at between, by bisection. For products this
holds with outputs of any sign: a positive output wins over all others, and if all are negative, the logarithm
of their size is linear in t as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.classifiers.decisions.families import Kind

__all__ = ["Winners", "find_winners"]

_STRIP = 8192  # elements of one argmax, so that a strip of scores stays in the cache
_BLOCK = 1 << 24  # outputs that are looked at together


class Winners(NamedTuple):
    """Winners of P elements for C decisions.

    >>> winners = find_winners(torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.zeros(3, 2), "additive")
    >>> winners.common, winners.contested
    (tensor([0, 1]), tensor([], dtype=torch.int64))

    Attributes:
        common: Winner of every element at the first decision, and at all where it is not contested, (P,).
        contested: Elements whose winners differ, ascending, (M,).
        varying: Winner of each contested element for each decision, (C, M).
    """

    common: Tensor
    contested: Tensor
    varying: Tensor

    def labels(self) -> Tensor:
        """Return the winner of every element for every decision, (C, P)."""
        labels = self.common.expand(len(self.varying), -1).clone()
        labels[:, self.contested] = self.varying
        return labels


def find_winners(outputs: Tensor, candidates: Tensor, kind: Kind, valid: Tensor | None = None) -> Winners:
    r"""Return :math:`\arg\max_k m_{ck} a_k` or :math:`\arg\max_k a_k + \log m_{ck}` for the decisions c.

    The decisions must lie on a line, as those of a :class:`~mmseol.classifiers.decisions.Family` in the order
    of their strengths. The first of equal scores wins.

    >>> outputs = torch.tensor([[0.6, 0.9], [0.4, 0.1]])  # of two elements
    >>> candidates = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])  # second class times 1, 2.7, 7.4
    >>> find_winners(outputs, candidates, "multiplicative").labels()
    tensor([[0, 0],
            [1, 0],
            [1, 0]])

    Args:
        outputs: :math:`a`, (K, P); half precision is computed in float32.
        candidates: :math:`\log m_{ck}`, (C, K).
        kind: ``'multiplicative'`` or ``'additive'``.
        valid: Elements whose winners between the ends matter, (P,); ``None``: all.
    """
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
    candidates = candidates.to(outputs.device, torch.float64)
    values = (candidates.exp() if kind == "multiplicative" else candidates).to(outputs.dtype)
    block = max(_STRIP, _BLOCK // len(outputs) // _STRIP * _STRIP)
    parts = []
    for start in range(0, outputs.shape[1], block):
        inside = None if valid is None else valid[start : start + block]
        common, contested, varying = _block_winners(outputs[:, start : start + block], values, kind, inside)
        parts.append(Winners(common, contested + start, varying))
    if len(parts) == 1:
        return parts[0]
    empty = outputs.new_zeros(0, dtype=torch.int64)
    parts = parts or [Winners(empty, empty, empty.expand(len(values), 0))]
    commons, contested_parts, varying_parts = zip(*parts, strict=True)
    return Winners(torch.cat(commons), torch.cat(contested_parts), torch.cat(varying_parts, dim=1))


def _block_winners(outputs: Tensor, values: Tensor, kind: Kind, valid: Tensor | None) -> Winners:
    last = len(values) - 1
    low, high = _argmax(outputs, values[0], kind), _argmax(outputs, values[last], kind)
    differs = low != high
    contested = (differs if valid is None else differs & valid).nonzero().squeeze(1)
    varying = low.new_empty(last + 1, contested.numel())
    varying[0], varying[last] = low[contested], high[contested]
    if last > 1 and contested.numel():
        rest = outputs.index_select(1, contested)
        _bisect(rest, values, kind, varying, 0, last, torch.arange(contested.numel(), device=rest.device))
    return Winners(low, contested, varying)


def _bisect(
    outputs: Tensor, values: Tensor, kind: Kind, varying: Tensor, low: int, high: int, elements: Tensor
) -> None:
    """Fill the winners of the elements strictly between two decisions."""
    if high - low < 2 or not elements.numel():
        return
    first, second = varying[low, elements], varying[high, elements]
    same = first == second
    varying[low + 1 : high, elements[same]] = first[same]
    elements = elements[~same]
    if not elements.numel():
        return
    middle = (low + high) // 2
    varying[middle, elements] = _argmax(outputs.index_select(1, elements), values[middle], kind)
    _bisect(outputs, values, kind, varying, low, middle, elements)
    _bisect(outputs, values, kind, varying, middle, high, elements)


def _argmax(outputs: Tensor, values: Tensor, kind: Kind) -> Tensor:
    combine = torch.mul if kind == "multiplicative" else torch.add
    column = values[:, None]
    if outputs.is_cuda:
        return combine(outputs, column).max(0).indices
    winners = torch.empty(outputs.shape[1], dtype=torch.int64)
    for start in range(0, outputs.shape[1], _STRIP):
        # `max` returns the indices several times as fast as `argmax`.
        strip = combine(outputs[:, start : start + _STRIP], column)
        winners[start : start + _STRIP] = strip.max(0).indices
    return winners
