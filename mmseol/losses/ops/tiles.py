"""Outputs at label size, one tile at a time: upsampled, evaluated, and projected back to their own size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from mmseol.losses.ops.axis_blocks import axis_blocks, unread_points
from mmseol.losses.ops.inputs import Labels, zero_invalid
from mmseol.losses.ops.threads import in_threads, single_threaded

__all__ = ["LabelGrid", "Tile", "Visitor", "differentiate", "tiles_of"]

# Elements of a tile, K times its pixels. A CPU's tile, 1 MB in float32, fits in a core's cache.
TILE = {"cpu": 2**18, "cuda": 2**26}
# Label columns of a tile: the matrices that upsample it have so many rows.
COLUMNS = {"cpu": 64, "cuda": 512}
# Rows of a tile on a CPU: the matrices that upsample it have so many columns times the ratio of sizes.
ROWS = 512
# Above this, outputs are upsampled in float64: float32 would round them by 2e-6 and more.
RANGE = 40.0
# Threads that share a batch on a CPU.
_WORKERS = 8


@contextmanager
def tiles_of(elements: int) -> Iterator[None]:
    """Use tiles of so many elements inside the block, for tests of what spans tiles.

    >>> with tiles_of(64):
    ...     TILE["cpu"]
    64
    """
    before = dict(TILE), dict(COLUMNS)
    TILE.update(dict.fromkeys(TILE, elements))
    COLUMNS.update(dict.fromkeys(COLUMNS, max(int(elements**0.5) // 2, 1)))
    try:
        yield
    finally:
        TILE.update(before[0])
        COLUMNS.update(before[1])


class Tile(NamedTuple):
    """Some pixels of one image with their outputs, as a batch of C columns with R elements each.

    >>> label, valid = torch.tensor([[1, 0]]), torch.tensor([[True, False]])
    >>> Tile(0, torch.zeros(1, 3, 2), label, valid, torch.tensor(0.5), (), None).factor().tolist()
    [[0.5, 0.0]]
    """

    image: int
    """Index of the image."""
    outputs: Tensor
    """Outputs, (C, K, R); at label size (1, K, *), a part of the batch's tensor, which must not change."""
    label: Tensor
    """Labels, int64, (C, R) or (1, *); 0 where ignored."""
    valid: Tensor
    """Mask of the pixels that are not ignored, as the labels."""
    weight: Tensor | None
    """Weights of the pixels, as the labels or (), or ``None``."""
    where: tuple[slice, ...]
    """Which rows, and which columns if they are not all, of the label map."""
    upsample: Callable[[], Tensor] | None
    """Computes the outputs again, so that they may be overwritten; ``None`` at label size."""

    def factor(self) -> Tensor:
        """Return the weight of every pixel, 0 where ignored, in the outputs' dtype."""
        factor = self.valid.to(self.outputs.dtype)
        return factor if self.weight is None else factor.mul_(self.weight)

    def masked(self) -> Tile:
        """Return the tile with outputs of 0 where ignored."""
        if self.valid.all():
            return self
        outputs = self.outputs.clone() if self.upsample is None else self.outputs
        zero_invalid(self.valid, outputs)
        return self._replace(outputs=outputs)


class Visitor:
    """What is done with each tile of a :class:`LabelGrid`; runs without gradients.

    >>> class Largest(Visitor):
    ...     def __call__(self, tile):
    ...         return tile.outputs.amax(1).sum(), None
    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> LabelGrid(torch.ones(1, 2, 1, 2), labels).visit(Largest())[0].tolist()
    [8.0]
    """

    may_draw: bool = False
    """Whether it may draw random numbers."""

    def prepare(self, outputs: Tensor) -> Tensor:
        """Return the small outputs, (w, K, h), as they are to be upsampled; may overwrite them.

        It may add channels, which tiles and their gradients then have, too; their gradients are dropped.
        """
        wide = outputs.dtype == torch.float32 and outputs.numel() and outputs.abs().max() > RANGE
        return outputs.double() if wide else outputs

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """Return a value, to be summed over an image, and its gradient by the outputs or ``None``."""
        raise NotImplementedError

    def finish(self, gradient: Tensor) -> None:
        """Turn the gradient by prepared outputs, (w, K, h), into that by the outputs, in place."""


class _Autograd(Visitor):
    may_draw = True

    def __init__(self, function: Callable[[Tile], Tensor], scale: Tensor | None) -> None:
        self.function, self.scale = function, scale

    def __call__(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        if self.scale is None:
            return self.function(tile.masked()), None
        tile = tile.masked()
        outputs = tile.outputs.detach().requires_grad_()
        with torch.enable_grad():
            value = self.function(tile._replace(outputs=outputs))
        if not value.requires_grad:
            return value, torch.zeros_like(outputs)
        (gradient,) = torch.autograd.grad(value, outputs, self.scale.to(value.dtype))
        return value.detach(), gradient


def differentiate(function: Callable[[Tile], Tensor], scale: Tensor | None = None) -> Visitor:
    """Return the visitor of a scalar function of a tile, differentiated by autograd.

    Outputs are 0 where ignored.

    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> grid = LabelGrid(torch.ones(1, 2, 1, 2), labels, requires_grad=True)
    >>> totals, gradient = grid.visit(differentiate(lambda tile: tile.outputs.sum(), torch.tensor(0.5)))
    >>> totals.tolist(), gradient.flatten().tolist()
    ([16.0], [2.0, 2.0, 2.0, 2.0])

    Args:
        function: Function of a tile's pixels.
        scale: Factor of the gradient; ``None`` if no gradient is needed.
    """
    return _Autograd(function, scale)


class LabelGrid:
    """Outputs of a batch at the size of its labels, which exist one tile at a time.

    Outputs of another size are bilinearly interpolated; those of label size are read where they are.

    >>> labels = Labels.of(torch.zeros(1, 2, 4, dtype=torch.long), classes=2, ignore_index=255)
    >>> LabelGrid(torch.ones(1, 2, 1, 2), labels).same_size
    False

    Args:
        pred: Raw outputs, (N, K, h, w), or of label size, (N, K, *).
        labels: Labels, (N, H, W) or (N, *).
        weight: Weights of pixels, as the labels, or of images, (N,).
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        requires_grad: Whether :meth:`visit` returns a gradient.
    """

    def __init__(
        self,
        pred: Tensor,
        labels: Labels,
        weight: Tensor | None = None,
        align_corners: bool = False,
        requires_grad: bool = False,
    ) -> None:
        self.pred, self.labels, self.weight = pred.detach(), labels, weight
        self.align_corners, self.requires_grad = align_corners, requires_grad
        self.dtype = torch.promote_types(pred.dtype, torch.float32)
        self.same_size = pred.shape[2:] == labels.target.shape[1:]

    def visit(self, visitor: Visitor, requires_grad: bool = True) -> tuple[Tensor, Tensor | None]:
        """Visit all tiles, for a gradient if ``requires_grad`` here and in the grid.

        Returns:
            The sum of the tiles' values for every image, float64 (N, *), and the gradient by the outputs,
            of their shape, in float32, or float64 for such outputs, or ``None``.
        """
        requires_grad &= self.requires_grad
        gradient = torch.empty_like(self.pred, dtype=self.dtype) if requires_grad else None
        if self.same_size:
            totals = [
                self._sum(self._chunks(n, visitor, None if gradient is None else gradient[n]))
                for n in range(len(self.pred))
            ]
        else:
            totals = self._upsampled(visitor, gradient)
        return torch.stack(totals) if totals else self.pred.new_zeros(0, dtype=torch.float64), gradient

    def _sum(self, values: Iterator[Tensor]) -> Tensor:
        total = next(values).double()
        for value in values:
            total += value
        return total

    def _chunks(self, n: int, visitor: Visitor, gradient: Tensor | None) -> Iterator[Tensor]:
        """Visit the tiles of an image whose outputs have the size of its labels."""
        outputs = self.pred[n : n + 1].to(self.dtype)
        rows = outputs.shape[2]
        step = max(TILE.get(outputs.device.type, TILE["cpu"]) * rows // max(outputs.numel(), 1), 1)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            label, valid = self.labels.chunk((slice(n, n + 1), part))
            tile = Tile(n, outputs[:, :, part], label, valid, self._weight(n, part), (part,), None)
            value, tile_gradient = visitor(tile)
            yield value
            if gradient is not None and tile_gradient is not None:
                gradient[:, part] = tile_gradient[0]

    def _weight(self, n: int, rows: slice) -> Tensor | None:
        if self.weight is None:
            return None
        weight = self.weight[n].to(self.dtype)
        return weight if weight.dim() == 0 else weight[rows]

    def _upsampled(self, visitor: Visitor, gradient: Tensor | None) -> list[Tensor]:
        @torch.no_grad()  # the grad mode belongs to a thread
        def work(images: range) -> list[Tensor]:
            return [
                self._sum(self._tiles(n, visitor, None if gradient is None else gradient[n])) for n in images
            ]

        with single_threaded(self.pred.device) as threads:
            count, workers = len(self.pred), min(threads, _WORKERS)
            if workers == 1 or count < 2 or not visitor.may_draw:
                return in_threads(work, count, workers)
            # Random numbers must not depend on which thread draws first.
            state = torch.get_rng_state()
            first = work(range(1))
            workers = workers if torch.get_rng_state().equal(state) else 1
            return first + in_threads(
                lambda images: work(range(images.start + 1, images.stop + 1)), count - 1, workers
            )

    def _small(self, n: int, rows_first: bool = False) -> Tensor:
        """Return an image's outputs, (w, K, h), or (h, K, w) with ``rows_first``.

        If any is infinite, those that no valid pixel reads are 0.
        """
        outputs = self.pred[n].permute((1, 0, 2) if rows_first else (2, 0, 1))
        small = outputs.new_empty(outputs.shape, dtype=self.dtype).copy_(outputs)
        if small.sum().isfinite():
            return small
        unread = unread_points(self.labels.valid[n], self.pred.shape[2:], self.align_corners)
        return small.masked_fill((unread if rows_first else unread.T).unsqueeze(1), 0)

    def _tiles(self, n: int, visitor: Visitor, gradient: Tensor | None) -> Iterator[Tensor]:
        """Visit the tiles of an image, row by row, and write its gradient.

        Columns come first and rows last, so that the columns of a tile are a slice of contiguous memory.
        """
        small = visitor.prepare(self._small(n))
        width, classes, height = small.shape
        device = small.device
        kind = device.type if device.type in TILE else "cpu"
        large_height, large_width = self.labels.target.shape[1:]
        given = self.align_corners, small.dtype, device
        all_columns = axis_blocks(width, large_width, COLUMNS[kind], *given, by_cells=True)
        most = max(len(columns.matrix) for columns in all_columns)
        step = min(TILE[kind] // (classes * most), large_height)
        step = max(min(step, ROWS) if kind == "cpu" else step, 1)
        all_rows = axis_blocks(height, large_height, step, *given)
        projected = None
        own_memory = gradient is not None and gradient.dtype == small.dtype and len(gradient) == classes
        if gradient is not None:  # in its own memory unless the tiles have another precision or more channels
            projected = gradient.permute(2, 0, 1).zero_() if own_memory else torch.zeros_like(small)
        # Kept buffers: to allocate one for every tile would cause page faults.
        tile_buffer = small.new_empty(most * classes * step)
        strip_buffer = small.new_empty(width * classes * step)
        gradient_buffer = small.new_empty(0 if projected is None else width * classes * step)
        widest = max(columns.small.stop - columns.small.start for columns in all_columns)
        projection_buffer = small.new_empty(0 if projected is None else 2 * widest * classes * step)
        for rows in all_rows:
            strip = strip_buffer[: width * classes * len(rows.matrix)].view(width * classes, -1)
            torch.mm(small[:, :, rows.small].flatten(0, 1), rows.matrix.T, out=strip)
            strip = strip.view(width, -1)
            strip_gradient = gradient_buffer[: strip.numel() if projected is not None else 0].zero_()
            labels, masks = (part.T.contiguous() for part in self.labels.chunk((n, rows.large)))
            weight = self._weight(n, rows.large)
            for columns in all_columns:
                large = columns.large
                size = len(columns.matrix), classes, len(rows.matrix)
                tile = tile_buffer[: prod(size)].view(size)
                upsample = partial(columns.upsample, strip[columns.small], tile)
                value, tile_gradient = visitor(
                    Tile(
                        n,
                        upsample(),
                        labels[large],
                        masks[large],
                        weight if weight is None or weight.dim() == 0 else weight.T[large],
                        (rows.large, large),
                        upsample,
                    )
                )
                yield value
                if projected is not None and tile_gradient is not None:
                    part = strip_gradient.view_as(strip)[columns.small]
                    columns.project(tile_gradient, part, projection_buffer)
            if projected is not None:
                part = torch.mm(strip_gradient.view(width * classes, -1), rows.matrix)
                projected[:, :, rows.small] += part.view(width, classes, -1)
        if gradient is not None and projected is not None:
            visitor.finish(projected)
            if not own_memory:
                gradient.copy_(projected[:, : len(gradient)].permute(1, 2, 0))
