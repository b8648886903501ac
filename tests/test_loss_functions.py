"""The losses as functions: each equals its class, and signatures show all arguments."""

import inspect

import pytest
import torch

import mmseol.losses as losses
from mmseol.counting.counts import effective_number_weights, outlying_values
from mmseol.losses.base.class_loss import default_loss_name
from mmseol.registry import MODELS

K = 4
COUNTS = [40, 7, 300, 1]
WEIGHTS = [0.5, 2.0, 1.0, 0.25]
DIFFICULTY = [0.1, 0.9, 0.4, 0.0]
FEATURES = torch.rand(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def seesaw(**kwargs):
    loss = losses.SeesawLoss(1.0, 1.5, **kwargs).eval()
    loss.allocate_class_counts(K)
    loss.seen_counts.copy_(torch.tensor(COUNTS))
    return loss


def cdb(**kwargs):
    loss = losses.CDBLoss(0.7, "weight", **kwargs)
    loss.set_class_difficulty(DIFFICULTY)
    return loss


def influence(**kwargs):
    loss = losses.InfluenceBalancedLoss(2.0, 0.5, class_weight=WEIGHTS, **kwargs)
    loss.set_features(FEATURES)
    return loss


REGION = dict(classes=[0, 3], per_image=True, class_weight=WEIGHTS)
# For each function its arguments after `target`, none of them a default, and the loss that it must equal.
FUNCTIONS = {
    "cross_entropy": (dict(class_weight=WEIGHTS, normalize="count"), losses.CrossEntropyLoss),
    "focal_loss": (
        dict(
            gamma=1.5,
            class_weight=WEIGHTS,
            weight_in_modulator=True,
            detach_modulator=True,
            normalize="count",
        ),
        losses.FocalLoss,
    ),
    "sigmoid_focal_loss": (
        dict(alpha=0.4, gamma=1.0, class_weight=WEIGHTS, normalize="count"),
        losses.SigmoidFocalLoss,
    ),
    "outlying_mse": (
        dict(values=outlying_values(COUNTS, 3.0)),
        lambda values, **kwargs: losses.OutlyingMSELoss(3.0, class_counts=COUNTS, **kwargs),
    ),
    "one_hot_mse": ({}, losses.OneHotMSELoss),
    "logit_adjusted_loss": (
        dict(class_counts=COUNTS, tau=0.7, class_weight=WEIGHTS),
        losses.LogitAdjustedLoss,
    ),
    "balanced_softmax_loss": (dict(class_counts=COUNTS, class_weight=WEIGHTS), losses.BalancedSoftmaxLoss),
    "vs_loss": (dict(class_counts=COUNTS, gamma=0.2, tau=0.5, class_weight=WEIGHTS), losses.VSLoss),
    "ldam_loss": (
        dict(class_counts=COUNTS, max_margin=0.3, scale=5.0, class_weight=WEIGHTS),
        losses.LDAMLoss,
    ),
    "enlarged_margin_loss": (
        dict(class_counts=COUNTS, enlargement=0.5, max_margin=0.3, scale=5.0, class_weight=WEIGHTS),
        losses.EnlargedMarginLoss,
    ),
    "lade_loss": (dict(class_counts=COUNTS, remine_weight=0.3, remine_lambda=0.2), losses.LADELoss),
    "equalization_loss": (dict(class_counts=COUNTS, gamma=1.0, threshold=0.1), losses.EqualizationLoss),
    "sigmoid_equalization_loss": (
        dict(class_counts=COUNTS, threshold=0.1),
        losses.SigmoidEqualizationLoss,
    ),
    "ghmc_loss": (dict(bins=5, divide_by="non_empty_bins"), losses.GHMCLoss),
    "seesaw_loss": (
        dict(class_counts=COUNTS, p=1.0, q=1.5),
        lambda class_counts, p, q, **kwargs: seesaw(**kwargs),
    ),
    "cdb_loss": (
        dict(difficulty=DIFFICULTY, tau=0.7, normalize="weight"),
        lambda difficulty, tau, normalize, **kwargs: cdb(**kwargs),
    ),
    "influence_balanced_loss": (
        dict(features=FEATURES, scale=2.0, gamma=0.5, class_weight=WEIGHTS, normalize="weight"),
        lambda features, scale, gamma, class_weight, **kwargs: influence(**kwargs),
    ),
    "dice_loss": (dict(power=1, smooth=0.5, **REGION), losses.DiceLoss),
    "iou_loss": (dict(power=2, smooth=(0.5, 1.0), **REGION), losses.IoULoss),
    "tversky_loss": (dict(alpha=0.4, beta=0.8, smooth=0.1, **REGION), losses.TverskyLoss),
    "lovasz_softmax_loss": (REGION, losses.LovaszSoftmaxLoss),
    "lovasz_hinge_loss": (REGION, losses.LovaszHingeLoss),
}


def test_every_function_is_enrolled():
    functions = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}
    assert functions - {"upsampled_cross_entropy"} == FUNCTIONS.keys()  # it stands for functions of torch


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_upsampled_cross_entropy_is_torchs(weighted, reduction, align_corners):
    """Its place is that of two functions of torch, argument by argument."""
    class_weight = [0.5, 2.0, 1.0, 0.25] if weighted else None
    target = torch.arange(2 * 9 * 13).view(2, 9, 13) % K
    target[0, 3, 2:7] = 255
    pred = torch.randn(2, K, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    pred.requires_grad_()
    up = torch.nn.functional.interpolate(pred, (9, 13), mode="bilinear", align_corners=align_corners)
    expected = torch.nn.functional.cross_entropy(
        up,
        target,
        None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64),
        ignore_index=255,
        reduction=reduction,
    )
    value = losses.upsampled_cross_entropy(
        pred, target, class_weight, align_corners=align_corners, ignore_index=255, reduction=reduction
    )
    found = value, *torch.autograd.grad(value.sum(), pred)
    torch.testing.assert_close(found, (expected, *torch.autograd.grad(expected.sum(), pred)))


def test_upsampled_cross_entropy_counts_and_factors():
    target = torch.arange(2 * 8 * 8).view(2, 8, 8) % K
    pred = torch.randn(2, K, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    up = torch.nn.functional.interpolate(pred, (8, 8), mode="bilinear")
    w, factor = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64), torch.tensor([1.0, 3.0])
    each = torch.nn.functional.cross_entropy(up, target, w, reduction="none") * factor.view(2, 1, 1)
    value = losses.upsampled_cross_entropy(pred, target, w, normalize="count", weight=factor)
    torch.testing.assert_close(value, each.sum() / target.numel())


def test_defaults_of_upsampled_cross_entropy_are_torchs():
    found = inspect.signature(losses.upsampled_cross_entropy).parameters
    cross_entropy = inspect.signature(torch.nn.functional.cross_entropy).parameters
    for name in ("ignore_index", "reduction"):
        assert found[name].default == cross_entropy[name].default, name
    assert found["align_corners"].default is False


CALL = {"pred", "target", "weight", "ignore_index", "reduction"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_tried_and_defaults_are_those_of_the_class(name):
    arguments, _ = FUNCTIONS[name]
    parameters = inspect.signature(getattr(losses, name)).parameters
    assert arguments.keys() == parameters.keys() - CALL
    assert all(arguments[key] != parameters[key].default for key in arguments.keys() - {"features", "values"})
    cls = next(c for c in CLASSES if default_loss_name(c).removeprefix("loss_") == name.removesuffix("_loss"))
    settings = inspect.signature(cls).parameters
    for key in (arguments.keys() & settings.keys() - {"class_counts"}) | {"ignore_index", "reduction"}:
        # The function of the influence-balanced loss has no counts to weigh the classes by.
        if (name, key) != ("influence_balanced_loss", "class_weight"):
            assert parameters[key].default == settings[key].default, key


CLASSES = [
    loss
    for loss in (getattr(losses, name) for name in losses.__all__)
    if inspect.isclass(loss) and loss.__name__ in MODELS.module_dict
]


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if "normalize" in inspect.signature(cls).parameters])
def test_arguments_of_class_weights_reach_the_base(cls):
    for normalize in ("count", "weight"):
        assert cls(normalize=normalize).normalize == normalize
    if not issubclass(cls, losses.WeightedClassLoss):
        return
    options = {} if cls is losses.TverskyLoss else {"beta": 0.5}  # whose beta is a weight of errors
    loss = cls(class_weight="effective_number", class_counts=COUNTS, **options)
    expected = effective_number_weights(COUNTS, **options)
    torch.testing.assert_close(loss.class_weight, torch.from_numpy(expected))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_equals_its_class(name, reduction):
    arguments, build = FUNCTIONS[name]
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(15).view(3, 5) % K  # every class
    target[0, 2] = 255
    weight = torch.rand(3, 5, dtype=torch.float64, generator=generator)
    common = dict(ignore_index=255, reduction=reduction)
    found = []
    for evaluate in (
        lambda pred: getattr(losses, name)(pred, target, **arguments, weight=weight, **common),
        lambda pred: build(**arguments, **common)(pred, target, weight),
    ):
        pred = torch.randn(3, K, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        value = evaluate(pred.requires_grad_())
        (gradient,) = torch.autograd.grad(value.sum(), pred)
        assert gradient.any()
        found.append((value, gradient))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_target_values_are_one_per_class():
    pred, target = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"`values` must be one number for each of the 3 classes .*\(2,\)"):
        losses.outlying_mse(pred, target, [1.0, 2.0])


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_target_values_get_no_gradient(reduction):
    pred, values = torch.zeros(2, 3, requires_grad=True), torch.ones(3, requires_grad=True)
    losses.outlying_mse(pred, torch.tensor([0, 1]), values, reduction=reduction).sum().backward()
    assert pred.grad.any()
    assert values.grad is None


def test_seesaw_counts_are_one_per_class_and_stay_as_they_are():
    pred, target, counts = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([3, 2])
    with pytest.raises(ValueError, match="`class_counts` has 2 entries"):
        losses.seesaw_loss(pred, target, counts)
    losses.seesaw_loss(pred[:, :2], target, counts)
    assert counts.tolist() == [3, 2]


@pytest.mark.parametrize("name", losses.__all__)
def test_signatures_show_all_arguments(name):
    parameters = inspect.signature(getattr(losses, name)).parameters
    assert all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values())
    common = {"ignore_index", "reduction"}
    common |= {"weight"} if inspect.isfunction(getattr(losses, name)) else {"class_counts", "sync_avg_factor"}
    assert common <= parameters.keys()


def test_a_subclass_may_pass_keywords_on():
    class Mine(losses.CrossEntropyLoss):
        def __init__(self, power: float = 2.0, **kwargs):
            self.power = power
            super().__init__(**kwargs)

        def position_loss(self, pred, target, valid):
            return super().position_loss(pred, target, valid) ** self.power

    loss = Mine(3.0, ignore_index=7, class_weight=[1.0, 2.0], reduction="sum")
    value = loss(torch.zeros(2, 2), torch.tensor([1, 7]))
    torch.testing.assert_close(value, (2 * torch.tensor(2.0).log()) ** 3)


@pytest.mark.parametrize(
    ("cls", "name"),
    [(losses.FocalLoss, "detach_modulator"), (losses.DiceLoss, "per_image")],
)
def test_a_string_is_no_boolean(cls, name):
    with pytest.raises(ValueError, match=f"`{name}` must be True or False, got 'false'"):
        cls(**{name: "false"})


def test_functions_run_within_compiled_code():
    torch._dynamo.reset()

    @torch.compile(backend="eager")
    def step(scores, target):
        return losses.focal_loss(2 * scores, target, gamma=1.0) + losses.seesaw_loss(scores, target, [3, 2])

    scores, target = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([0])
    expected = losses.focal_loss(2 * scores, target, gamma=1.0) + losses.seesaw_loss(scores, target, [3, 2])
    value = step(scores, target)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients)
