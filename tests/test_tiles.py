"""Losses of upsampled outputs, computed tile by tile, against torch's own interpolation and autograd."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmseol.experiment.loss import LOSSES
from mmseol.losses import ClassLoss, CrossEntropyLoss, EnlargedMarginLoss, SeesawLoss
from mmseol.losses.base import tiled as base_tiled
from mmseol.losses.base.stateful import StatefulLoss
from mmseol.losses.base.tiled import element_losses, fits_tiles, is_large
from mmseol.losses.ops import binary_cross_entropy, tiles
from mmseol.losses.ops.softmax import SoftmaxForm, derived, sums_are_exact
from mmseol.losses.ops.tiles import tiles_of
from mmseol.registry import MODELS

COUNTS = [4000, 900, 200, 30, 5]
K = len(COUNTS)
# Their tiles draw other random numbers than the whole.
FIXED = {"equalization": dict(gamma=1.0)}
TILED = [
    "balanced_softmax",
    "cdb_ce",
    "ce",
    "dice",
    "elm",
    "equalization",
    "equalization_sigmoid",
    "focal",
    "focal_sigmoid",
    "ghmc",
    "iou",
    "lade",
    "ldam",
    "logit_adjusted",
    "seesaw",
    "tversky",
    "vs",
    "weighted_ce_median_frequency",
    "weighted_focal",
]


def build(name: str, **kwargs) -> ClassLoss:
    """Return a loss in training, with difficulties that differ where it has any."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = {**LOSSES[name], **FIXED.get(name, {}), "class_counts": COUNTS, "ignore_index": IGNORE}
        loss = MODELS.build({**cfg, **kwargs})
    if hasattr(loss, "set_class_difficulty"):
        loss.set_class_difficulty(np.linspace(0.1, 0.9, len(loss.class_counts)))
    return loss.train()


def materialised(loss: ClassLoss, pred: Tensor, target: Tensor, align_corners: bool = False, **kwargs):
    """Return value and gradient of the loss of upsampled outputs, in float64 and in one piece."""
    pred = pred.detach().double().requires_grad_()
    large = F.interpolate(pred, target.shape[1:], mode="bilinear", align_corners=align_corners)
    with tiles_of(2**18):  # outputs of label size are cut into tiles too if they are large
        value = loss(large, target, **kwargs)
    return value.detach(), torch.autograd.grad(value, pred)[0]


def tiled(loss: ClassLoss, pred: Tensor, target: Tensor, **kwargs):
    """Return value and gradient of the loss of tiles."""
    value = loss.forward_upsampled(pred, target, **kwargs)
    return value.detach(), torch.autograd.grad(value, pred)[0]


def check(name: str, pred: Tensor, target: Tensor, align_corners: bool = False, **kwargs) -> None:
    """Compare tiles and whole to 3e-7 of the value and 1e-6 of the gradient, or 1e-13 in float64.

    The least gradient that counts is 1 at one pixel; a pixel's value is rounded like its outputs.
    """
    unit = 1 if kwargs.get("reduction_override") == "sum" else 1 / target.numel()
    expected, expected_grad = materialised(build(name), pred, target, align_corners, **kwargs)
    value, grad = tiled(build(name), pred, target, align_corners=align_corners, **kwargs)
    assert (value.dtype, grad.dtype) == (pred.dtype, pred.dtype)
    rtol, grad_rtol = (3e-7, 1e-6) if pred.dtype == torch.float32 else (1e-13, 1e-13)
    torch.testing.assert_close(
        value.double(),
        expected,
        rtol=rtol,
        atol=rtol * unit * max(1.0, min(tiles.RANGE, float(pred.detach().abs().max()))),
    )
    error = (grad - expected_grad).abs().max() / expected_grad.abs().max().clamp(min=unit)
    assert error <= grad_rtol, f"{error:.1e}"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base_tiled, "for_device", lambda compute, pred: compute)  # no compiled version
    with tiles_of(60):
        yield


@pytest.mark.parametrize("name", TILED)
@settings(max_examples=8, deadline=None)
@given(
    small=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    large=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    align_corners=st.booleans(),
    ignored=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    weight=st.sampled_from([None, "pixels", "samples"]),
    reduction=st.sampled_from(["mean", "sum"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    scale=st.sampled_from([0.1, 3.0, 30.0, 300.0, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_equals_materialised(
    name, small, large, align_corners, ignored, weight, reduction, dtype, scale, seed
):
    assume(small != large)  # outputs of label size keep the precision of torch's own functions
    pred, target = batch((2, *large), K, outputs=small, ignored=ignored, scale=scale, dtype=dtype, seed=seed)
    assert fits_tiles(build(name), target, 4, None, reduction)
    shape = {None: None, "pixels": target.shape, "samples": target.shape[:1]}[weight]
    weights = None if shape is None else torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    check(name, pred, target, align_corners, weight=weights, reduction_override=reduction)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("small", "large"),
    [((40, 40), (320, 320)), ((23, 31), (180, 245)), ((16, 16), (48, 48)), ((9, 9), (4, 30))],
)
def test_whole_tiles_of_float32(small, large, align_corners):
    with tiles_of(2**18):
        pred, target = batch((2, *large), K, outputs=small, ignored=0.04, dtype=torch.float32)
        check("ce", pred, target, align_corners)
        check("focal", pred, target, align_corners)


def test_pixels_where_every_exponential_underflows():
    """Halfway between points of two classes both outputs are small against the largest of either point."""
    pred = torch.full((1, K, 1, 2), -1000.0)
    pred[0, 1, 0, 0] = pred[0, 2, 0, 1] = 0.0
    for far in (1.0, 0.5, 0.15):  # up to 1000, 500, 150 apart: the last is left in float32
        outputs = (pred * far).requires_grad_()
        target = torch.full((1, 5, 9), 1)
        check("ce", outputs, target, align_corners=True)
        check("focal", outputs, target, align_corners=True)


@pytest.mark.parametrize("name", ["ce", "focal", "ldam", "focal_sigmoid"])
def test_gradcheck(name):
    pred, target = batch((2, 5, 7), K, outputs=(2, 3))
    weight = torch.rand(target.shape, dtype=torch.float64)
    loss = build(name)
    assert torch.autograd.gradcheck(lambda a: loss.forward_upsampled(a, target, weight=weight), (pred,))


@pytest.mark.parametrize("name", ["ce", "seesaw"])
def test_what_no_valid_pixel_reads_may_be_anything(name):
    pred, target = batch((2, 16, 16), K, outputs=(4, 4), ignored=0.0)
    target[0, :9] = IGNORE
    value, grad = tiled(build(name), pred, target)
    unread = grad.eq(0).all(1)
    assert unread.any()
    for odd in (float("nan"), float("inf")):
        other = torch.where(unread.unsqueeze(1), odd, pred.detach()).requires_grad_()
        torch.testing.assert_close(tiled(build(name), other, target), (value, grad))
    read = pred.detach().clone()
    read[1, 0, 2, 2] = float("nan")
    assert build(name).forward_upsampled(read, target).isnan()


@pytest.mark.parametrize(
    "name",
    [
        *("ce", "weighted_focal", "vs", "elm", "seesaw", "equalization", "lade", "ghmc", "focal_sigmoid"),
        *("dice", "lovasz_softmax", "lovasz_hinge"),
    ],
)
def test_label_size(name):
    pred, target = batch((2, 9, 16), K, ignored=0.3)
    with tiles_of(10**6):
        expected = build(name)(pred, target)
        expected_grad = torch.autograd.grad(expected, pred)[0]
    for odd in (0.0, float("nan"), float("inf")):
        other = torch.where(target.unsqueeze(1) == IGNORE, odd, pred.detach()).requires_grad_()
        given = other.detach().clone()
        value = build(name)(other, target)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, other)[0], expected_grad)
        torch.testing.assert_close(other, given, rtol=0, atol=0, equal_nan=True)  # not overwritten
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(build(name)(other, target), other, create_graph=True)
        other.data[1, :, 0, 0], labels = odd, target.clone()
        labels[1, 0, 0] = 1
        assert not odd or not build(name)(other, labels).isfinite()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("name", ["ce", "elm", "focal", "focal_sigmoid", "ldam", "vs", "weighted_focal"])
def test_losses_of_pixels(name, align_corners):
    pred, target = batch((2, 13, 16), K, outputs=(3, 4), ignored=0.3)
    large = F.interpolate(pred, target.shape[1:], mode="bilinear", align_corners=align_corners)
    loss = build(name, loss_weight=0.3)
    expected = loss(large, target, reduction_override="none")
    got = element_losses(loss, pred, target, IGNORE, align_corners)
    torch.testing.assert_close(got, expected.detach())
    assert not got.requires_grad
    if not align_corners:
        torch.testing.assert_close(element_losses(loss, pred, target, IGNORE), got)


def test_seesaw_counts_once():
    pred, target = batch((2, 9, 16), K, outputs=(3, 4))
    loss = SeesawLoss(ignore_index=IGNORE).train()
    loss.forward_upsampled(pred, target)
    assert loss.seen_counts.tolist() == [int((target == k).sum()) for k in range(K)]
    loss(pred.detach()[..., :1, :1].expand(-1, -1, 9, 16), target)
    assert loss.seen_counts.tolist() == [2 * int((target == k).sum()) for k in range(K)]


class Moments(ClassLoss):
    """A loss with a sum over the batch, which says so."""

    per_element = False

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return (pred - pred.mean()).square().sum(1)


class Smoothed(CrossEntropyLoss):
    """A loss of one's own below one with a closed form."""

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return F.cross_entropy(pred, target, reduction="none", label_smoothing=0.5)


class Halved(CrossEntropyLoss):
    """A loss that changes how a batch is evaluated."""

    def evaluate(self, *args, **kwargs) -> Tensor:
        return 0.5 * super().evaluate(*args, **kwargs)


@pytest.mark.parametrize(("cls", "fits"), [(Moments, False), (Smoothed, True), (Halved, False)])
def test_losses_of_ones_own(cls, fits):
    pred, target = batch((2, 9, 16), K, outputs=(3, 4))
    loss = cls(ignore_index=IGNORE)
    assert fits_tiles(loss, target, 4, None, "mean") == fits
    torch.testing.assert_close(tiled(loss, pred, target), materialised(loss, pred, target))


def test_a_loss_normalised_over_its_batch_never_sees_the_callers_divisor():
    class Own(ClassLoss):
        takes_avg_factor = False

        def position_loss(self, pred, target, valid):
            return pred.sum(1)

        def evaluate_grid(self, grid, reduction, avg_factor):
            assert avg_factor is None
            return torch.ones(()), None

    pred, target = batch((2, 9, 16), K, outputs=(3, 4))
    assert Own(ignore_index=IGNORE).forward_upsampled(pred, target, avg_factor=3) == 1


def test_a_divisor_of_ones_own():
    class Constant(CrossEntropyLoss):
        def divisor(self, target, valid):
            assert int(target.max()) < K
            return torch.tensor(3.0)

    pred, target = batch((2, 9, 16), K, outputs=(3, 4))
    loss = Constant(ignore_index=IGNORE, class_weight=[1, 2, 3, 4, 5])
    torch.testing.assert_close(tiled(loss, pred, target), materialised(loss, pred, target))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("above", [10.0, 60.0, 400.0, 1000.0])
def test_lade_beside_an_ignored_output_far_above_all_others(above: float, dtype: torch.dtype) -> None:
    pred, target = batch((2, 24, 24), K, outputs=(6, 6), dtype=dtype)
    target[0, :8, :8] = IGNORE
    for classes in (slice(None), slice(1)):
        far = pred.detach().clone()
        far[0, classes, 0, 0] += above
        check("lade", far.requires_grad_(), target)
        with tiles_of(10**6):
            check("lade", far, target)


def test_elm_takes_the_first_of_equally_strong_classes() -> None:
    counts, target = [100, 10, 1], torch.tensor([[0, 0, 0], [2, 2, 1]])
    pred = torch.tensor([[[1.0, 2.0, 0.0], [2.0, 0.5, 1.0], [2.0, 0.5, 0.0]]]).repeat(2, 1, 1).double()
    pred.requires_grad_()
    loss = EnlargedMarginLoss(class_counts=counts, scale=3.0)
    rows = pred.transpose(1, 2).reshape(-1, 3)
    expected = loss(rows, target.flatten())
    value = loss(pred, target)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(one, pred)[0] for one in (value, expected)]
    torch.testing.assert_close(*gradients)
    margins = 0.5 * (1 / torch.tensor(counts).double()) ** 0.25
    strongest = torch.tensor([1, 1, 1, 1, 0, 0])  # of element 1 and 2, classes 1 and 2 tie
    own = rows.gather(1, target.view(-1, 1))[:, 0] - margins[target.flatten()] + margins[strongest]
    changed = rows.scatter(1, target.view(-1, 1), own.unsqueeze(1))
    torch.testing.assert_close(value, F.cross_entropy(3 * changed, target.flatten()))


class Noisy(ClassLoss):
    """A loss with random numbers."""

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return (pred * torch.rand_like(pred)).square().sum(1)


@pytest.mark.parametrize(
    "loss",
    [Noisy(ignore_index=IGNORE), build("ce"), build("focal_sigmoid"), build("equalization", gamma=0.9)],
)
def test_threads_change_nothing(loss):
    pred, target = batch((5, 9, 16), K, outputs=(3, 4))
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 3, 3):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            results.append(tiled(loss, pred, target))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)
    torch.testing.assert_close(results[2], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype):
    pred, target = batch((2, 16, 20), K, outputs=(4, 5), dtype=torch.float32)
    half = pred.detach().to(dtype).requires_grad_()
    for name in ("ce", "seesaw"):
        expected, expected_grad = tiled(build(name), half.detach().float().requires_grad_(), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value, grad = tiled(build(name), half, target)
        assert (value.dtype, grad.dtype) == (torch.float32, dtype)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(grad, expected_grad.to(dtype))


def test_compiles_within_a_model():
    torch._dynamo.reset()
    loss, layer = build("focal"), torch.nn.Conv2d(2, K, 1)
    image = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    _, target = batch((2, 16, 20), K, outputs=(4, 5))

    def step(image):
        return 2 * loss.forward_upsampled(layer(image).relu(), target)

    expected = torch.autograd.grad(step(image), layer.weight)[0]
    compiled = torch.compile(step, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(image), layer.weight)[0], expected)


def test_wrong_arguments_are_named():
    pred, target = batch((2, 9, 8), K, outputs=(3, 4))
    loss = build("ce")
    for kwargs, message in (
        (dict(pred=pred[0], target=target), r"`pred` must be \(N, K, h, w\)"),
        (dict(pred=pred, target=target[:1]), r"`target` must be of shape \(2, 9, 8\)"),
        (dict(pred=pred, target=target, ignore_index=-100), r"`target` must lie in \[0, 5\).*-100.*got 255"),
        (
            dict(pred=pred, target=target, avg_factor=3, reduction_override="sum"),
            "goes with reduction='mean'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            loss.forward_upsampled(**kwargs)
    with pytest.raises(ValueError, match="`class_weight` must have one entry per class, got 2"):
        CrossEntropyLoss(class_weight=[1, 2], ignore_index=IGNORE).forward_upsampled(pred, target)


@pytest.mark.parametrize("name", [*TILED, "influence_balanced"])
def test_nothing_of_the_labels_size_times_classes_is_allocated(name):
    """Memory by the profiler: the upsampled outputs alone would be 8 times the largest allocation."""
    pred, target = batch((2, 48, 48), 64, outputs=(6, 6), dtype=torch.float32)
    loss = build(name, class_counts=list(range(64, 0, -1)))
    if name == "influence_balanced":
        loss.set_features(torch.rand(2, 8, 6, 6))
    with tiles_of(2**14), torch.profiler.profile(profile_memory=True) as profile:
        loss.forward_upsampled(pred, target).backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < 4 * pred.shape[0] * 48 * 48 * 64 / 8


def test_no_image():
    pred, target = batch((2, 9, 8), K, outputs=(3, 4))
    for name in ("ce", "influence_balanced"):
        loss = build(name)
        if name == "influence_balanced":
            loss.set_features(torch.zeros(0, 2, 3, 4))
        value, grad = tiled(loss, pred[:0].detach().requires_grad_(), target[:0])
        assert value == 0
        assert grad.shape == (0, K, 3, 4)


@pytest.mark.parametrize("name", ["ce", "dice", "lovasz_softmax", "seesaw"])
@pytest.mark.parametrize("outputs", [(1, 1), (1, 5), (5, 1)])
def test_outputs_are_not_overwritten(name, outputs):
    pred, target = batch((2, 9, 8), K, outputs=outputs)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = pred.detach().clone(memory_format=layout).requires_grad_()
        tiled(build(name), given, target)
        torch.testing.assert_close(given, pred, rtol=0, atol=0)


def test_tile_sizes_are_restored():
    before = dict(tiles.TILE), dict(tiles.COLUMNS)
    with tiles_of(100):
        assert tiles.COLUMNS == {"cpu": 5, "cuda": 5}
    with tiles_of(7):
        assert tiles.COLUMNS["cpu"] == 1
    with pytest.raises(KeyError), tiles_of(7):
        raise KeyError
    assert before == (tiles.TILE, tiles.COLUMNS)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", ["present", "all", [0, 3]])
@pytest.mark.parametrize("name", ["dice", "lovasz_hinge", "lovasz_softmax"])
def test_regions(name, classes, per_image, align_corners):
    pred, target = batch((3, 9, 14), K, outputs=(4, 5), ignored=0.3)
    target[target == 3] = 1  # an absent class
    target[1] = IGNORE
    weight = torch.rand(target.shape, dtype=torch.float64)
    for call in (dict(), dict(weight=weight, reduction_override="sum")):
        options = dict(classes=classes, per_image=per_image, class_weight=[1, 2, 3, 4, 5])
        assert fits_tiles(build(name), target, 4, None, "mean")
        expected = materialised(build(name, **options), pred, target, align_corners, **call)
        value, grad = tiled(build(name, **options), pred, target, align_corners=align_corners, **call)
        torch.testing.assert_close((value, grad), expected)
        half = pred.detach().float().requires_grad_()
        expected = materialised(build(name, **options), half, target, align_corners, **call)
        value, grad = tiled(build(name, **options), half, target, align_corners=align_corners, **call)
        torch.testing.assert_close((value.double(), grad.double()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", ["features", "half", "none", "before the start", "other size"])
def test_influence(case):
    pred, target = batch((2, 9, 14), K, outputs=(4, 5))
    dtype = torch.float16 if case == "half" else torch.float64
    features = torch.rand(2, 8, *((3, 3) if case == "other size" else (4, 5))).to(dtype) * 100
    pred = pred.detach().to(dtype).requires_grad_()
    call = dict(reduction_override="none") if case == "none" else dict(weight=torch.rand(target.shape))
    results = []
    for way in ("tiles", "whole"):
        loss = build("influence_balanced", gamma=0.5)
        loss.set_epoch(0 if case == "before the start" else 100)
        inputs = [pred.detach().requires_grad_(), features.detach().clone().requires_grad_()]
        if loss.wants_features:
            loss.set_features(inputs[1])
        if way == "tiles":
            value = loss.forward_upsampled(inputs[0], target, **call)
        else:
            value = loss(F.interpolate(inputs[0].to(value.dtype), (9, 14), mode="bilinear"), target, **call)
        assert loss._norm is None
        gradients = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
        assert (gradients[1] is None) == (case == "before the start")
        results.append([value.detach(), *[one for one in gradients if one is not None]])
    torch.testing.assert_close(results[0], results[1])


def test_influence_without_features():
    pred, target = batch((2, 9, 14), K, outputs=(4, 5))
    with pytest.raises(RuntimeError, match="needs the features"):
        build("influence_balanced").forward_upsampled(pred, target)


class Squared(CrossEntropyLoss):
    """A loss of one's own: the softmax form of its base is not its equation any more."""

    def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        return super().position_loss(pred, target, valid).square()


def test_an_equation_of_ones_own_goes_before_the_softmax_form_of_its_base() -> None:
    generator = torch.Generator().manual_seed(1)
    pred = torch.randn(2, K, 5, 7, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(K, (2, 20, 28), generator=generator)
    loss = Squared()
    up = F.interpolate(pred, target.shape[1:], mode="bilinear")
    expected, found = loss(up, target), loss.forward_upsampled(pred, target)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, pred)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["lovasz_softmax", "lovasz_hinge"])
def test_images_are_averaged_where_each_has_a_loss_of_its_own(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    pred = torch.randn(2, K, 4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(K, (2, 16, 20), generator=generator)
    target[1] = target[1].clamp(max=1)  # other classes than in the first
    up = F.interpolate(pred, target.shape[1:], mode="bilinear")
    values = []
    for per_image in (True, False):
        loss = build(name, per_image=per_image)
        expected, found = loss(up, target), loss.forward_upsampled(pred, target)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(value, pred, retain_graph=True)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients)
        values.append(found.item())
    assert values[0] != pytest.approx(values[1])


def test_a_loss_with_a_state_of_the_batch_is_not_cut_into_tiles() -> None:
    class Running(StatefulLoss):
        state_name = "mean"

        def initial_state(self, num_classes: int) -> Tensor:
            return torch.zeros(num_classes)

        def position_loss(self, pred: Tensor, target: Tensor, valid: Tensor) -> Tensor:
            return pred.gather(1, target.unsqueeze(1)).squeeze(1) * valid.sum()

    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    assert not fits_tiles(Running(class_counts=COUNTS), target, 4, None, "mean")
    pred = torch.randn(1, K, 2, 2, generator=torch.Generator().manual_seed(0))
    loss = Running(class_counts=COUNTS)
    expected = loss(F.interpolate(pred, (8, 8), mode="bilinear"), target)
    torch.testing.assert_close(loss.forward_upsampled(pred, target), expected)


@pytest.mark.parametrize("name", sorted(set(TILED) - {"cdb_ce"}))
def test_class_weights_of_a_schedule_and_divisors_of_a_caller(name: str) -> None:
    pred, target = batch((2, 9, 14), K, outputs=(4, 5))
    for call in ({}, {"avg_factor": 7.0}):
        results = []
        for evaluate in (tiled, materialised):
            loss = build(name)
            loss.set_class_weight([1.0, 2.0, 3.0, 4.0, 5.0])
            results.append(evaluate(loss, pred, target, **call))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    "name",
    ["balanced_softmax", "ce", "elm", "equalization", "focal", "ldam", "seesaw", "vs", "weighted_focal"],
)
def test_a_function_of_the_softmax_needs_no_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pred, target = batch((2, 9, 14), K, outputs=(4, 5))
    expected, loss = materialised(build(name), pred, target), build(name)
    monkeypatch.setattr(loss, "position_loss", None)
    torch.testing.assert_close(tiled(loss, pred, target), expected)


@pytest.mark.parametrize(
    ("name", "passes"),
    [("ce", 1), ("smoothed", 1), ("ghmc", 2), ("lade", 2), ("dice", 2), ("lovasz_softmax", 2)],
)
@pytest.mark.parametrize("outputs", [(4, 5), None])
def test_gradients_are_written_in_the_last_pass_and_where_one_is_needed(
    name: str, passes: int, outputs: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take as much memory as the outputs."""
    written: list[bool] = []
    visit = tiles.LabelGrid.visit

    def noted(*args, **kwargs):
        result = visit(*args, **kwargs)
        written.append(result[1] is not None)
        return result

    monkeypatch.setattr(tiles.LabelGrid, "visit", noted)
    pred, target = batch((2, 9, 14), K, outputs=outputs)
    loss = build(name) if name != "smoothed" else Smoothed(ignore_index=IGNORE)
    value = loss.forward_upsampled(pred, target) if outputs else loss(pred, target)
    assert written == [False] * (passes - 1) + [True]
    written.clear()
    with torch.no_grad():
        same = loss.forward_upsampled(pred, target) if outputs else loss(pred, target)
    assert not any(written)
    torch.testing.assert_close(same, value.detach())


def test_binary_cross_entropy_computes_no_gradient_that_is_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pred, target = batch((6,), K, ignored=0)
    monkeypatch.setattr(binary_cross_entropy, "sigmoid_residual", None)
    one_hot = F.one_hot(target, K).double()
    expected = F.binary_cross_entropy_with_logits(pred.detach(), one_hot, reduction="none").sum(1)
    ones = torch.ones_like(pred)
    with torch.no_grad():
        torch.testing.assert_close(binary_cross_entropy.binary_cross_entropy(pred, target, ones), expected)
    value = binary_cross_entropy.binary_cross_entropy(pred.detach(), one_hot, ones)
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize(
    ("name", "base"), [("ce", "class_loss"), ("dice", "region"), ("outlying_mse", "quadratic")]
)
def test_compiled_code_computes_large_outputs_in_one_piece(
    name: str, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pred, target = batch((2, 9, 14), K)
    expected = build(name)(pred, target)
    monkeypatch.setattr(f"mmseol.losses.base.{base}.evaluate_tiles", None)
    with pytest.raises(TypeError, match="not callable"):
        build(name)(pred, target)
    monkeypatch.setattr(f"mmseol.losses.base.{base}.is_compiling", lambda: True)
    torch.testing.assert_close(build(name)(pred, target), expected)


def test_which_outputs_are_large() -> None:
    """Where one sample fills a tile, of 60 here, and has pixels."""
    shapes = [(3, 5, 12), (1, 5, 3, 4), (9, 5, 11), (2, 5, 1, 11), (100, 60)]
    assert [is_large(torch.empty(shape)) for shape in shapes] == [True, True, False, False, False]


def test_outputs_of_the_labels_size_keep_their_second_derivative() -> None:
    pred, target = batch((2, 2, 5), K)
    (grad,) = torch.autograd.grad(build("ce").forward_upsampled(pred, target), pred, create_graph=True)
    assert torch.autograd.grad(grad.square().sum(), pred)[0].any()


@pytest.mark.parametrize("name", ["lovasz_hinge", "lovasz_softmax"])
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_regions_of_large_outputs_keep_their_digits(name: str, scale: float) -> None:
    pred, target = batch((2, 9, 14), K, outputs=(4, 5), scale=scale, dtype=torch.float32)
    value, grad = tiled(build(name), pred, target)
    expected = materialised(build(name), pred, target)
    torch.testing.assert_close((value.double(), grad.double()), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("modulate", [None, derived(lambda entropy, weight: weight * entropy.square())])
def test_elements_of_a_form(modulate) -> None:
    weight = torch.tensor([0.5, 3.0])
    entropy, label, factor = (
        torch.tensor([1.5, 0.25, 2.0]),
        torch.tensor([0, 1, 1]),
        torch.tensor([1.0, 2, 0]),
    )
    value, derivative = SoftmaxForm(weight=weight, modulate=modulate).elements(entropy, label, factor)
    if modulate is None:
        expected, slope = 0.5 * 1.5 + 2 * 3 * 0.25, [0.5, 6.0, 0.0]
    else:
        expected, slope = 0.5 * 1.5**2 + 2 * 3 * 0.25**2, [2 * 0.5 * 1.5, 2 * 2 * 3 * 0.25, 0.0]
    assert (value.dtype, value.item(), derivative.tolist()) == (torch.float64, expected, slope)


def test_sums_of_exponentials_that_have_lost_digits() -> None:
    assert sums_are_exact(torch.tensor([1.0, 1e-30]))
    assert not sums_are_exact(torch.tensor([1.0, 1e-31]))
    assert sums_are_exact(torch.tensor([1e-240], dtype=torch.float64))


def test_matrices_of_an_axis_are_kept() -> None:
    given = 3, 7, 2, False, torch.float32, torch.device("cpu")
    assert tiles.axis_blocks(*given) is tiles.axis_blocks(*given)


def test_features_of_other_corners_and_kept_features() -> None:
    """Features that were sampled another way are interpolated their own way."""
    pred, target = batch((2, 9, 14), K, outputs=(4, 5))
    features = torch.rand(2, 8, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for align_corners in (False, True):
        whole, tiles_of_it = build("influence_balanced"), build("influence_balanced")
        large = F.interpolate(pred, (9, 14), mode="bilinear", align_corners=not align_corners)
        for loss in (whole, tiles_of_it):
            loss.set_features(features, align_corners)
        expected = whole(large, target)
        found = tiles_of_it.forward_upsampled(pred, target, not align_corners)
        torch.testing.assert_close(found, expected)
    loss = build("influence_balanced")
    loss.set_features(features)
    with torch.no_grad():
        first = loss.forward_upsampled(pred, target)
    torch.testing.assert_close(loss.forward_upsampled(pred, target), first)


def test_outputs_beyond_the_range_of_float32_are_prepared_in_float64() -> None:
    for dtype, values, expected in (
        (torch.float32, [39.0, -39.0], torch.float32),
        (torch.float32, [1.0, -41.0], torch.float64),
        (torch.float32, [], torch.float32),
        (torch.float64, [1e4], torch.float64),
    ):
        given = torch.tensor(values, dtype=dtype)
        prepared = tiles.Visitor().prepare(given)
        assert prepared.dtype == expected
        assert prepared.equal(given.to(expected))
