"""The losses against torch, against slow loops from the formula, and their identities."""

import inspect
import math
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from helpers.distributed import run_ranks
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from mmseol import losses
from mmseol.camvid.layout import CAMVID_PIXELS
from mmseol.losses import ClassLoss, CrossEntropyLoss, OneHotMSELoss, OutlyingMSELoss
from mmseol.losses.base import tiled
from mmseol.losses.base.class_loss import evaluate_once
from mmseol.losses.ops.autograd import limit_half_gradients, outside_graphs
from mmseol.registry import MODELS


def slow_outlying(pred, target, counts, alpha, ignored=IGNORE):
    """Algorithm 1, Eq. (4) and Eq. (5), position by position."""
    values, order = {}, sorted(range(len(counts)), key=lambda c: -counts[c])
    for position, c in enumerate(order):
        values[c] = alpha * (position + 1)
    total, grad, valid = 0.0, np.zeros(pred.shape), 0
    for n, *where in np.ndindex(*target.shape):
        label = target[(n, *where)]
        if label == ignored:
            continue
        valid += 1
        for k in range(len(counts)):
            residual = pred[(n, k, *where)] - (values[k] if k == label else 0.0)
            total += 0.5 * residual**2
            grad[(n, k, *where)] = residual
    return total / valid, grad / valid


@pytest.mark.parametrize("alpha", [1.0, 6.0, 0.1])
@pytest.mark.parametrize("counts", [list(CAMVID_PIXELS), [5] * 11, [7, 0, 3, 3, 9, 0, 1, 1, 1, 20, 20]])
@pytest.mark.filterwarnings("ignore:Classes")
def test_outlying_equals_slow_loop(alpha, counts):
    pred, target = batch((2, 6, 7), 11)
    value = OutlyingMSELoss(alpha=alpha, class_counts=counts)(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)
    expected, expected_grad = slow_outlying(pred.detach().numpy(), target.numpy(), counts, alpha)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(grad.numpy(), expected_grad, rtol=1e-12, atol=1e-15)


def test_camvid_ranks_descend():
    loss = OutlyingMSELoss(alpha=6, class_counts=list(CAMVID_PIXELS))
    # road, building, sky, tree, car, sidewalk, sign, fence, pole, pedestrian, bicyclist
    assert (loss.target_values / 6).tolist() == [3, 2, 9, 1, 6, 4, 7, 8, 5, 10, 11]


def test_float32_keeps_small_residuals_of_far_targets():
    """At targets of 66 and residuals of 1e-2 the loss keeps its digits although 66 squared loses them."""
    loss = OutlyingMSELoss(alpha=6, class_counts=list(CAMVID_PIXELS))
    target = torch.arange(11).repeat(50)
    residual = torch.full((550, 11), 1e-2)
    pred = (F.one_hot(target, 11) * loss.target_values).float() + residual
    exact = 0.5 * (pred.double() - F.one_hot(target, 11) * loss.target_values).square().sum(1).mean()
    torch.testing.assert_close(loss(pred, target).double(), exact, rtol=1e-5, atol=0)


def test_reciprocal_scheme():
    loss = OutlyingMSELoss(alpha=2, scheme="reciprocal", class_counts=[100, 25, 10])
    assert loss.target_values.tolist() == [2, 8, 20]


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), "6", True, None])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(
        ValueError,
        match=r"`alpha` must be a finite number above 0( or 'auto')?, got",
    ):
        OutlyingMSELoss(alpha=alpha)


def test_soft_labels_scale_the_target_values():
    loss = OutlyingMSELoss(alpha=3, class_counts=[9, 5, 2])
    pred = torch.tensor([[1.0, -2.0, 0.5]])
    soft = torch.tensor([[0.7, 0.0, 0.3]])
    expected = 0.5 * ((1 - 0.7 * 3) ** 2 + 2.0**2 + (0.5 - 0.3 * 9) ** 2)
    torch.testing.assert_close(loss(pred, soft), torch.tensor(expected))


def test_one_hot_mse_is_half_k_times_torchs_mse():
    pred, target = batch((2, 6, 7), 11, ignored=0)
    expected = F.mse_loss(pred, F.one_hot(target, 11).movedim(-1, 1).double()) * 11 / 2
    torch.testing.assert_close(OneHotMSELoss()(pred, target), expected)


def test_outlying_with_equal_dense_ranks_is_one_hot():
    pred, target = batch((2, 6, 7), 11)
    outlying = OutlyingMSELoss(ties="dense", class_counts=[4] * 11, ignore_index=IGNORE)
    torch.testing.assert_close(outlying(pred, target), OneHotMSELoss(ignore_index=IGNORE)(pred, target))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_equals_torch(weighted, reduction):
    pred, target = batch((2, 6, 7), 11)
    weight = torch.linspace(0.1, 3, 11, dtype=torch.float64) if weighted else None
    ours = CrossEntropyLoss(class_weight=None if weight is None else weight.tolist(), reduction=reduction)
    value = ours(pred, target, ignore_index=IGNORE)
    expected = F.cross_entropy(pred, target, weight=weight, ignore_index=IGNORE, reduction=reduction)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    (expected_grad,) = torch.autograd.grad(expected.sum(), pred)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-12)
    soft = soft_labels(pred)
    expected = F.cross_entropy(pred, soft, weight=weight, reduction=reduction)
    torch.testing.assert_close(ours(pred, soft), expected, rtol=1e-12, atol=1e-12)


def test_cross_entropy_normalized_by_count():
    pred, target = batch((2, 6, 7), 11)
    weight = torch.linspace(0.1, 3, 11, dtype=torch.float64)
    loss = CrossEntropyLoss(class_weight=weight.tolist(), normalize="count", ignore_index=IGNORE)
    total = F.cross_entropy(pred, target, weight=weight, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(loss(pred, target), total / (target != IGNORE).sum())


def test_class_weights_by_name_follow_the_counts_and_a_schedule_replaces_them():
    loss = CrossEntropyLoss(class_weight="inverse_frequency")
    assert loss.needs_counts
    loss.set_class_counts([10, 5, 1])
    np.testing.assert_allclose(loss.class_weight.numpy(), np.array([1, 2, 10]) * 3 / 13)
    loss.set_class_weight([1, 1, 4])
    loss.set_class_counts([10, 5, 2])
    assert loss.class_weight.tolist() == [1, 1, 4]
    assert loss.half().class_weight.dtype == torch.float64


def test_median_frequency_uses_the_totals():
    loss = CrossEntropyLoss(class_weight="median_frequency", class_counts=[60, 30, 10])
    np.testing.assert_allclose(loss.class_weight.numpy(), [0.5, 1, 3])
    loss.set_class_counts([60, 30, 10], totals=[100, 100, 20])
    np.testing.assert_allclose(loss.class_weight.numpy(), [0.5 / 0.6, 0.5 / 0.3, 1])


def test_class_weights_by_a_power_follow_the_counts():
    loss = CrossEntropyLoss(class_weight=0.5)
    assert loss.needs_counts
    loss.set_class_counts([90, 10])
    np.testing.assert_allclose(loss.class_weight, [0.5, 1.5])
    assert torch.equal(CrossEntropyLoss(class_weight=0, class_counts=[9, 1]).class_weight, torch.ones(2))


def regression(alpha):
    """Return features, their layer, a classifier for targets of this alpha, and labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (40,), generator=generator)
    below = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    last = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return x, below, (alpha * last).requires_grad_(), y


@pytest.mark.parametrize(
    ("optimizer", "wd", "factors", "decay"),
    [
        # learning rate of the layers below, of the classifier; weight decay of the layers below: for alpha 1
        (lambda groups: torch.optim.SGD(groups, momentum=0.9), 0.1, (4.0, 1.0), 0.25),
        (lambda groups: torch.optim.Adam(groups, eps=1e-300), 0.0, (1.0, 0.5), 1.0),
    ],
)
def test_alpha_is_a_ratio_of_learning_rates(optimizer, wd, factors, decay):
    def train(alpha, factors, decay):
        x, below, last, y = regression(alpha)
        loss = OutlyingMSELoss(alpha=alpha, class_counts=[50, 20, 5])
        groups = [
            dict(params=[below], lr=0.002 * factors[0], weight_decay=wd * decay),
            dict(params=[last], lr=0.002 * factors[1], weight_decay=wd),
        ]
        steps = optimizer(groups)
        for _ in range(30):
            steps.zero_grad()
            loss((x @ below.T).tanh() @ last.T, y).backward()
            steps.step()
        return below.detach(), last.detach() / alpha

    start = regression(1.0)
    got, expected = train(2.0, (1.0, 1.0), 1.0), train(1.0, factors, decay)
    for one, two, begin in zip(got, expected, start[1:3], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
        assert (one - begin).abs().max() > 0.01
    same_rates = train(1.0, (1.0, 1.0), 1.0)
    assert (got[0] - same_rates[0]).abs().max() > 0.001


def test_auto_alpha_gives_first_gradients_of_unit_root_mean_square():
    counts = [600, 300, 80, 20]
    loss = OutlyingMSELoss(alpha="auto", class_counts=counts, reduction="sum")
    pred = torch.zeros(1000, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        loss(pred, torch.arange(4).repeat_interleave(torch.tensor(counts))), pred
    )
    assert gradient.square().sum(1).mean() == pytest.approx(1)
    assert loss.target_values.tolist() == pytest.approx([loss.alpha_value * k for k in (1, 2, 3, 4)])
    loss.set_class_counts([1, 1, 1, 997])
    assert loss.alpha_value == pytest.approx(1, abs=0.02)
    with pytest.raises(RuntimeError, match="`alpha` is 'auto', which follows from the class counts"):
        _ = OutlyingMSELoss(alpha="auto").alpha_value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(class_weight=-0.5), "`class_weight` must be a finite number of at least 0, got -0.5"),
        (dict(class_weight=True), "`class_weight` must be at least two finite numbers, .* got True"),
        (dict(class_weight="median"), "`class_weight` must be one of 'median_frequency'"),
        (dict(class_weight=[1, -1]), "`class_weight` must be at least two finite numbers, none negative"),
        (dict(class_weight=[0, 0]), "`class_weight` must not be all zero"),
        (
            dict(class_weight="weights.json"),
            "`class_weight` names the file 'weights.json', which does not exist",
        ),
        (dict(beta=1.0), r"`beta` must be a finite number of at least 0 and below 1, got 1.0"),
        (dict(normalize="sum"), "`normalize` must be one of 'weight', 'count', got 'sum'"),
    ],
)
def test_wrong_cross_entropy_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropyLoss(**arguments)


def test_wrong_number_of_class_weights_is_named():
    with pytest.raises(ValueError, match="`class_weight` must have one entry per class, got 2 entries"):
        CrossEntropyLoss(class_weight=[1, 2])(torch.zeros(1, 3), torch.tensor([0]))


# What a config without arguments trains with, each value with its source.
DEFAULTS = [
    (OutlyingMSELoss, dict(alpha=1.0, scheme="rank", ties="ordinal")),  # Kato & Hotta, Algorithm 1
    (losses.FocalLoss, dict(gamma=2.0)),  # Lin et al. 2017, sec. 5.1
    (losses.SigmoidFocalLoss, dict(gamma=2.0, alpha=0.25)),  # Lin et al. 2017, sec. 5.1
    (
        CrossEntropyLoss,
        dict(class_weight=None, beta=0.9999, normalize="weight"),
    ),  # torch; Cui et al. 2019
    (losses.LDAMLoss, dict(max_margin=0.5, scale=30.0)),  # Cao et al. 2019, their code
    (losses.EnlargedMarginLoss, dict(enlargement=1.0, max_margin=0.5, scale=30.0)),  # Kato & Hotta 2023
    (losses.CDBLoss, dict(tau=1.5, normalize="count")),  # Sinha et al. 2020, the README of their code
    (
        losses.EqualizationLoss,
        dict(gamma=0.9, threshold=0.05),
    ),  # Tan et al. 2020; BagofTricks-LT
    (losses.SigmoidEqualizationLoss, dict(threshold=0.00177)),  # Tan et al. 2020, LVIS v0.5
    (losses.LogitAdjustedLoss, dict(tau=1.0)),  # Menon et al. 2021, sec. 4
    (losses.VSLoss, dict(gamma=0.3, tau=1.0)),  # Kini et al. 2021, their code
    (losses.LADELoss, dict(remine_weight=0.1, remine_lambda=0.1)),  # Hong et al. 2021, their code
    (losses.SeesawLoss, dict(p=0.8, q=2.0)),  # Wang et al. 2021, sec. 4.2
    (losses.GHMCLoss, dict(bins=10, momentum=0.0, divide_by="bins")),  # Li et al. 2019, their code; eq. (8)
    (
        losses.InfluenceBalancedLoss,  # Park et al. 2021, their training script
        dict(scale=1000.0, gamma=0.0, start_epoch=100, class_weight="inverse_frequency", normalize="count"),
    ),
    (losses.TverskyLoss, dict(alpha=0.3, beta=0.7, smooth=0.0)),  # Salehi et al. 2017, best row
    (losses.DiceLoss, dict(power=2, smooth=0.0)),  # Milletari et al. 2016, sec. 3
    (losses.IoULoss, dict(power=1, smooth=0.0)),  # Rahman & Wang 2016, eq. (3) to (5)
    (losses.LovaszSoftmaxLoss, dict(classes="present", per_image=False)),  # Berman et al. 2018, their code
    (losses.LovaszHingeLoss, dict(classes="present", per_image=False)),  # as the softmax version
]


@pytest.mark.parametrize(("loss", "defaults"), DEFAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_defaults_are_those_of_the_papers(loss, defaults):
    parameters = inspect.signature(loss).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_the_table_of_defaults_is_complete():
    every = {getattr(losses, name) for name in losses.__all__}
    concrete = {one for one in every if inspect.isclass(one) and one.__name__ in MODELS.module_dict}
    without_settings = {OneHotMSELoss, losses.BalancedSoftmaxLoss}
    assert concrete - {one for one, _ in DEFAULTS} == without_settings


@pytest.mark.parametrize(("name", "wrong"), [("class_counts", [1, 2, 3, 4]), ("class_totals", [5, 6, 7, 8])])
def test_a_checkpoint_of_another_number_of_classes_is_refused(name, wrong):
    loss = CrossEntropyLoss(class_counts=[3, 2, 1])
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        loss.load_state_dict({**loss.state_dict(), name: torch.tensor(wrong)})


@pytest.mark.skipif(torch.__version__ < "2.4", reason="its fake tensors need a GPU's driver")
@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (OutlyingMSELoss(class_counts=[3, 2, 1]), "target_values"),
        (CrossEntropyLoss(class_weight="inverse_frequency", class_counts=[3, 2, 1]), "class_weight"),
        (CrossEntropyLoss(class_weight=[3, 2, 1]), "class_weight"),
        (losses.LDAMLoss(class_counts=[3, 2, 1]), "margins"),
        (losses.LogitAdjustedLoss(class_counts=[3, 2, 1]), "offset"),
        (losses.LADELoss(class_counts=[3, 2, 1]), "prior"),
        (losses.EqualizationLoss(class_counts=[3, 2, 1]), "tail"),
    ],
)
def test_what_follows_from_the_counts_moves_with_the_module(loss, name):
    before = getattr(loss, name)
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors of a device that need not be there
        loss.half().to("cuda:0")
    after = getattr(loss, name)
    assert (after.device.type, after.dtype, after.shape) == ("cuda", torch.float64, before.shape)
    assert loss.class_counts is None or loss.class_counts.device.type == "cuda"


def test_a_checkpoint_holds_the_counts_alone():
    loss = CrossEntropyLoss(class_weight="inverse_frequency", class_counts=[3, 2, 1])
    assert set(loss.state_dict()) == {"class_counts", "class_totals"}


class PlainLoss(ClassLoss):
    """Loss of a user, with the settings of the base."""

    def position_loss(self, pred, target, valid):
        return pred.sum(1) * 0 + (target.sum(1) if target.dim() == pred.dim() else 0)


def test_a_users_loss_takes_multi_hot_labels_unless_it_says_otherwise():
    loss = PlainLoss(reduction="none")
    assert loss(torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]])).tolist() == [2]
    with pytest.raises(ValueError, match="sum"):
        type("Exclusive", (PlainLoss,), {"exclusive_classes": True})()(
            torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]])
        )


def divide_on_a_rank(rank):
    factor = torch.tensor(2.0 + 2 * rank)
    loss = CrossEntropyLoss(sync_avg_factor=True)(torch.zeros(1, 2), torch.tensor([0]), avg_factor=factor)
    return loss.item(), factor.item()


def test_the_callers_avg_factor_stays_as_it_is():
    """Ranks average a copy: the caller may divide further losses by its own tensor."""
    (first, kept), (second, other) = run_ranks(divide_on_a_rank)
    assert first == second == pytest.approx(math.log(2) / 3)
    assert (kept, other) == (2, 4)


def test_defaults_of_arguments_that_losses_share():
    """Those of abstract bases too, which the losses of this package never use."""
    defaults = dict(class_counts=None, ignore_index=-100, loss_weight=1.0, reduction="mean", loss_name=None)
    defaults |= dict(sync_avg_factor=False, beta=0.9999, smooth=0.0, classes="present", per_image=False)
    every = {base for cls, _ in DEFAULTS for base in cls.__mro__ if issubclass(base, ClassLoss)}
    assert len(every) > len(DEFAULTS) + 5
    for cls in every:
        expected = defaults | (dict(beta=0.7) if cls is losses.TverskyLoss else {})
        for name, parameter in inspect.signature(cls).parameters.items():
            assert parameter.default == expected.get(name, parameter.default), (cls, name)


@pytest.mark.parametrize("is_cuda", [False, True])
def test_sums_of_soft_labels_are_checked_once_on_a_gpu_and_always_elsewhere(is_cuda):
    loss, pred = CrossEntropyLoss(), SimpleNamespace(dim=lambda: 2, is_cuda=is_cuda)
    for total in (0.985, 1.015, float("nan")):
        with pytest.raises(ValueError, match=f"must sum to 1 over the classes, got a sum of {total}"):
            loss.check_exclusive(pred, torch.tensor([[0.5, 0.5], [total, 0.0]]))
    loss.check_exclusive(pred, torch.tensor([[0.991, 0.0], [1.009, 0.0]]))
    if is_cuda:
        loss.check_exclusive(pred, torch.ones(1, 2))  # a wait for the GPU at each step would cost time
    else:
        with pytest.raises(ValueError, match="got a sum of 2"):
            loss.check_exclusive(pred, torch.ones(1, 2))


def test_a_loss_observes_integer_labels_alone():
    class Seeing(PlainLoss):
        seen = 0

        def observe(self, labels):
            self.seen += int(labels.counts().sum())

    loss = Seeing(ignore_index=IGNORE)
    loss(torch.zeros(3, 2), torch.tensor([0, 1, IGNORE]))
    loss(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
    assert loss.seen == 2


@pytest.mark.parametrize("autocast", [False, True])
def test_class_weights_of_soft_labels_keep_their_digits(autocast):
    """A product of matrices in bfloat16 would keep three."""
    loss = OneHotMSELoss(reduction="none")
    loss.set_class_weight([1.0, 1.003, 0.5])
    soft = torch.tensor([[0.301, 0.699, 0.0], [0.001, 0.998, 0.001]])
    expected = 0.5 * soft.square().sum(1) * (soft @ torch.tensor([1.0, 1.003, 0.5]))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = loss(torch.zeros(2, 3), soft)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_counts_of_other_classes_have_to_be_counted_again():
    loss = losses.LogitAdjustedLoss(class_counts=None)
    loss.set_class_counts([3, 2, 1])
    loss.allocate_class_counts(2)
    with pytest.raises(RuntimeError, match=r"`LogitAdjustedLoss` needs .* and has no counts"):
        loss(torch.zeros(1, 2), torch.tensor([0]))


def test_alpha_is_checked_before_and_used_after_anything_is_counted():
    loss = OutlyingMSELoss()
    with pytest.raises(ValueError, match=r"`alpha` must be a finite number above 0( or 'auto')?, got -1"):
        loss.set_alpha(-1)
    loss.set_class_counts([5, 2])
    loss.set_alpha(3.0)
    assert (loss.alpha_value, loss.target_values.tolist()) == (3, [3, 6])


@pytest.mark.parametrize(
    "function",
    [
        tiled.evaluate_tiles,
        tiled.element_losses,
        evaluate_once,
        losses.upsampled_cross_entropy,
        losses.InfluenceBalancedLoss._in_chunks,
        losses.InfluenceBalancedLoss._in_tiles,
    ],
    ids=lambda function: function.__name__,
)
def test_what_writes_gradients_by_hand_stays_out_of_compiled_graphs(function):
    assert function._torchdynamo_disable


def test_the_compiler_is_asked_once_and_not_imported(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.compiler, "disable", lambda function: asked.append(function) or function)
    double = outside_graphs(lambda x: 2 * x)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert (double(1), asked) == (2, [])
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace())
    assert (double(2), double(x=3), len(asked)) == (4, 6, 1)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_gradients_of_upsampled_float16_stay_in_its_range(reduction):
    """In one pass and, for a loss of each pixel, in torch's own functions."""
    outputs = torch.full((1, 2, 2, 2), 1000.0)
    target = torch.zeros(1, 32, 32, dtype=torch.long)
    loss = OneHotMSELoss(reduction=reduction)
    half, single = (outputs.to(dtype).requires_grad_() for dtype in (torch.float16, torch.float32))
    for pred in (half, single):
        loss.forward_upsampled(pred, target).sum().backward()
    assert half.grad.eq(65504).all()
    assert single.grad.gt(2e5).all()


def test_no_sample_has_a_gradient_in_float16():
    pred = torch.zeros(0, 3, dtype=torch.float16, requires_grad=True)
    converted = pred.float()
    loss = converted.sum(1)
    limit_half_gradients(loss, (converted, pred.dtype))
    loss.sum().backward()
    assert pred.grad.shape == (0, 3)


@pytest.mark.skipif(torch.__version__ < "2.4", reason="its fake tensors need a GPU's driver")
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 5)])
@pytest.mark.parametrize(
    "cls",
    [
        cls
        for cls, _ in DEFAULTS
        # They need Triton on a GPU, or shapes that follow from values, which fake tensors do not have.
        if cls not in (OutlyingMSELoss, losses.GHMCLoss, losses.LovaszSoftmaxLoss, losses.LovaszHingeLoss)
    ],
)
def test_everything_is_made_where_the_outputs_are(cls, shape):
    """A tensor on the CPU beside those of a GPU is an error, of fake tensors too."""
    loss, fresh = cls(class_counts=[98, 1, 1]), cls()
    stored = loss.state_dict()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for one in (loss, fresh):
            one.to("cuda:0")
        with suppress(DataDependentOutputException):  # whether anything was counted
            fresh.load_state_dict(stored)
        assert {buffer.device.type for buffer in fresh.buffers()} == {"cuda"}
        pred = torch.zeros(shape, device="cuda:0")
        target = torch.zeros(pred[:, 0].shape, dtype=torch.long, device="cuda:0")
        if cls is losses.InfluenceBalancedLoss:
            loss.set_features(pred)
        assert loss(pred, target).device.type == "cuda"
        fresh.allocate_class_counts(5)
    for one in (loss, fresh):
        assert {buffer.device.type for buffer in one.buffers()} == {"cuda"}
