r"""The classes that many decisions choose, from one pass over the outputs.

For :math:`\log m_k = b_k + t d_k` the difference of two classes' scores changes its sign at most once over t.
If the same class wins at two strengths, it therefore wins at all between. The winners of all pixels are
computed at both ends. Where they differ, the two classes alone say between which decisions they would change
places; if they also win there against all others, no third class comes between. What is left is looked at by
bisection. To see whether a class wins takes a third of the time of finding the class that wins. For products
this holds with outputs of any sign: a positive output wins over all others, and if all are negative, the
logarithm of their size is linear in t as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.classifiers.decisions.families import Kind

__all__ = ["Winners", "find_winners"]

_STRIP = 8192  # elements of one argmax, so that a strip of scores stays in the cache
_BLOCK = 1 << 24  # outputs that are looked at together
_MANY = 0.7  # fraction of elements with a change from which the others stay among them
_DIRECT = 0.5  # fraction of elements with one change below which bisection alone is faster
_WRONG = 0.5  # fraction of wrong guesses above which the search alone is faster
_FEW = 64  # classes up to which the argmax by keys is faster
_KEY_BITS = 10


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
        old, new = labels[before, elements], labels[before + 1, elements]
        return cls(labels[0], elements, before + 1, old, new, len(labels))


def find_winners(
    outputs: Tensor,
    candidates: Tensor,
    kind: Kind,
    valid: Tensor | None = None,
    plain: Tensor | None = None,
) -> Winners:
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
        valid: Elements whose changes matter, (P,); ``None``: all.
        plain: Classes that probably win for the first decision, (P,), which saves time if they do.
    """
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
    candidates = candidates.to(outputs.device, torch.float64)
    values = (candidates.exp() if kind == "multiplicative" else candidates).to(outputs.dtype)
    block = max(_STRIP, _BLOCK // len(outputs) // _STRIP * _STRIP)
    firsts, changes = [outputs.new_zeros(0, dtype=torch.int64)], []
    for start in range(0, outputs.shape[1], block):
        part = outputs[:, start : start + block]
        inside = None if valid is None else valid[start : start + block]
        guess = None if plain is None else plain[start : start + block].long()
        first = _argmax(part, values[0], kind, guess)
        firsts.append(first)
        second = first if len(values) == 1 else _argmax(part, values[-1], kind, first)
        last = second if inside is None else torch.where(inside, second, first)
        numbers = torch.arange(start, start + part.shape[1], device=part.device)
        changes += _all_changes(part, values, kind, first, last, numbers)
    if not changes:
        none = firsts[0]
        return Winners(torch.cat(firsts), none, none, none, none, len(values))
    elements, decisions, old, new = (torch.cat(column) for column in zip(*changes, strict=True))
    return Winners(torch.cat(firsts), elements, decisions, old, new, len(values))


def _all_changes(
    outputs: Tensor, values: Tensor, kind: Kind, first: Tensor, last: Tensor, elements: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the changes of elements between the first and the last decision with these winners."""
    if len(values) <= 2 or outputs.is_cuda:
        return _changes(outputs, values, kind, 0, len(values) - 1, first, last, elements)
    own = (first != last).nonzero().squeeze(1)
    table, parts = values.T.contiguous(), []
    done = 0
    while done < len(own):
        part = own[done : done + _STRIP]
        done += len(part)
        pair = [x.index_select(0, part) for x in (first, last)]
        begin, direct = _pair(outputs.index_select(1, part), table, kind, *pair)
        parts.append((part[direct], begin[direct]))
        if direct.sum() < _DIRECT * len(part):
            break  # several classes win in between; the other elements are probably of this kind
    changes = []
    if parts:
        found, begins = (torch.cat(column) for column in zip(*parts, strict=True))
        changes.append((elements[found], begins, first[found], last[found]))
        last = last.index_copy(0, found, first[found])
    return [*changes, *_changes(outputs, values, kind, 0, len(values) - 1, first, last, elements)]


def _pair(outputs: Tensor, table: Tensor, kind: Kind, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decision from which on the last winner beats the first, and whether no third class wins.

    Args:
        outputs: As of :func:`find_winners`; so is ``kind``.
        table: Values of the decisions, (K, C).
        first: Winner of the first decision, (P,).
        last: Winner of the last decision, another class, (P,).
    """
    combine = torch.mul if kind == "multiplicative" else torch.add
    before, after = (
        combine(outputs.gather(0, winner[None]), table.index_select(0, winner).T) for winner in (first, last)
    )  # (C, P)
    wins = (after > before) | ((after == before) & (last < first))
    begin = len(wins) - wins.sum(0)
    direct = (wins[1:] >= wins[:-1]).all(0) & (begin > 0) & (begin < len(wins))
    begin = begin.clamp(1, len(wins) - 1)
    for decision, winner in ((begin - 1, first), (begin, last)):
        direct &= _wins(combine(outputs, table.index_select(1, decision)), winner)
    return begin, direct


def _wins(scores: Tensor, classes: Tensor) -> Tensor:
    """Return whether each element's class has a higher score than all others, (P,); changes ``scores``."""
    own = scores.gather(0, classes[None])[0]
    scores.scatter_(0, classes[None], -torch.inf)
    return own > scores.amax(0)


def _changes(
    outputs: Tensor,
    values: Tensor,
    kind: Kind,
    low: int,
    high: int,
    first: Tensor,
    second: Tensor,
    elements: Tensor,
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return the changes of elements between two decisions with the winners ``first`` and ``second``.

    Elements without a change stay among the others while these are many, which is faster than to take those
    out.
    """
    differs = first != second
    own = differs.nonzero().squeeze(1)
    if not own.numel():
        return []
    if high - low == 1:
        return [
            (
                elements.index_select(0, own),
                torch.full_like(own, high),
                first.index_select(0, own),
                second.index_select(0, own),
            )
        ]
    center = (low + high) // 2
    if own.numel() < _MANY * len(first):
        outputs = outputs.index_select(1, own)
        first, second, elements = (x.index_select(0, own) for x in (first, second, elements))
        middle = _argmax(outputs, values[center], kind)
    else:
        middle = torch.where(differs, _argmax(outputs, values[center], kind), first)
    return [
        *_changes(outputs, values, kind, low, center, first, middle, elements),
        *_changes(outputs, values, kind, center, high, middle, second, elements),
    ]


def _argmax(outputs: Tensor, values: Tensor, kind: Kind, guess: Tensor | None = None) -> Tensor:
    """Return the class of the highest score of each element, (P,); a right guess saves time."""
    combine = torch.mul if kind == "multiplicative" else torch.add
    if outputs.is_cuda:
        return combine(outputs, values[:, None]).max(0).indices
    winners = torch.empty(outputs.shape[1], dtype=torch.int64)
    few = len(outputs) <= _FEW and outputs.dtype == torch.float32
    strip_argmax = _key_argmax(values, kind) if few else None

    def search(strip: Tensor) -> Tensor:
        if strip_argmax is not None:
            return strip_argmax(strip)
        # `max` returns the indices several times as fast as `argmax`.
        return combine(strip, values[:, None]).max(0).indices

    for start in range(0, outputs.shape[1], _STRIP):
        strip = outputs[:, start : start + _STRIP]
        if guess is None:
            winners[start : start + _STRIP] = search(strip)
            continue
        own = guess[start : start + _STRIP].clone()
        wrong = (~_wins(combine(strip, values[:, None]), own)).nonzero().squeeze(1)
        if wrong.numel():
            own[wrong] = search(strip.index_select(1, wrong))
        winners[start : start + _STRIP] = own
        if wrong.numel() > _WRONG * len(own):
            guess = None  # the other strips are probably as bad
    return winners


def _key_argmax(values: Tensor, kind: Kind) -> Callable[[Tensor], Tensor]:
    """Return an argmax of float32 scores that writes the class into the last bits of a float64.

    The maximum of such keys has the class with it, and takes half the time. A product of two float32 numbers
    needs 48 of the 53 bits; the 43 that are left distinguish more scores than float32 does.
    """
    classes = len(values)
    buffer = torch.empty(classes, _STRIP, dtype=torch.float64)
    column = values.double()[:, None]
    codes = torch.arange(classes - 1, -1, -1)[:, None]  # of equal positive scores the first class wins

    def argmax(strip: Tensor) -> Tensor:
        scores = buffer[:, : strip.shape[1]]
        scores.copy_(strip)
        scores.mul_(column) if kind == "multiplicative" else scores.add_(column)
        bits = scores.view(torch.int64)
        bits.bitwise_and_(-(1 << _KEY_BITS)).bitwise_or_(codes)
        best = torch.amax(scores, 0).view(torch.int64)
        return classes - 1 - best.bitwise_and_((1 << _KEY_BITS) - 1)

    return argmax
