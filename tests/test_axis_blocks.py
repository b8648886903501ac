"""One axis of the bilinear operator in blocks, against torch's own interpolation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmseol.losses.ops.axis_blocks import axis_blocks

CPU = torch.device("cpu")


@settings(max_examples=200, deadline=None)
@given(
    small=st.integers(1, 9),
    large=st.one_of(st.integers(1, 40), st.sampled_from([2, 3, 4, 7, 8]).map(lambda ratio: -ratio)),
    step=st.integers(1, 24),
    align_corners=st.booleans(),
    by_cells=st.booleans(),
)
def test_blocks_resize_as_torch_does(small, large, step, align_corners, by_cells):
    large = -large * small if large < 0 else large
    inputs = torch.randn(small, 5, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(inputs.T[None], large, mode="linear", align_corners=align_corners)[0].T
    gradient = torch.randn(large, 5, dtype=torch.float64)
    (expected_gradient,) = torch.autograd.grad(expected, inputs, gradient)

    blocks = axis_blocks(small, large, step, align_corners, torch.float64, CPU, by_cells)
    assert [i for block in blocks for i in range(block.large.start, block.large.stop)] == [*range(large)]
    projected = torch.zeros(small, 5, dtype=torch.float64)
    outputs = []
    with torch.no_grad():
        for block in blocks:
            out = torch.full((len(block.matrix), 5), torch.nan, dtype=torch.float64)
            outputs.append(block.upsample(inputs[block.small], out))
            buffer = torch.full((2 * (block.small.stop - block.small.start) * 5,), torch.nan).double()
            block.project(gradient[block.large], projected[block.small], buffer)
    torch.testing.assert_close(torch.cat(outputs), expected.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(projected, expected_gradient, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("small", "large", "align_corners", "cells"),
    [(40, 320, False, [8, 8, 8, 8, 7]), (3, 9, False, [2]), (1, 8, False, None), (40, 320, True, None),
     (40, 300, False, None), (4, 4, False, None), (8, 4, False, None)],
)  # fmt: skip
def test_cells_where_the_ratio_is_whole(small, large, align_corners, cells):
    blocks = axis_blocks(small, large, 64, align_corners, torch.float32, CPU, by_cells=True)
    found = [block.cells and block.cells.number for block in blocks]
    assert found == (cells or [None] * len(blocks))
