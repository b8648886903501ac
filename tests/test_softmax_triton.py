"""The Triton kernels of the softmax against float64 autograd: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers.batches import IGNORE, batch
from helpers.triton_interpreter import CUDA, INTERPRETED, kernel, run_in_interpreter, starts_interpreter
from torch import Tensor
from torch.nn import functional as F

from mmseol.experiment.loss import LOSSES
from mmseol.losses import ClassLoss, FocalLoss
from mmseol.losses.base import tiled
from mmseol.losses.ops import softmax
from mmseol.registry import MODELS

K = 5
FAMILY = ["ce", "weighted_ce_median_frequency", "balanced_softmax", "logit_adjusted", "vs", "focal", "ldam"]


@starts_interpreter
def test_in_the_interpreter():
    run_in_interpreter(__file__)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let losses use the kernels on any device; return a list with an entry for each use of the kernels.

    An entry says whether the kernels computed the sums, and not the tiles.
    """
    from mmseol.losses.ops import softmax_triton

    made: list[bool] = []

    def tiles(*args: Any) -> Any:
        made[-1] = False
        return softmax.softmax_sums(*args)

    def kernels(*args: Any) -> Any:
        made.append(True)
        return softmax_triton.softmax_sums(*args)

    monkeypatch.setattr(softmax_triton, "tiled_softmax_sums", tiles)
    versions = {softmax.softmax_sums: kernels}
    monkeypatch.setattr(tiled, "for_device", lambda compute, pred: versions[compute])
    return made


def build(name: str, **kwargs: Any) -> ClassLoss:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = [4000, 900, 200, 30, 5]
        return MODELS.build({**LOSSES[name], "class_counts": counts, "ignore_index": IGNORE, **kwargs})


def compare(
    loss: ClassLoss,
    pred: Tensor,
    target: Tensor,
    align_corners: bool = False,
    weight: Tensor | None = None,
    **kwargs: Any,
) -> None:
    """Compare to 3e-7 of the value and 1e-6 of the gradient, or 1e-13 in float64, as the tiles' tests do."""
    device = "cuda" if CUDA else "cpu"
    exact = pred.detach().double().requires_grad_()
    large = F.interpolate(exact, target.shape[1:], mode="bilinear", align_corners=align_corners)
    expected = loss(large, target, weight, **kwargs)
    (expected_grad,) = torch.autograd.grad(expected, exact)
    given = pred.detach().to(device).requires_grad_()
    weight = None if weight is None else weight.to(device)
    value = loss.to(device).forward_upsampled(given, target.to(device), align_corners, weight, **kwargs)
    (gradient,) = torch.autograd.grad(value, given)
    assert (value.dtype, gradient.dtype) == (torch.promote_types(pred.dtype, torch.float32), pred.dtype)
    value, gradient = value.detach().cpu(), gradient.cpu()
    single = torch.finfo(torch.float32).eps
    tolerance = 1e-13 if pred.dtype == torch.float64 else 3e-7
    unit = 1 / target.numel()
    torch.testing.assert_close(value.double(), expected.detach(), rtol=tolerance, atol=tolerance * 40 * unit)
    rounding = {torch.float64: 1e-13, torch.float32: 1e-6}.get(
        pred.dtype, torch.finfo(pred.dtype).eps + single
    )
    error = (gradient.double() - expected_grad).abs().max() / expected_grad.abs().max().clamp(min=unit)
    assert error <= rounding, f"{error:.1e}"
    loss.cpu()


@kernel
@pytest.mark.parametrize("name", FAMILY)
def test_family(name, calls):
    pred, target = batch((2, 7, 9), K, outputs=(2, 3), dtype=torch.float32)
    compare(build(name), pred, target)
    assert calls == [True]


@kernel
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large", "dtype"),
    [
        ((3, 2), (9, 16), torch.float32),
        ((1, 1), (4, 5), torch.float64),
        ((5, 1), (3, 7), torch.float32),
        ((4, 5), (3, 9), torch.float64),
        ((2, 2), (21, 5), torch.float32),
    ],
)
def test_sizes(small, large, dtype, align_corners, calls):
    pred, target = batch((1, *large), K, outputs=small, dtype=dtype)
    compare(build("ce"), pred, target, align_corners)
    assert calls == [True]


@kernel
def test_no_gradient(calls):
    pred, target = batch((2, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    device = "cuda" if CUDA else "cpu"
    pred, target = pred.to(device), target.to(device)
    with torch.no_grad():
        value = build("focal").forward_upsampled(pred, target)
    torch.testing.assert_close(value, build("focal").forward_upsampled(pred, target).detach())
    assert calls == [True, True]


@kernel
def test_classes_and_points_beyond_a_block(calls):
    pred, target = batch((1, 3, 11), 35, outputs=(2, 9), dtype=torch.float32)
    compare(build("ce", class_counts=None), pred, target)
    pred, target = batch((3, 4, 4), K, outputs=(2, 2), dtype=torch.float32)
    compare(build("vs"), pred, target)
    assert calls == [True] * 2


@kernel
@pytest.mark.parametrize("weight", ["pixels", "samples"])
def test_weights_and_sum(weight, calls):
    pred, target = batch((2, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    shape = target.shape if weight == "pixels" else target.shape[:1]
    given = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for name in ("weighted_focal", "ldam"):
        compare(build(name), pred, target, weight=given, reduction_override="sum")
    assert calls == [True] * 2


@kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_layouts_and_label_types(dtype, calls):
    pred, target = batch((2, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        compare(build("ce"), pred.detach().to(dtype).to(memory_format=layout), target.to(torch.uint8))
    compare(build("ce"), pred.detach().to(dtype)[:, :, ::2], target.int())
    assert calls == [True] * 3


@kernel
@pytest.mark.parametrize("scale", [300.0, 1e4])
@pytest.mark.parametrize("name", ["ce", "ldam", "focal"])
def test_large_outputs(name, scale, calls):
    pred, target = batch((2, 7, 9), K, outputs=(2, 3), dtype=torch.float32, scale=scale)
    compare(build(name), pred, target)
    pred = pred.detach() / scale + scale  # a large common part
    compare(build(name), pred, target)
    assert calls == [True] * 2


@kernel
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_is_ignored_may_be_anything_and_nothing_else(odd, calls):
    pred, target = batch((2, 6, 6), K, outputs=(3, 3), dtype=torch.float32, ignored=0.1)
    target[0, :3] = IGNORE
    device = "cuda" if CUDA else "cpu"
    pred, target = pred.detach().to(device), target.to(device)
    expected = build("ce").forward_upsampled(pred.requires_grad_(), target)
    (expected_grad,) = torch.autograd.grad(expected, pred)
    changed = pred.detach().clone()
    changed[0, :, 0] = odd
    changed.requires_grad_()
    value = build("ce").forward_upsampled(changed, target)
    (gradient,) = torch.autograd.grad(value, changed)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_grad)
    with torch.no_grad():
        changed[1, 0, 1, 1] = odd
        assert odd == -float("inf") or not build("ce").forward_upsampled(changed, target).isfinite()


@kernel
@pytest.mark.parametrize("name", ["ce", "focal"])
def test_all_ignored(name, calls):
    pred, target = batch((2, 6, 7), K, outputs=(2, 3), dtype=torch.float32, ignored=1.0)
    device = "cuda" if CUDA else "cpu"
    pred, target = pred.detach().to(device).requires_grad_(), target.to(device)
    value = build(name).to(device).forward_upsampled(pred, target)
    (gradient,) = torch.autograd.grad(value, pred)
    assert value == 0
    assert not gradient.any()
    assert calls == [True]


@kernel
def test_exponents_below_one_have_a_derivative_beside_ignored_pixels(calls):
    pred, target = batch((1, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    compare(FocalLoss(gamma=0.5, ignore_index=IGNORE), pred, target)
    assert calls == [True]


@kernel
def test_groups_of_images(calls, monkeypatch):
    from mmseol.losses.ops import softmax_triton

    monkeypatch.setattr(softmax_triton, "_WORK", 1)
    pred, target = batch((3, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    compare(build("weighted_focal"), pred, target)
    assert calls == [True]


@kernel
def test_what_the_tiles_keep(calls):
    pred, target = batch((1, 6, 7), K, outputs=(2, 3), dtype=torch.float32)
    compare(build("elm"), pred, target)  # its margins depend on the outputs
    compare(build("seesaw").eval(), pred, target)  # so do its offsets
    pred, target = batch((1, 70, 3), K, outputs=(1, 2), dtype=torch.float32)
    compare(build("ce"), pred, target)  # a cell of 70 rows
    assert calls == [False] * 3


@kernel
@pytest.mark.parametrize("wrong", [-1, K])
def test_a_label_that_is_no_class_shows(wrong):
    from mmseol.losses.ops.inputs import Labels
    from mmseol.losses.ops.softmax_triton import softmax_sums
    from mmseol.losses.ops.tiles import LabelGrid

    class Unchecked(Labels):
        """Labels that nothing checks, as on a GPU."""

        def chunk(self, where: Any) -> tuple[Tensor, Tensor]:
            return torch.where(self.valid[where], self.target[where], 0), self.valid[where]

    device = "cuda" if CUDA else "cpu"
    pred, target = batch((2, 6, 7), K, outputs=(2, 3), dtype=torch.float32, ignored=0.0)
    target[1, 2, 3] = wrong
    labels = Unchecked.of(target.to(device), K, IGNORE)
    grid = LabelGrid(pred.to(device), labels, requires_grad=True)
    totals, _ = softmax_sums(grid, softmax.SoftmaxForm(), torch.ones((), device=device))
    assert totals.sum().isnan()


@pytest.mark.skipif(not CUDA, reason="the interpreter runs one program after another")
def test_runs_repeat_to_the_bit(calls):
    pred, target = batch((2, 9, 16), K, outputs=(3, 4), dtype=torch.float32)
    pred, target = pred.detach().cuda().requires_grad_(), target.cuda()
    results = []
    for _ in range(2):
        value = build("ce").forward_upsampled(pred, target)
        results.append((value, *torch.autograd.grad(value, pred)))
    assert all(first.equal(second) for first, second in zip(*results, strict=True))


class OnCuda:
    device = torch.device("cuda")


def test_which_function_has_a_triton_version(monkeypatch):
    if INTERPRETED:
        pytest.skip("looks at the kernels as they are dispatched on CUDA")
    from mmseol.losses.ops import compiled_versions, softmax_triton, squared_error, squared_error_triton

    both = softmax.softmax_sums, squared_error.half_squared_error_sum
    versions = softmax_triton.softmax_sums, squared_error_triton.half_squared_error_sum
    pred: Any = OnCuda()
    assert tuple(compiled_versions.for_device(compute, pred) for compute in both) == versions
    assert compiled_versions.for_device(build, pred) is build
    torch.use_deterministic_algorithms(True)
    try:  # the squared errors add atomically
        assert tuple(compiled_versions.for_device(compute, pred) for compute in both) == (
            versions[0],
            both[1],
        )
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(compiled_versions, "find_spec", lambda name: None)
    assert compiled_versions.for_device(both[0], pred) is both[0]


def grid_of(pred: Tensor, target: Tensor) -> Any:
    from mmseol.losses.ops.inputs import Labels
    from mmseol.losses.ops.tiles import LabelGrid

    return LabelGrid(pred, Labels.of(target, pred.shape[1], IGNORE), requires_grad=True)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), [(3, 9), (2, 21), (5, 3), (1, 4)])
def test_cells_hold_the_pixels_between_two_points(small, large, align_corners):
    from mmseol.losses.ops.axis_blocks import dense_axis
    from mmseol.losses.ops.softmax_triton import _cells

    cells = _cells(small, large, align_corners, torch.device("cpu"))
    starts, matrix = cells.starts.tolist(), torch.zeros(large, small + 1, dtype=torch.float64)
    for point in range(small):
        own = slice(starts[point], starts[point + 1])
        matrix[own, point : point + 2] = cells.weights[:, own].T
    expected = dense_axis(small, large, align_corners, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(matrix[:, :small], expected, rtol=0, atol=0)
    assert (starts[0], starts[-1], cells.starts.dtype) == (0, large, torch.int32)
    assert cells.largest == max(end - start for start, end in pairwise(starts))


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1.0, torch.float32), (1e3, torch.float64), (float("inf"), torch.float32)]
)
def test_prepared_outputs_are_adjusted_and_have_a_largest_of_zero(scale, dtype):
    from mmseol.losses.ops.softmax_triton import _prepare

    pred, target = batch((2, 6, 6), K, outputs=(3, 3), dtype=torch.float32, scale=min(scale, 1e3))
    if scale == float("inf"):
        pred, target = pred.detach() / 1e3, target.clone()
        pred[1, :, 0], target[1, :3] = scale, IGNORE
    form = softmax.SoftmaxForm(factor=torch.linspace(0.5, 1, K), offset=torch.linspace(-1, 1, K))
    prepared = _prepare(grid_of(pred, target), slice(1, 2), form)
    expected = form.adjust(torch.where(pred[1:].isfinite(), pred[1:], 0).double()).movedim(1, -1)
    expected = (expected - expected.amax(3, keepdim=True)).to(dtype).detach()
    torch.testing.assert_close(prepared, expected, rtol=1e-5, atol=1e-5)
    assert prepared.amax(3).eq(0).all()
    assert prepared.is_contiguous()


def test_images_in_groups_and_what_is_left_to_the_tiles(monkeypatch):
    from mmseol.losses.ops import softmax_triton

    groups: list[Any] = []

    def images(grid, part, form, scale, rows, columns, gradient):
        groups.append((part.start, part.stop, rows.largest, columns.largest, gradient))
        return torch.tensor(float(part.start))

    monkeypatch.setattr(softmax_triton, "_images", images)
    monkeypatch.setattr(softmax_triton, "tiled_softmax_sums", lambda *args: "tiles")
    plain, one = softmax.SoftmaxForm(), torch.ones(())
    pred, target = batch((3, 6, 8), K, outputs=(3, 2), dtype=torch.float16)
    numbers = 8 * 6 * 8 + 6 * K * 3 * 2  # eight maps, and six times the outputs, of an image
    for work, starts in ((numbers * 2, [0, 2]), (numbers * 2 - 1, [0, 1, 2]), (1, [0, 1, 2])):
        for scale in (one, None):
            groups.clear()
            monkeypatch.setattr(softmax_triton, "_WORK", work)
            totals, gradient = softmax_triton.softmax_sums(grid_of(pred, target), plain, scale)
            assert totals.tolist() == [start for start, *_ in groups] == starts
            assert {stop - start for start, stop, *_ in groups} == {1 if len(starts) == 3 else 2}
            assert {cells for _, _, *cells, _ in groups for cells in [tuple(cells)]} == {(3, 6)}
            assert all(written is gradient for *_, written in groups)
            assert (gradient is None) == (scale is None)
            assert gradient is None or (gradient.shape, gradient.dtype) == (pred.shape, torch.float32)
    for form in (softmax.SoftmaxForm(factors=torch.add), softmax.SoftmaxForm(margin_of=torch.add)):
        assert softmax_triton.softmax_sums(grid_of(pred, target), form, one) == "tiles"
    assert softmax_triton.softmax_sums(grid_of(pred[:0], target[:0]), plain, one) == "tiles"
    assert softmax_triton.softmax_sums(grid_of(*batch((1, 6, 8), K)), plain, one) == "tiles"
    for shape in ((64, 3), (3, 64), (65, 3), (3, 65)):
        found = softmax_triton.softmax_sums(grid_of(*batch((1, *shape), K, outputs=(1, 1))), plain, one)
        assert (found == "tiles") == (65 in shape)
