"""The Triton kernels against the PyTorch path: on a GPU, or in Triton's interpreter in an own process."""

import pytest
import torch
from helpers.batches import IGNORE, batch
from helpers.triton_interpreter import CUDA, kernel, run_in_interpreter, starts_interpreter

from mmseol.losses.ops import squared_error, squared_error_upsampled
from mmseol.losses.ops.inputs import Labels


@starts_interpreter
def test_in_the_interpreter():
    run_in_interpreter(__file__)


def arguments(shape, small=None, dtype=torch.float64, ignored=0.3, weight=None):
    """Return what the kernels and their references are called with."""
    pred, target = batch(shape, 3, outputs=small, ignored=ignored, dtype=dtype)
    size = {None: None, "positions": shape, "samples": shape[:1]}[weight]
    weights = None if size is None else torch.rand(size, generator=torch.Generator().manual_seed(0))
    values = torch.arange(1.0, 4, dtype=torch.float64) * 6
    device = "cuda" if CUDA else "cpu"
    parts = [part if part is None else part.to(device) for part in (pred.detach(), target, values, weights)]
    return parts[0], Labels.of(parts[1], 3, IGNORE), *parts[2:], torch.tensor(7.0, device=device)


def compare(reference, name, given, *more):
    from mmseol.losses.ops import squared_error_triton

    expected, expected_grad = reference(*given, True, *more)
    value, grad = getattr(squared_error_triton, name)(*given, True, *more)
    assert (value.dtype, grad.dtype) == (expected.dtype, expected_grad.dtype)
    tolerance = dict(rtol=1e-10, atol=1e-10) if value.dtype == torch.float64 else dict(rtol=2e-6, atol=2e-5)
    torch.testing.assert_close(value, expected, **tolerance)
    torch.testing.assert_close(grad, expected_grad, **tolerance)
    value, grad = getattr(squared_error_triton, name)(*given, False, *more)
    torch.testing.assert_close(value, expected, **tolerance)
    assert grad is None


@kernel
@pytest.mark.parametrize("weight", [None, "positions", "samples"])
@pytest.mark.parametrize("shape", [(7,), (3, 9), (3, 5, 6), (2, 20, 20), (0, 2, 2)])
def test_same_size(shape, weight):
    compare(squared_error.half_squared_error_sum, "half_squared_error_sum", arguments(shape, weight=weight))


@kernel
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("weight", [None, "positions", "samples"])
@pytest.mark.parametrize(
    ("small", "large"),
    [((3, 4), (9, 16)), ((1, 1), (4, 5)), ((5, 1), (3, 7)), ((6, 5), (4, 9)), ((17, 18), (20, 33))],
)
def test_upsampled(small, large, weight, align_corners):
    given = arguments((2, *large), small, weight=weight)
    name = "upsampled_half_squared_error_sum"
    compare(squared_error_upsampled.upsampled_half_squared_error_sum, name, given, align_corners)


@kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precisions_layouts_and_label_types(dtype):
    for layout in (torch.contiguous_format, torch.channels_last):
        pred, labels, *rest = arguments((2, 9, 16), (9, 16), dtype=torch.float32)
        labels = labels._replace(target=labels.target.to(torch.uint8))
        pred = pred.to(dtype).to(memory_format=layout)
        compare(squared_error.half_squared_error_sum, "half_squared_error_sum", [pred, labels, *rest])
        pred = pred[:, :, ::3, ::4]
        name = "upsampled_half_squared_error_sum"
        compare(squared_error_upsampled.upsampled_half_squared_error_sum, name, [pred, labels, *rest], False)


@kernel
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_what_is_ignored_may_be_anything_and_nothing_else(odd):
    from mmseol.losses.ops import squared_error_triton

    pred, labels, *rest = arguments((2, 16, 16), (4, 4), ignored=0.0)
    labels.target[0, :9] = IGNORE
    labels = Labels.of(labels.target, labels.classes, IGNORE)
    pred[0, :, 0] = odd
    compare(
        squared_error_upsampled.upsampled_half_squared_error_sum,
        "upsampled_half_squared_error_sum",
        [pred, labels, *rest],
        True,
    )
    pred[1, 0, 2, 2] = odd
    value, _ = squared_error_triton.upsampled_half_squared_error_sum(pred, labels, *rest, True, False)
    assert not value.isfinite()

    pred, labels, *rest = arguments((2, 16, 16))
    pred.movedim(1, -1)[labels.target == IGNORE] = odd
    compare(squared_error.half_squared_error_sum, "half_squared_error_sum", [pred, labels, *rest])


@kernel
def test_a_label_that_is_no_class_shows():
    from mmseol.losses.ops import squared_error_triton

    for wrong in (-1, 3):
        pred, labels, *rest = arguments((2, 8, 8), ignored=0.0)
        labels.target[1, 2, 3] = wrong
        assert squared_error_triton.half_squared_error_sum(pred, labels, *rest, True)[0].isnan()
        assert squared_error_triton.upsampled_half_squared_error_sum(pred, labels, *rest, True, False)[
            0
        ].isnan()
