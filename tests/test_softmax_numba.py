"""The loops of softmax losses that Numba compiles, against torch's own interpolation and autograd."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmseol.experiment.loss import LOSSES
from mmseol.losses import ClassLoss
from mmseol.losses.base import tiled
from mmseol.losses.ops import compiled_versions, softmax, softmax_numba, squared_error
from mmseol.losses.ops.axis_blocks import dense_axis
from mmseol.losses.ops.inputs import Labels
from mmseol.losses.ops.tiles import LabelGrid, tiles_of
from mmseol.registry import MODELS
from mmseol.utils.compiled_loops import compiled, has_numba

COUNTS = [4000, 900, 200, 30, 5]
K = len(COUNTS)
NAMES = ["ce", "focal", "logit_adjusted", "vs", "weighted_ce_median_frequency", "weighted_focal"]


def build(name: str) -> ClassLoss:
    return MODELS.build({**LOSSES[name], "class_counts": COUNTS, "ignore_index": IGNORE}).train()


def in_segments(loss: ClassLoss, pred: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Return value and gradient, and see to it that every image was visited by segments."""
    visits: list[int] = []
    visit = softmax_numba._visit

    def counted(visitor, segments, *args):
        visits.append(int(segments.rows[-1]) * args[0].shape[2])
        return visit(visitor, segments, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax_numba, "_visit", counted)
        value = loss.forward_upsampled(pred, target, **kwargs)
    assert sum(visits) == target.numel()
    return value.detach(), torch.autograd.grad(value, pred)[0]


def check(name: str, pred: Tensor, target: Tensor, align_corners: bool, **kwargs: Any) -> None:
    """Compare with float64 to 3e-7 of the value and 1e-6 of the gradient."""
    exact = pred.detach().double().requires_grad_()
    large = F.interpolate(exact, target.shape[1:], mode="bilinear", align_corners=align_corners)
    expected = build(name)(large, target, **kwargs)
    (expected_grad,) = torch.autograd.grad(expected, exact)
    value, grad = in_segments(build(name), pred, target, align_corners=align_corners, **kwargs)
    unit = 1 / target.numel()  # one pixel's part; its value is rounded like its outputs
    largest = max(1.0, float(pred.detach().abs().max()))
    torch.testing.assert_close(value.double(), expected.detach(), rtol=3e-7, atol=3e-7 * unit * largest)
    assert (grad - expected_grad).abs().max() <= 1e-6 * expected_grad.abs().max().clamp(min=unit)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(
    small=st.tuples(st.integers(2, 6), st.integers(1, 6)),
    more=st.tuples(st.integers(0, 60), st.integers(1, 40)),
    align_corners=st.booleans(),
    ignored=st.sampled_from([0.0, 0.1, 0.9]),
    weighted=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    elements=st.sampled_from([60, 2**9, 2**18]),
    seed=st.integers(0, 2**16),
)
def test_equals_float64(name, small, more, align_corners, ignored, weighted, scale, elements, seed):
    size = 2 * small[0] + more[0], more[1]
    options = dict(outputs=small, ignored=ignored, scale=scale, dtype=torch.float32, seed=seed)
    pred, target = batch((2, *size), K, **options)
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) if weighted else None
    with tiles_of(elements):  # several strips of columns and groups of segments, or one
        check(name, pred, target, align_corners, weight=weight)


@pytest.mark.parametrize(
    ("small", "large"),
    [((40, 40), (320, 320)), ((23, 31), (180, 245)), ((128, 16), (512, 64)), ((2, 3), (90, 7))],
)
@pytest.mark.parametrize("classes", [2, 150])
def test_whole_strips(small, large, classes):
    pred, target = batch((1, *large), classes, outputs=small, scale=2.0, dtype=torch.float32)
    exact = pred.detach().double().requires_grad_()
    expected = F.cross_entropy(F.interpolate(exact, large, mode="bilinear"), target, ignore_index=IGNORE)
    (expected_grad,) = torch.autograd.grad(expected, exact)
    loss = MODELS.build(dict(type="mmseol.CrossEntropyLoss", ignore_index=IGNORE))
    value, grad = in_segments(loss, pred, target)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=3e-7, atol=0)
    torch.testing.assert_close(
        grad.double(), expected_grad, rtol=0, atol=1e-6 * float(expected_grad.abs().max())
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"), [(2, 4), (2, 64), (3, 17), (7, 56), (40, 320), (97, 769), (5, 12)]
)
def test_segments_are_the_rows_of_the_bilinear_matrix(small, large, align_corners):
    first, rows, start, step = softmax_numba._segments(small, large, align_corners)
    matrix = np.zeros((large, small))
    for i in range(len(first)):
        assert 0 < rows[i + 1] - rows[i] <= 8
        for row in range(rows[i], rows[i + 1]):
            weight = start[i] + step[i] * (row - rows[i])
            matrix[row, first[i]] += 1 - weight
            matrix[row, first[i] + 1] += weight
    assert (rows[0], rows[-1]) == (0, large)
    expected = dense_axis(small, large, align_corners, torch.float64, torch.device("cpu"))
    np.testing.assert_allclose(matrix, expected, atol=3e-7)


def test_segments_are_long():
    """Between two rows of a ratio of 8 there is one segment, and one copies each border's row."""
    *_, step = softmax_numba._segments(40, 320, False)
    assert (len(step), set(step.tolist())) == (41, {0.0, 0.125})
    assert len(softmax_numba._segments(16, 512, False).first) == 15 * 4 + 4


def reads(pred: Tensor, target: Tensor) -> tuple[float, Tensor]:
    value = build("ce").forward_upsampled(pred, target)
    return float(value), torch.autograd.grad(value, pred)[0]


def test_infinite_outputs_that_no_valid_pixel_reads():
    pred, target = batch((1, 24, 16), K, outputs=(6, 4), dtype=torch.float32)
    target[:, :12, :8] = IGNORE
    value, grad = reads(pred, target)
    for odd in (float("inf"), float("nan")):
        other = pred.detach().clone()
        other[:, :, 0, 0] = odd
        found, found_grad = in_segments(build("ce"), other.requires_grad_(), target)
        assert (float(found), found_grad.equal(grad)) == (value, True)
        other = other.detach().clone()
        other[:, 2, 5, 3] = odd  # read
        assert np.isnan(reads(other.requires_grad_(), target)[0])


def test_an_image_whose_outputs_span_too_much_is_left_to_the_tiles(monkeypatch):
    pred, target = batch((2, 24, 16), K, outputs=(6, 4), dtype=torch.float32)
    with torch.no_grad():
        pred[1, 0, 2, 2] = 500.0
    images = []
    visit = softmax_numba._visit
    monkeypatch.setattr(softmax_numba, "_visit", lambda *args: images.append(args) or visit(*args))
    value, grad = reads(pred, target)
    assert len(images) == 1
    expected = build("ce")(F.interpolate(pred.double(), target.shape[1:], mode="bilinear"), target)
    (expected_grad,) = torch.autograd.grad(expected, pred)
    torch.testing.assert_close(torch.tensor(value).double(), expected.detach(), rtol=3e-7, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-8)


def test_what_is_left_to_the_tiles(monkeypatch):
    monkeypatch.setattr(softmax_numba, "tiled_softmax_sums", lambda *args: "tiles")

    def found(pred: Tensor, target: Tensor, form: softmax.SoftmaxForm | None = None) -> Any:
        grid = LabelGrid(pred, Labels.of(target, pred.shape[1], IGNORE))
        return softmax_numba.softmax_sums(grid, form or softmax.SoftmaxForm(), torch.ones(()))

    pred, target = batch((2, 8, 5), K, outputs=(4, 3), dtype=torch.float32)
    assert found(pred, target)[0].shape == (2,)
    for form in (
        softmax.SoftmaxForm(factors=torch.add),
        softmax.SoftmaxForm(margin_of=torch.add),
        softmax.SoftmaxForm(margin=torch.ones(K)),
    ):
        assert found(pred, target, form) == "tiles"
    assert found(pred.double(), target) == "tiles"
    assert found(pred[:0], target[:0]) == "tiles"
    assert found(pred, target[:, :7]) == "tiles"
    assert found(pred[:, :, :1], target) == "tiles"
    assert found(*batch((2, 8, 5), K, dtype=torch.float32)) == "tiles"
    assert found(*batch((2, 8), K, dtype=torch.float32)) == "tiles"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_layout(dtype):
    pred, target = batch((2, 24, 16), K, outputs=(6, 4), dtype=torch.float32)
    half = pred.detach().to(dtype)
    expected, expected_grad = reads(half.float().requires_grad_(), target)
    for layout in (torch.contiguous_format, torch.channels_last):
        value, grad = in_segments(build("ce"), half.clone(memory_format=layout).requires_grad_(), target)
        torch.testing.assert_close(float(value), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(grad, expected_grad.to(dtype), rtol=0.01, atol=1e-6)


def test_threads_give_the_same_digits():
    pred, target = batch((3, 64, 48), K, outputs=(8, 6), dtype=torch.float32)
    threads = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(reads(pred, target))
    finally:
        torch.set_num_threads(threads)
    assert found[0][0] == found[1][0]
    assert found[0][1].equal(found[1][1])


def test_labels_that_are_no_class():
    pred, target = batch((1, 24, 16), K, outputs=(6, 4), dtype=torch.float32)
    target[0, 5, 5] = K
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 5\)"):
        reads(pred, target)


def test_code_without_a_folder_to_keep_it_in():
    """Numba keeps no code of a function that is in no file."""
    scope: dict[str, Any] = {}
    exec("def double(x):\n    return 2 * x", scope)
    assert compiled(fastmath=True)(scope["double"])(3) == 6


@pytest.fixture
def forget_packages() -> Iterator[None]:
    has_numba.cache_clear()
    yield
    has_numba.cache_clear()


def test_without_numba(monkeypatch, forget_packages):
    pred, target = batch((1, 24, 16), K, outputs=(6, 4), dtype=torch.float32)
    assert compiled_versions.for_device(softmax.softmax_sums, pred) is softmax_numba.softmax_sums
    other = squared_error.half_squared_error_sum
    assert compiled_versions.for_device(other, pred) is other
    with_numba = reads(pred, target)
    monkeypatch.setattr(softmax_numba, "_visit", None)
    monkeypatch.setitem(sys.modules, "numba", None)  # its import raises
    has_numba.cache_clear()
    assert compiled_versions.for_device(softmax.softmax_sums, pred) is softmax.softmax_sums
    torch.testing.assert_close(reads(pred, target), with_numba, rtol=1e-6, atol=1e-7)
    assert tiled.for_device is compiled_versions.for_device


def test_outputs_of_label_size_do_not_import_numba(monkeypatch):
    """It takes memory and time that they would not make up for."""
    pred, target = batch((2, 32, 32), K, dtype=torch.float32)
    monkeypatch.setattr(tiled, "for_device", None)
    with tiles_of(60):
        value = build("ce")(pred, target)
    torch.testing.assert_close(value, F.cross_entropy(pred, target, ignore_index=IGNORE))
