"""The loss of upsampled outputs without upsampling them, against torch's own interpolation."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.batches import IGNORE, batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmseol.losses import OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.ops import squared_error_upsampled as upsampled


def outlying(classes, alpha=6.0, **kwargs):
    counts = torch.arange(classes, 0, -1).tolist()
    return OutlyingMSELoss(alpha=alpha, class_counts=counts, ignore_index=IGNORE, **kwargs)


def materialised(loss, pred, target, align_corners=False, weight=None, reduction="mean", avg_factor=None):
    """Eq. (4) of torch's upsampled outputs, position by position, from one-hot targets."""
    up = F.interpolate(pred, target.shape[-2:], mode="bilinear", align_corners=align_corners)
    valid = target != IGNORE
    values = getattr(loss, "target_values", None)
    values = torch.ones(pred.shape[1]) if values is None else values
    one_hot = F.one_hot(torch.where(valid, target, 0), pred.shape[1]).movedim(-1, 1)
    squares = 0.5 * (up - one_hot * values.to(pred).view(1, -1, 1, 1)).square()
    losses = torch.where(valid, squares.sum(1), 0)
    if weight is not None:
        losses = losses * weight.to(pred).reshape(weight.shape + (1,) * (3 - weight.dim()))
    divisor = 1.0 if reduction == "sum" else max(int(valid.sum()), 1) if avg_factor is None else avg_factor
    return loss.loss_weight * losses.sum() / divisor


def check(loss, pred, target, rtol=1e-10, **kwargs):
    override = {"reduction_override": kwargs["reduction"]} if "reduction" in kwargs else {}
    call = {key: value for key, value in kwargs.items() if key != "reduction"} | override
    value = loss.forward_upsampled(pred, target, **call)
    (grad,) = torch.autograd.grad(value, pred)
    expected = materialised(loss, pred, target, **kwargs)
    (expected_grad,) = torch.autograd.grad(expected, pred)
    torch.testing.assert_close(value, expected, rtol=rtol, atol=rtol)
    torch.testing.assert_close(
        grad, expected_grad, rtol=rtol, atol=rtol * (1 + expected_grad.abs().max().item())
    )


sides = st.integers(1, 7)


@settings(max_examples=150, deadline=None)
@given(
    small=st.tuples(sides, sides),
    large=st.tuples(st.integers(1, 23), st.integers(1, 23)),
    align_corners=st.booleans(),
    ignored=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    weight=st.sampled_from([None, "pixels", "samples"]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 2**16),
)
def test_equals_materialised_at_any_size(small, large, align_corners, ignored, weight, reduction, seed):
    pred, target = batch((2, *large), 3, outputs=small, ignored=ignored, seed=seed)
    shape = {None: None, "pixels": target.shape, "samples": target.shape[:1]}[weight]
    weight = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    for loss in (outlying(3, loss_weight=0.4), OneHotMSELoss(ignore_index=IGNORE)):
        check(loss, pred, target, align_corners=align_corners, weight=weight, reduction=reduction)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"), [((40, 40), (320, 320)), ((23, 31), (180, 245)), ((9, 9), (4, 30))]
)
def test_float32_equals_materialised_to_rounding(small, large, align_corners):
    pred, target = batch((2, *large), 11, outputs=small, ignored=0.04, dtype=torch.float32)
    check(outlying(11), pred, target, rtol=2e-6, align_corners=align_corners)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setitem(upsampled.STRIP, "cpu", 50)
    upsampled._WORKSPACES.clear()
    yield
    upsampled._WORKSPACES.clear()


def test_strips_of_labels_and_groups_of_channels_add_up(small_pieces):
    pred, target = batch((2, 31, 17), 3, outputs=(5, 6))
    check(outlying(3), pred, target, weight=torch.rand(target.shape))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_is_left_as_it_was(two_threads):
    loss = outlying(3)
    for samples in (1, 2, 5):
        pred, target = batch((samples, 31, 17), 3, outputs=(5, 6))
        check(loss, pred, target, weight=torch.rand(target.shape))
        with torch.inference_mode():
            value = loss.forward_upsampled(pred.detach().clone(), target.clone())
        torch.testing.assert_close(value, materialised(loss, pred.detach(), target))
        assert torch.get_num_threads() == 2
    target[-1, 0, 0] = 3
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 3\)"):
        loss.forward_upsampled(pred, target)
    assert torch.get_num_threads() == 2


def test_threads_share_images_whose_outputs_fill_a_piece(two_threads, small_pieces, monkeypatch):
    shares = []
    plain = upsampled.in_threads
    monkeypatch.setattr(upsampled, "in_threads", lambda *args: shares.append(args[2]) or plain(*args))
    for samples in (1, 2, 3, 5):
        pred, target = batch((samples, 31, 17), 3, outputs=(5, 6))
        check(outlying(3), pred, target, weight=torch.rand(target.shape))
    assert shares == [2] * 4
    target[-1, 0, 0] = 3  # another thread's image
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 3\)"):
        outlying(3).forward_upsampled(pred, target)
    assert torch.get_num_threads() == 2


def test_two_heads_keep_their_buffers(monkeypatch):
    upsampled._WORKSPACES.clear()
    made = []

    build = upsampled.ImageLoss

    def make(*args):
        made.append(build(*args))
        return made[-1]

    monkeypatch.setattr(upsampled, "ImageLoss", make)
    heads = [batch((2, 31, 17), 3, outputs=(5, 6)), batch((2, 31, 17), 3, outputs=(3, 4))]
    for _ in range(3):
        for pred, target in heads:
            check(outlying(3), pred, target)
    assert len(made) == 2


def test_callers_in_several_threads_do_not_meet_in_kept_buffers():
    loss, batches = outlying(3), [batch((4, 31, 17), 3, outputs=(5, 6), seed=seed) for seed in range(8)]
    alone = [loss.forward_upsampled(*one) for one in batches]
    with ThreadPoolExecutor(4) as pool:
        together = [pool.submit(loss.forward_upsampled, *one) for _ in range(5) for one in batches]
    for value, expected in zip(together, alone * 5, strict=True):
        assert value.result() == expected


def test_training_follows_evaluation_in_inference_mode():
    upsampled._WORKSPACES.clear()
    upsampled.axis_taps.cache_clear()
    pred, target = batch((2, 31, 17), 3, outputs=(5, 6))
    with torch.inference_mode():
        outlying(3).forward_upsampled(pred.detach().clone(), target.clone())
    check(outlying(3), pred, target)


def test_the_label_maps_own_size_and_avg_factor():
    pred, target = batch((2, 6, 5), 3, outputs=(6, 5))
    check(outlying(3), pred, target)
    pred, target = batch((2, 6, 10), 3, outputs=(3, 5))
    check(outlying(3), pred, target, avg_factor=7)
    check(outlying(3), pred, target, avg_factor=torch.tensor(7.0))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(weighted):
    pred, target = batch((2, 5, 7), 3, outputs=(2, 3))
    weight = torch.rand(target.shape, dtype=torch.float64) if weighted else None
    loss = outlying(3)
    assert torch.autograd.gradcheck(lambda a: loss.forward_upsampled(a, target, weight=weight), (pred,))


@pytest.mark.parametrize("alpha", [6.0, 300.0])
def test_small_residuals_of_far_targets(alpha):
    """Outputs within 1e-2 of their targets: value and gradient keep their digits."""
    loss = outlying(11, alpha=alpha)
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 11, (2, 4, 4), generator=generator)
    # A label map that bilinear upsampling can reach: each label owns a block of points, seams are ignored.
    small = blocks.repeat_interleave(10, 1).repeat_interleave(10, 2)
    target = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    within = torch.arange(320) % 80
    seam = (within < 4) | (within >= 76)
    target[:, seam] = IGNORE
    target[:, :, seam] = IGNORE
    exact = F.one_hot(small, 11).movedim(-1, 1) * loss.target_values.view(1, -1, 1, 1)
    noise = torch.randn(exact.shape, generator=generator, dtype=torch.float64) * 1e-2
    pred = (exact + noise).float().requires_grad_()
    value = loss.forward_upsampled(pred, target)
    (grad,) = torch.autograd.grad(value, pred)
    wide = pred.detach().double().requires_grad_()
    expected = materialised(loss, wide, target)
    (expected_grad,) = torch.autograd.grad(expected, wide)
    assert 0 < expected < 1e-2
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=0)
    assert (grad - expected_grad).norm() < 1e-3 * expected_grad.norm()

    converged = loss.forward_upsampled(exact.float(), target)
    assert 0 <= converged < 1e-9


def test_what_no_valid_pixel_sees_may_be_anything():
    pred, target = batch((2, 16, 16), 3, outputs=(4, 4), ignored=0.0)
    target[0, :9] = IGNORE
    loss = outlying(3)
    value, grad = _value_and_grad(loss, pred, target)
    unseen = grad.eq(0).all(1)
    assert unseen.any()
    for odd in (float("nan"), float("inf"), 1e30):
        other = torch.where(unseen.unsqueeze(1), odd, pred.detach()).requires_grad_()
        other_value, other_grad = _value_and_grad(loss, other, target)
        torch.testing.assert_close(other_value, value, rtol=0, atol=0)
        torch.testing.assert_close(other_grad, grad, rtol=0, atol=0)
    seen = pred.detach().clone()
    seen[1, 0, 2, 2] = float("nan")
    assert loss.forward_upsampled(seen, target).isnan()


def _value_and_grad(loss, pred, target):
    value = loss.forward_upsampled(pred, target)
    (grad,) = torch.autograd.grad(value, pred)
    return value, grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    pred, target = batch((2, 16, 20), 3, outputs=(4, 5), dtype=torch.float32)
    half = pred.detach().to(dtype).requires_grad_()
    loss = outlying(3, alpha=300.0)
    expected, expected_grad = _value_and_grad(loss, half.detach().float().requires_grad_(), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = _value_and_grad(loss, half, target)
    assert (value.dtype, grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad.to(dtype))


def test_any_layout_and_integer_type():
    pred, target = batch((2, 16, 20), 5, outputs=(4, 5))
    loss = outlying(5)
    expected, expected_grad = _value_and_grad(loss, pred, target)
    layouts = (
        pred.detach().to(memory_format=torch.channels_last),
        pred.detach().transpose(2, 3).contiguous().transpose(2, 3),
        pred.detach().repeat(1, 2, 1, 1)[:, :5],
    )
    for other in layouts:
        value, grad = _value_and_grad(loss, other.requires_grad_(), target)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad, expected_grad)
    for labels in (target.to(torch.uint8), target.int(), target.transpose(1, 2).contiguous().transpose(1, 2)):
        torch.testing.assert_close(loss.forward_upsampled(pred, labels), expected)


def test_upsamples_where_it_must():
    pred, target = batch((2, 9, 8), 3, outputs=(3, 4))
    loss = outlying(3)
    up = F.interpolate(pred, (9, 8), mode="bilinear", align_corners=True)
    positions = loss.forward_upsampled(pred, target, align_corners=True, reduction_override="none")
    torch.testing.assert_close(positions, loss(up, target, reduction_override="none"))
    soft = torch.rand(2, 3, 9, 8, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(loss.forward_upsampled(pred, soft, True), loss(up, soft))
    weight = torch.rand(target.shape, requires_grad=True)
    (grad,) = torch.autograd.grad(loss.forward_upsampled(pred, target, True, weight), weight)
    torch.testing.assert_close(grad, (positions / (target != IGNORE).sum()).float())


def test_no_image_and_no_valid_pixel():
    pred, target = batch((2, 9, 8), 3, outputs=(3, 4), ignored=1.0)
    value, grad = _value_and_grad(outlying(3), pred, target)
    assert value == 0
    assert grad.eq(0).all()
    value, grad = _value_and_grad(outlying(3), pred[:0].detach().requires_grad_(), target[:0])
    assert value == 0
    assert grad.shape == (0, 3, 3, 4)


def test_negative_weights_give_a_negative_loss():
    pred, target = batch((2, 9, 8), 3, outputs=(3, 4))
    check(outlying(3), pred, target, weight=-torch.rand(target.shape))


def test_weights_of_zero_do_not_let_rounding_make_a_loss_negative():
    total = torch.tensor(-1e-16)
    assert upsampled.not_below_zero(total, torch.tensor([0.0, 1.0])) == 0
    assert upsampled.not_below_zero(total, torch.tensor([0.0, -1.0])) == total


def test_compiles_within_a_model():
    torch._dynamo.reset()
    loss, layer = outlying(3), torch.nn.Conv2d(2, 3, 1)
    image = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    _, target = batch((2, 16, 20), 3, outputs=(4, 5))

    def step(image):
        return 2 * loss.forward_upsampled(layer(image).relu(), target)

    expected = torch.autograd.grad(step(image), layer.weight)[0]
    compiled = torch.compile(step, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(image), layer.weight)[0], expected)


def test_wrong_arguments_are_named():
    pred, target = batch((2, 9, 8), 3, outputs=(3, 4))
    loss = outlying(3)
    for kwargs, message in (
        (
            dict(pred=pred[0], target=target),
            r"`pred` must be \(N, K, h, w\) .* got \(3, 3, 4\) and \(2, 9, 8\)",
        ),
        (dict(pred=pred, target=target[0]), r"`target` \(N, H, W\) or \(N, K, H, W\), got"),
        (dict(pred=pred, target=target[:1]), r"`target` must be of shape \(2, 9, 8\)"),
        (dict(pred=pred, target=target.double()), "must hold integer labels"),
        (dict(pred=pred, target=target, weight=torch.ones(9, 8)), "`weight` must be of shape"),
        (dict(pred=pred, target=target, ignore_index=-100), r"`target` must lie in \[0, 3\).*-100.*got 255"),
        (dict(pred=pred, target=target - 300), r"must lie in \[0, 3\) or .*got -300"),
        (dict(pred=pred, target=target, reduction_override="avg"), "`reduction_override` must be one of"),
        (
            dict(pred=pred, target=target, avg_factor=3, reduction_override="sum"),
            "goes with reduction='mean'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            loss.forward_upsampled(**kwargs)
    with pytest.raises(RuntimeError, match="`OutlyingMSELoss` needs"):
        OutlyingMSELoss().forward_upsampled(pred, target, ignore_index=IGNORE)


def test_nothing_of_the_labels_size_times_classes_is_allocated():
    """Memory by the profiler: the upsampled outputs alone would be 63 times the largest allocation."""
    pred, target = batch((1, 128, 128), 64, outputs=(16, 16), dtype=torch.float32)
    loss = outlying(64)
    loss.forward_upsampled(pred, target).backward()
    with torch.profiler.profile(profile_memory=True) as profile:
        loss.forward_upsampled(pred, target).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < pred[0, 0].numel() * 64 * 64
