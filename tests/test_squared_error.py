"""The half squared error in one pass against autograd of its formula, and its memory."""

import pytest
import torch
from helpers.batches import IGNORE, batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmseol.losses import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.ops import inputs
from mmseol.losses.ops.inputs import Labels
from mmseol.losses.ops.squared_error import half_squared_error_sum


def outlying(classes, **kwargs):
    counts = torch.arange(classes, 0, -1).tolist()
    return OutlyingMSELoss(alpha=2.0, class_counts=counts, ignore_index=IGNORE, **kwargs)


def formula(loss, pred, target, weight=None):
    """The sum of Eq. (4) over the valid positions, from one-hot targets."""
    values = loss.target_values if hasattr(loss, "target_values") else torch.ones(pred.shape[1])
    valid = target != IGNORE
    one_hot = F.one_hot(torch.where(valid, target, 0), pred.shape[1]).movedim(-1, 1)
    residual = pred - one_hot * values.to(pred).view(1, -1, *[1] * (pred.dim() - 2))
    losses = torch.where(valid, 0.5 * residual.square().sum(1), 0)
    if weight is not None:
        losses = losses * weight.to(pred).reshape(weight.shape + (1,) * (losses.dim() - weight.dim()))
    return losses.sum()


@pytest.mark.parametrize("piece", [1, 30, 2**19])
@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    ignored=st.sampled_from([0.0, 0.3, 1.0]),
    weight=st.sampled_from([None, "positions", "samples"]),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula_in_any_piece(piece, shape, ignored, weight, seed):
    pred, target = batch(shape, 4, ignored=ignored, seed=seed)
    size = {None: None, "positions": shape, "samples": shape[:1]}[weight]
    weight = None if size is None else torch.rand(size, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(inputs.CHUNK, "cpu", piece)
        for loss in (outlying(4), OneHotMSELoss(ignore_index=IGNORE)):
            value = loss(pred, target, weight=weight)
            (grad,) = torch.autograd.grad(value, pred)
            expected = formula(loss, pred, target, weight) / max(int((target != IGNORE).sum()), 1)
            (expected_grad,) = torch.autograd.grad(expected, pred)
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(grad, expected_grad)


def test_no_gradient_is_written_where_none_is_asked_for():
    pred, target = batch((3, 5), 4)
    labels = Labels.of(target, classes=4, ignore_index=IGNORE)
    one, values = torch.tensor(1.0), torch.ones(4)
    value, gradient = half_squared_error_sum(pred.detach(), labels, values, None, one, requires_grad=False)
    assert gradient is None
    torch.testing.assert_close(value, formula(OneHotMSELoss(ignore_index=IGNORE), pred, target).detach())


def test_any_layout_and_no_gradient():
    pred, target = batch((3, 5, 6), 4)
    loss = outlying(4)
    expected = loss(pred, target)
    (expected_grad,) = torch.autograd.grad(expected, pred)
    plain = pred.detach()
    for other in (
        plain.to(memory_format=torch.channels_last),
        plain.transpose(2, 3).contiguous().transpose(2, 3),
        plain.repeat(1, 2, 1, 1)[:, :4],
        plain[:1].expand(3, -1, -1, -1),
    ):
        here = outlying(4)(other, target)
        assert not here.requires_grad
        other = other.detach().requires_grad_()
        value = loss(other, target)
        (grad,) = torch.autograd.grad(value, other)
        torch.testing.assert_close(value, here)
        if other.stride(0):
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(grad, expected_grad)
    with torch.no_grad():
        torch.testing.assert_close(loss(pred, target), expected.detach())


def test_float32_sums_of_a_million_positions_are_accurate():
    pred, target = batch((4, 512, 512), 4, dtype=torch.float32)
    value = outlying(4, reduction="sum")(pred.detach(), target)
    expected = formula(outlying(4), pred.detach().double(), target)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


def test_a_retained_graph_gives_the_gradient_again():
    pred, target = batch((3, 4), 4)
    value = 3 * outlying(4)(pred, target)
    (first,) = torch.autograd.grad(value, pred, retain_graph=True)
    kept = first.clone()
    first.zero_()  # a tensor of the caller
    (second,) = torch.autograd.grad(value, pred, torch.tensor(2.0, dtype=torch.float64), retain_graph=True)
    torch.testing.assert_close(second, 2 * kept)
    value.backward()
    torch.testing.assert_close(pred.grad, kept)
    if _gives_away():
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            value.backward()


def test_two_losses_of_the_same_outputs_add_up():
    pred, target = batch((3, 4), 4)
    total = outlying(4)(pred, target) + OneHotMSELoss(ignore_index=IGNORE)(pred, target)
    total.backward()
    expected = formula(outlying(4), pred, target) + formula(OneHotMSELoss(), pred, target)
    (grad,) = torch.autograd.grad(expected / (target != IGNORE).sum(), pred)
    torch.testing.assert_close(pred.grad, grad)


def test_second_derivative_is_refused_and_the_remedy_works():
    pred, target = batch((3, 4), 4)
    loss = outlying(4)
    with pytest.raises(RuntimeError, match=r"differentiable once.*reduction_override='none'"):
        torch.autograd.grad(loss(pred, target), pred, create_graph=True)
    positions = loss(pred, target, reduction_override="none").sum()
    (grad,) = torch.autograd.grad(positions, pred, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), pred)
    torch.testing.assert_close(second, (target != IGNORE).double().unsqueeze(1).expand_as(pred))


def test_the_gradient_is_given_away_and_not_copied():
    """A leaf's `grad` is the buffer that forward wrote: beside it, no second tensor of the outputs' size."""
    if not _gives_away():
        pytest.skip(f"torch {torch.__version__} does not say whether a graph is retained")
    pred, target = batch((2, 64, 64), 16, dtype=torch.float32)
    loss = outlying(16)
    value = loss(pred, target)
    address = value.grad_fn.next_functions[0][0].gradient.data_ptr()
    value.backward()
    assert pred.grad.data_ptr() == address


def _gives_away():
    return hasattr(torch._C._autograd, "_get_current_graph_task_keep_graph")


def test_weights_may_be_differentiated():
    pred, target = batch((3, 4), 4)
    weight = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    loss = outlying(4)
    (grad,) = torch.autograd.grad(loss(pred, target, weight=weight), weight)
    positions = loss(pred, target, reduction_override="none").detach()
    torch.testing.assert_close(grad, positions / (target != IGNORE).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients(dtype):
    pred, target = batch((3, 4, 5), 4, dtype=torch.float32)
    half = (pred.detach() * 60).to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    loss = outlying(4)
    (grad,) = torch.autograd.grad(1024 * loss(half, target), half)
    (expected,) = torch.autograd.grad(1024 * loss(wide, target), wide)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, expected.to(dtype))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_value_may_be_scaled_in_place(reduction):
    pred, target = batch((3, 4), 4)
    loss = outlying(4, reduction=reduction)
    (expected,) = torch.autograd.grad((2 * loss(pred, target)).sum(), pred)
    value = loss(pred, target)
    value *= 2
    torch.testing.assert_close(torch.autograd.grad(value.sum(), pred)[0], expected)


@pytest.mark.parametrize(
    ("shape", "elements", "samples", "rows"),
    [
        ((7, 3), 6, [3, 3, 1], None),
        ((4, 3, 2, 5), 60, [2, 2], [2]),
        ((4, 3, 2, 5), 29, [1] * 4, [1, 1]),
        ((2, 3, 5, 2), 12, [1, 1], [2, 2, 1]),
        ((2, 3, 5), 1, [1, 1], [1] * 5),
        ((2, 3, 0, 4), 60, [2], []),
    ],
)
def test_chunks_are_as_large_as_they_may_be(shape, elements, samples, rows, monkeypatch):
    monkeypatch.setitem(inputs.CHUNK, "cpu", elements)
    outputs = torch.empty(shape)
    parts = [outputs[:, 0][where].shape for where in inputs.chunks(outputs)]
    expected = (
        [(n,) for n in samples] if rows is None else [(n, r, *shape[3:]) for n in samples for r in rows]
    )
    assert parts == expected
