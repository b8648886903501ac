"""Losses that are functions of the softmax cross entropy, without autograd over classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.losses.ops.label_outputs import add_at_labels, at_labels, look_up, set_at_labels
from mmseol.losses.ops.tiles import RANGE, LabelGrid, Tile, Visitor

__all__ = [
    "LN_2",
    "LOG2_E",
    "NEGLIGIBLE",
    "CrossEntropyVisitor",
    "SoftmaxForm",
    "SoftmaxVisitor",
    "derived",
    "softmax_sums",
    "sums_are_exact",
    "tile_softmax",
]


class SoftmaxForm(NamedTuple):
    r"""What a loss adds to softmax cross entropy.

    With :math:`z_k = f_k a_k + o_k` of the outputs a, :math:`z_y` less a margin, and
    :math:`c = -\log \mathrm{softmax}(z)_y`, the loss of an element is :math:`w_y c` or a function of c and
    :math:`w_y`.

    >>> SoftmaxForm(offset=torch.tensor([0.0, 1.0])).adjust(torch.zeros(1, 2, 1)).flatten().tolist()
    [0.0, 1.0]
    """

    factor: Tensor | None = None
    """Factor f of each output, (K,), above 0, or ()."""
    offset: Tensor | None = None
    """Offset o of each output, (K,)."""
    margin: Tensor | None = None
    """Margin of each class, (K,), subtracted from the label's adjusted output."""
    margin_of: Callable[[Tensor, Tensor], Tensor] | None = None
    """In place of ``margin``: margin of every element, of the adjusted outputs of the other classes,
    (N, K, *) with -inf at the label, and labels, (N, *); the same if all outputs are multiplied by a positive
    number."""
    factors: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Returns factors, (N, K, *), of every element's exponentials, without a gradient. Computes them of the
    exponentials of adjusted outputs, which may have been multiplied by a number at each element, of their
    sums, (N, *), and of the labels, (N, *). The factor of the label itself is 1."""
    shift: Callable[[Tensor, Tensor], Tensor] | None = None
    """Adds the logarithms of such factors to adjusted outputs, of them and of the labels; returns a new
    tensor. Outputs at label size, whose largest is not known, are evaluated so."""
    weight: Tensor | None = None
    """Class weights w, (K,); :class:`~mmseol.losses.ClassLoss` sets them."""
    modulate: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]] | None = None
    """Returns every element's loss, in place of the product of its cross entropy and its class weight (or
    ``None``), and the derivative by the cross entropy; :func:`derived` adds the derivative by autograd."""

    def adjust(self, outputs: Tensor) -> Tensor:
        """Return :math:`f a + o`, (N, K, *), or the outputs themselves if nothing is to be done."""
        shape = (-1, *[1] * (outputs.dim() - 2))
        if self.factor is not None:
            outputs = outputs * self.factor.to(outputs).view(shape)
        return outputs if self.offset is None else outputs + self.offset.to(outputs).view(shape)

    def elements(self, entropy: Tensor, label: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the elements' losses times ``factor``, and its derivative by each entropy.

        Args:
            entropy: Cross entropy c, (N, *).
            label: Labels, (N, *).
            factor: Factor of each element, (N, *).
        """
        weight = None if self.weight is None else look_up(self.weight.to(entropy), label)
        if self.modulate is None:
            derivative = factor if weight is None else factor * weight
            return (entropy * derivative).sum(dtype=torch.float64), derivative
        loss, derivative = self.modulate(entropy.clamp(min=0), weight)
        return (loss * factor).sum(dtype=torch.float64), derivative * factor


def derived(
    function: Callable[[Tensor, Tensor | None], Tensor],
) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """Return a function for ``modulate`` of a differentiable one that returns the losses only.

    >>> derived(lambda entropy, weight: entropy.square())(torch.tensor([3.0]), None)
    (tensor([9.]), tensor([6.]))
    """

    def modulate(entropy: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        entropy = entropy.detach().requires_grad_()
        with torch.enable_grad():
            loss = function(entropy, weight)
        (derivative,) = torch.autograd.grad(loss, entropy, torch.ones_like(loss))
        return loss.detach(), derivative

    return modulate


LOG2_E, LN_2 = math.log2(math.e), math.log(2)
# A probability of exp(-60) adds nothing to a gradient in float32, and is far from its smallest numbers.
NEGLIGIBLE = 60.0


def softmax_sums(grid: LabelGrid, form: SoftmaxForm, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return sums of the losses of all pixels that add up to the batch's, and the gradient.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> softmax_sums(LabelGrid(torch.ones(1, 2, 1, 2), labels), SoftmaxForm(), None)[0].tolist()
    [5.545177459716797]

    Args:
        grid: Outputs, labels and weights of pixels.
        form: The loss.
        scale: Factor of the gradient; ``None`` if no gradient is needed.

    Returns:
        The sums, float64, one for each image or group of images, and the gradient by the outputs, of their
        shape, in float32, or float64 for such outputs, or ``None``.
    """
    return grid.visit(CrossEntropyVisitor(form, scale), requires_grad=scale is not None)


class SoftmaxVisitor(Visitor):
    """Visitor of adjusted outputs, less a constant at each pixel that leaves the softmax unchanged.

    Those of another size than the labels are multiplied by log2(e): ``exp2`` takes a third of the time of
    ``exp`` on some CPUs.

    >>> visitor = SoftmaxVisitor(SoftmaxForm(offset=torch.tensor([5.0, 7.0])))
    >>> visitor.prepare(torch.zeros(1, 2, 1)).exp2().flatten().tolist()
    [0.1353352814912796, 1.0]
    """

    def __init__(self, form: SoftmaxForm | None = None) -> None:
        self.form = form or SoftmaxForm()

    def prepare(self, outputs: Tensor) -> Tensor:
        """Adjust the outputs, subtract the largest of each point, and change the unit."""
        adjusted = self.form.adjust(outputs)
        largest = adjusted.amax(1, keepdim=True)
        if adjusted.dtype == torch.float32 and (largest - adjusted.amin(1, keepdim=True) > RANGE).any():
            adjusted = self.form.adjust(outputs.double())
            largest = adjusted.amax(1, keepdim=True)
        return adjusted.sub_(largest).mul_(LOG2_E)

    def finish(self, gradient: Tensor) -> None:
        """Multiply the gradient by the factors of the outputs."""
        if self.form.factor is not None:
            gradient.mul_(self.form.factor.to(gradient).view(-1, 1))


def tile_softmax(tile: Tile) -> Tensor:
    """Return the probabilities of a tile of a :class:`SoftmaxVisitor`, in memory of their own.

    >>> nothing = torch.zeros(1, 1, dtype=torch.long)
    >>> tile_softmax(Tile(0, torch.zeros(1, 2, 1), nothing, nothing == 0, None, (), None)).flatten().tolist()
    [0.5, 0.5]
    """
    if tile.upsample is None:
        outputs = tile.masked().outputs
        exponentials = (outputs - outputs.amax(1, keepdim=True)).exp_()  # half the time of `softmax`
        return exponentials.div_(exponentials.sum(1, keepdim=True))
    exponentials = tile.outputs.exp2_()
    total = exponentials.sum(1, keepdim=True)
    return exponentials.div_(total) if sums_are_exact(total) else tile.upsample().mul_(LN_2).softmax(1)


def sums_are_exact(total: Tensor) -> bool:
    """Return whether no pixel's sum of exponentials of prepared outputs is too small.

    The largest outputs of two points may belong to two classes, both small halfway between the points.

    >>> sums_are_exact(torch.tensor([1.0, 1e-20])), sums_are_exact(torch.tensor([1.0, 1e-35]))
    (True, False)
    """
    return bool(total.min() > torch.finfo(total.dtype).tiny ** 0.8)


class CrossEntropyVisitor(SoftmaxVisitor):
    """Visitor that sums a loss over tiles.

    >>> from mmseol.losses.ops.inputs import Labels
    >>> from mmseol.losses.ops.tiles import LabelGrid
    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> LabelGrid(torch.ones(1, 2, 1, 2), labels).visit(CrossEntropyVisitor(SoftmaxForm(), None))[0].tolist()
    [5.545177459716797]

    Args:
        form: The loss.
        scale: Factor of the gradient; ``None`` if no gradient is needed.
    """

    def __init__(self, form: SoftmaxForm, scale: Tensor | None) -> None:
        super().__init__(form)
        self.scale = scale
        self.may_draw = form.factors is not None

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        if tile.upsample is not None:
            entropy, probability, total = self._shifted(tile)
        else:
            outputs = self._shift(self.form.adjust(tile.outputs), tile.label)
            entropy, probability, total = self._exact(tile, outputs)
        value, derivative = self.form.elements(entropy, tile.label, tile.factor())
        if self.scale is None:
            return value, None
        derivative = derivative * self.scale
        each = derivative if total is None else derivative / total
        gradient = probability.mul_(each.unsqueeze(1))
        add_at_labels(gradient, tile.label, derivative.neg_())
        if tile.upsample is None and self.form.factor is not None:
            gradient.mul_(self.form.factor.to(gradient).view(-1, *[1] * (gradient.dim() - 2)))
        return value, gradient

    def _shifted(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return cross entropies, exponentials and their sums of upsampled, prepared outputs."""
        assert tile.upsample is not None
        label_output = self._subtract_margin(tile.outputs, tile.label, LOG2_E)
        exponentials = tile.outputs.exp2_()
        total = exponentials.sum(1)
        if self.form.factors is not None and sums_are_exact(total):
            factors = self.form.factors(exponentials, total, tile.label)
            total = exponentials.mul_(factors).sum(1)
            if not sums_are_exact(total):
                return self._exact(tile, tile.upsample().mul_(LN_2).add_(factors.log_()))
        elif not sums_are_exact(total):
            return self._exact(tile, self._shift(tile.upsample().mul_(LN_2), tile.label))
        return total.log2().sub_(label_output).mul_(LN_2), exponentials, total

    def _exact(self, tile: Tile, outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return cross entropies and probabilities of outputs of any range."""
        if self.form.margin is not None or self.form.margin_of is not None:
            outputs = outputs.clone() if outputs.data_ptr() == tile.outputs.data_ptr() else outputs
            self._subtract_margin(outputs, tile.label)
        logarithm = torch.log_softmax(outputs, 1)
        entropy = at_labels(logarithm, tile.label).neg_()
        if tile.upsample is None and not entropy.isfinite().all() and not tile.valid.all():
            tile = tile.masked()
            tile = tile._replace(valid=torch.ones_like(tile.valid))
            return self._exact(tile, self._shift(self.form.adjust(tile.outputs), tile.label))
        if entropy.numel() and entropy.max() > NEGLIGIBLE:  # products with denormal numbers are slow
            logarithm.clamp_(min=-NEGLIGIBLE)
        return entropy, logarithm.exp_(), None

    def _shift(self, outputs: Tensor, label: Tensor) -> Tensor:
        return outputs if self.form.shift is None else self.form.shift(outputs, label)

    def _subtract_margin(self, outputs: Tensor, label: Tensor, unit: float = 1.0) -> Tensor:
        """Subtract the margins, times ``unit``, from the labels' outputs in place; return these outputs."""
        label_output, form = at_labels(outputs, label), self.form
        if form.margin_of is not None:
            set_at_labels(outputs, label, torch.full_like(label_output, -torch.inf))
            label_output.sub_(form.margin_of(outputs, label), alpha=unit)
        elif form.margin is not None:
            label_output.sub_(look_up(form.margin.to(outputs), label), alpha=unit)
        else:
            return label_output
        set_at_labels(outputs, label, label_output)
        return label_output
