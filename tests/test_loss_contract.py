"""What holds for every registered loss; a new loss is enrolled by being registered."""

import copy

import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage

from mmseol.losses import ClassLoss
from mmseol.registry import MODELS

MODELS.import_from_location()
LOSSES = sorted(
    (cls for cls in MODELS.module_dict.values() if isinstance(cls, type) and issubclass(cls, ClassLoss)),
    key=lambda cls: cls.__name__,
)
K = 5
COUNTS = [50, 40, 300, 20, 10]  # distinct, so that permuting classes with their counts changes nothing
IGNORE = 255

# Settings under which a loss is a function of its arguments alone; state and chance have their own tests.
SETTINGS: dict[str, dict] = {
    "EqualizationLoss": dict(gamma=1.0, threshold=0.1),
    "SigmoidEqualizationLoss": dict(threshold=0.1),
}
TRAINING = {"EqualizationLoss"}  # cross entropy in evaluation mode


def every_loss_but(**exceptions: str):
    """Enrol every registered loss but these, each with the reason why the check cannot apply to it."""
    assert exceptions.keys() <= {cls.__name__ for cls in LOSSES}
    enrolled = [cls for cls in LOSSES if cls.__name__ not in exceptions]
    assert len(enrolled) > len(exceptions)
    return pytest.mark.parametrize("cls", enrolled, ids=lambda cls: cls.__name__)


every_loss = every_loss_but()
REGIONS = dict.fromkeys(
    ("DiceLoss", "IoULoss", "LovaszHingeLoss", "LovaszSoftmaxLoss", "TverskyLoss"),
    "one value per class from all pixels together, see tests/test_region_losses.py",
)


def make(cls: type, **kwargs) -> ClassLoss:
    kwargs = {"class_counts": COUNTS} | SETTINGS.get(cls.__name__, {}) | kwargs
    loss = cls(**kwargs).train(cls.__name__ in TRAINING)
    if hasattr(loss, "set_epoch"):
        loss.set_epoch(0)  # as before the start; with features it has its own tests
    return loss


def batch(dtype=torch.float64, ignored=True, shape=(3, 4, 6), scale=1.0):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(shape[0], K, *shape[1:], generator=generator, dtype=dtype) * scale
    target = torch.randint(0, K, shape, generator=generator)
    if ignored:
        target[0, 0] = IGNORE
    return pred.requires_grad_(), target


def value_and_grad(loss, pred, target, **kwargs):
    value = loss(pred, target, **kwargs)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    return value, grad


def test_every_loss_is_enrolled():
    assert {"OutlyingMSELoss", "OneHotMSELoss", "CrossEntropyLoss"} <= {cls.__name__ for cls in LOSSES}


@every_loss
def test_built_by_name_from_a_config(cls):
    loss = MODELS.build(dict(type=f"mmseol.{cls.__name__}"))
    assert type(loss) is cls
    assert loss.loss_name.startswith("loss_")


@every_loss
def test_ignored_positions_change_neither_value_nor_gradient(cls):
    loss = make(cls, ignore_index=IGNORE)
    pred, target = batch()
    value, grad = value_and_grad(loss, pred, target)
    assert value > 0
    assert grad[0, :, 0].eq(0).all()
    assert grad[1:].ne(0).any()
    for odd in (1e30, float("inf"), float("-inf"), float("nan")):
        other = pred.detach().clone()
        other[0, :, 0] = odd
        other_value, other_grad = value_and_grad(loss, other.requires_grad_(), target)
        torch.testing.assert_close(other_value, value, rtol=0, atol=0)
        torch.testing.assert_close(other_grad, grad, rtol=0, atol=0)


@every_loss
def test_ignored_positions_equal_their_absence(cls):
    pred, target = batch()
    keep = target.flatten() != IGNORE
    flat = pred.detach().movedim(1, -1).reshape(-1, K)
    for reduction in ("mean", "sum"):
        loss = make(cls, reduction=reduction)
        torch.testing.assert_close(
            loss(pred, target, ignore_index=IGNORE), loss(flat[keep], target.flatten()[keep])
        )


@every_loss
def test_call_overrides_the_constructors_ignore_index(cls):
    pred, target = batch()
    expected = make(cls, ignore_index=IGNORE)(pred, target)
    torch.testing.assert_close(make(cls, ignore_index=0)(pred, target, ignore_index=IGNORE), expected)
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 5\).*-100.*got 255"):
        make(cls)(pred, target)


@every_loss
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_gives_zero_and_zero_gradient(cls, reduction):
    pred, target = batch(scale=100.0)
    value, grad = value_and_grad(
        make(cls, reduction=reduction), pred, torch.full_like(target, IGNORE), ignore_index=IGNORE
    )
    assert value.eq(0).all()
    assert grad.eq(0).all()


@every_loss
@pytest.mark.parametrize("shape", [(7,), (3, 9), (3, 4, 6), (2, 3, 4, 2)])
def test_any_shape_equals_flattened(cls, shape):
    pred, target = batch(ignored=False, shape=shape)
    flat = pred.detach().movedim(1, -1).reshape(-1, K).requires_grad_()
    value, grad = value_and_grad(make(cls), pred, target)
    flat_value, flat_grad = value_and_grad(make(cls), flat, target.flatten())
    torch.testing.assert_close(value, flat_value)
    torch.testing.assert_close(grad.movedim(1, -1).reshape(-1, K), flat_grad)


@every_loss_but(
    **REGIONS,
    GHMCLoss="normalised over its batch: avg_factor is ignored",
    LADELoss="its regulariser is normalised over the batch: avg_factor is ignored",
)
def test_reductions_and_avg_factor_agree(cls):
    loss = make(cls, ignore_index=IGNORE)
    pred, target = batch()
    positions = loss(pred, target, reduction_override="none")
    assert positions.shape == target.shape
    assert positions[0, 0].eq(0).all()
    total = loss(pred, target, reduction_override="sum")
    torch.testing.assert_close(positions.sum(), total)
    torch.testing.assert_close(loss(pred, target, avg_factor=7), total / 7)
    torch.testing.assert_close(loss(pred, target, avg_factor=torch.tensor(7.0)), total / 7)
    valid = int((target != IGNORE).sum())
    torch.testing.assert_close(loss(pred, target), total / valid)
    with pytest.raises(ValueError, match=r"`avg_factor` goes with reduction='mean'"):
        loss(pred, target, avg_factor=7, reduction_override="sum")


@every_loss_but(**REGIONS)
def test_weight_scales_positions_and_stays_out_of_the_divisor(cls):
    loss = make(cls, ignore_index=IGNORE)
    pred, target = batch()
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    positions = loss(pred, target, reduction_override="none")
    torch.testing.assert_close(
        loss(pred, target, weight=weight, reduction_override="none"), positions * weight
    )
    valid = (target != IGNORE).sum()
    torch.testing.assert_close(loss(pred, target, weight=weight), (positions * weight).sum() / valid)
    per_sample = torch.tensor([0.0, 2.0, 0.5])
    expected = (positions * per_sample.view(3, 1, 1)).sum() / valid
    torch.testing.assert_close(loss(pred, target, weight=per_sample), expected)


@every_loss
def test_loss_weight_is_linear(cls):
    pred, target = batch(ignored=False)
    for reduction in ("none", "mean", "sum"):
        expected = 3 * make(cls, reduction=reduction)(pred, target)
        torch.testing.assert_close(make(cls, loss_weight=3, reduction=reduction)(pred, target), expected)
    assert make(cls, loss_weight=0)(pred, target) == 0


@every_loss
def test_soft_one_hot_equals_labels(cls):
    pred, target = batch(ignored=False)
    one_hot = torch.nn.functional.one_hot(target, K).movedim(-1, 1)
    loss = make(cls)
    if not cls.soft_targets:
        with pytest.raises(ValueError, match=f"`target` of {cls.__name__} must hold integer labels"):
            loss(pred, one_hot)
        return
    for soft in (one_hot, one_hot.double(), one_hot.to(torch.uint8)):
        torch.testing.assert_close(loss(pred, soft), loss(pred, target))


@every_loss_but(SeesawLoss="its factors are constants to the gradient, but not to a difference quotient")
def test_gradcheck(cls):
    loss = make(cls, ignore_index=IGNORE)
    pred, target = batch(shape=(2, 3))
    assert torch.autograd.gradcheck(lambda a: loss(a, target), (pred,))
    if not cls.soft_targets:
        return
    soft = torch.rand(2, K, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)
    assert torch.autograd.gradcheck(lambda a: loss(a, soft), (pred,))


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(cls, dtype):
    loss = make(cls, ignore_index=IGNORE)
    pred, target = batch(torch.float32, scale=300.0)
    half = pred.detach().to(dtype)
    expected = loss(half.float(), target)
    for value in (loss(half, target), _under_autocast(loss, half, target)):
        assert value.dtype == torch.float32
        assert value.isfinite()
        torch.testing.assert_close(value, expected)


def _under_autocast(loss, pred, target):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return loss(pred, target)


@every_loss
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_finite_at_large_outputs(cls, scale):
    pred, target = batch(torch.float32, scale=scale)
    value, grad = value_and_grad(make(cls, ignore_index=IGNORE), pred, target)
    assert value.isfinite()
    assert grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.filterwarnings("ignore:Classes")
def test_few_and_many_classes_one_without_samples(cls, classes):
    counts = np.arange(classes, 0, -1) * 10
    counts[-1] = 0
    loss = make(cls, class_counts=counts, ignore_index=IGNORE)
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(6, classes, 3, generator=generator) * 1e4
    target = torch.randint(0, min(classes, IGNORE), (6, 3), generator=generator)
    target[0] = classes - 1  # of which training data have none
    value, grad = value_and_grad(loss, pred.requires_grad_(), target)
    assert value.isfinite()
    assert grad.isfinite().all()
    one = torch.full_like(target, IGNORE)
    one[2, 1] = target[2, 1]
    value, grad = value_and_grad(loss, pred, one)
    torch.testing.assert_close(value, loss(pred[2:3, :, 1], target[2:3, 1]))
    assert grad.isfinite().all()
    assert grad.abs().sum((1, 2)).count_nonzero() <= 1


@every_loss
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_non_finite_outputs_are_never_masked(cls, odd):
    pred, target = batch(torch.float32)
    pred = pred.detach()
    pred[2, :, 1, 1] = odd
    assert not make(cls, ignore_index=IGNORE)(pred, target).isfinite()


@every_loss
def test_permuting_classes_with_their_counts_changes_nothing(cls):
    pred, target = batch(ignored=False)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = make(cls, class_counts=[COUNTS[i] for i in order])
    torch.testing.assert_close(permuted(pred[:, order], order.argsort()[target]), make(cls)(pred, target))


@every_loss
def test_counts_survive_checkpoint_copy_and_averaging(cls, tmp_path):
    loss = make(cls)
    pred, target = batch(ignored=False)
    torch.save(loss.state_dict(), tmp_path / "checkpoint.pth")
    fresh = make(cls, class_counts=None)
    fresh.load_state_dict(torch.load(tmp_path / "checkpoint.pth"))  # nobody told it the number of classes
    assert fresh.class_counts.dtype == torch.int64
    assert fresh.class_counts.tolist() == COUNTS
    torch.testing.assert_close(fresh(pred, target), loss(pred, target))
    torch.testing.assert_close(copy.deepcopy(loss)(pred, target), loss(pred, target))

    for update_buffers in (False, True):
        model = torch.nn.Sequential(make(cls, class_counts=None), make(cls, class_counts=None))
        for part in model:
            part.allocate_class_counts(K)
        average = ExponentialMovingAverage(model, update_buffers=update_buffers)
        for part in model:
            part.set_class_counts(COUNTS)
        average.update_parameters(model)
        for part in average.module:
            assert part.class_counts.tolist() == COUNTS
            torch.testing.assert_close(part(pred, target), loss(pred, target))


@every_loss
def test_large_counts_stay_exact_in_half_precision_modules(cls):
    counts = [2**24 + 1, 2**40 + 1, 7, 5, 3]
    loss = make(cls, class_counts=counts).half()
    assert loss.class_counts.tolist() == counts
    pred, target = batch(ignored=False)
    torch.testing.assert_close(loss(pred, target), make(cls, class_counts=counts)(pred, target))


@every_loss
def test_compiles_without_graph_break(cls):
    torch._dynamo.reset()  # the limit of recompilations counts those of the other losses
    loss = make(cls, ignore_index=IGNORE)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    pred, target = batch()
    for kwargs in ({}, {"avg_factor": 5.0}, {"weight": torch.rand(target.shape)}):
        value, grad = value_and_grad(loss, pred, target, **kwargs)
        compiled_value, compiled_grad = value_and_grad(compiled, pred, target, **kwargs)
        torch.testing.assert_close(compiled_value, value)
        torch.testing.assert_close(compiled_grad, grad)


@every_loss
def test_wrong_arguments_are_named(cls):
    loss = make(cls)
    pred, target = batch(ignored=False)
    soft = torch.rand(pred.shape)
    for kwargs, message in (
        (dict(pred=pred[:, :1], target=target), "`pred` must have at least 2 classes.*num_classes=2"),
        (dict(pred=pred[0, 0, 0], target=target), "`pred` must be floating-point"),
        (dict(pred=pred.long(), target=target), "`pred` must be floating-point"),
        (dict(pred=pred, target=target[:, 0]), r"`target` must be of shape \(3, 4, 6\)"),
        (dict(pred=pred, target=target.double()), "`target` .* must hold integer labels, got torch.float64"),
        (dict(pred=pred, target=soft[:, :2]), "soft `target` must be of `pred`'s shape"),
        (dict(pred=pred, target=target, weight=torch.ones(4, 6)), "`weight` must be of shape"),
        (dict(pred=pred, target=target + 3), r"`target` must lie in \[0, 5\)"),
        (dict(pred=pred, target=target - 1), r"got -1\. Correct the labels"),
        (dict(pred=pred, target=target, reduction_override="avg"), "`reduction_override` must be one of"),
        (dict(pred=pred[:, :4], target=target % 4), "`pred` has 4 classes, but `class_counts` has 5 entries"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(**kwargs)


@every_loss
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(class_counts=[3, -1, 2]), r"`class_counts` must not be negative, got \[3, -1, 2\]"),
        (dict(class_counts=[0, 0]), "`class_counts` must not be all zero"),
        (dict(class_counts=[1.5, 2]), "`class_counts` must be finite whole numbers"),
        (dict(class_counts=[float("nan"), 2]), "`class_counts` must be finite whole numbers"),
        (dict(class_counts=[[1, 2]]), "`class_counts` must be a sequence of at least two numbers"),
        (dict(class_counts="counts.txt"), "`class_counts` must be a sequence or a .json or .npy file"),
        (dict(class_counts="missing.json"), "which does not exist"),
        (dict(reduction="avg"), "`reduction` must be one of 'none', 'mean', 'sum', got 'avg'"),
        (dict(loss_weight=float("nan")), "`loss_weight` must be a finite number, got nan"),
    ],
)
def test_wrong_settings_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@every_loss
def test_set_class_counts_checks_the_number_of_classes(cls):
    loss = make(cls, class_counts=None)
    loss.allocate_class_counts(K)
    assert not loss.counted
    with pytest.raises(ValueError, match="got 3 entries for 5 classes"):
        loss.set_class_counts([1, 2, 3])
    buffer = loss.class_counts
    loss.set_class_counts(np.array(COUNTS), totals=torch.tensor(COUNTS) * 2)
    assert loss.counted
    assert loss.class_counts is buffer  # filled in place: averaged and wrapped models hold this very tensor
    assert loss.class_totals.tolist() == [2 * count for count in COUNTS]


@every_loss
def test_counts_from_files(cls, tmp_path):
    (tmp_path / "list.json").write_text("[50, 40, 300, 20, 10]")
    (tmp_path / "object.json").write_text('{"samples": [50, 40, 300, 20, 10], "images": [1, 1, 1, 1, 1]}')
    np.save(tmp_path / "array.npy", np.array(COUNTS))
    for name in ("list.json", "object.json", "array.npy"):
        assert make(cls, class_counts=str(tmp_path / name)).class_counts.tolist() == COUNTS


@every_loss
def test_uncounted_use_says_what_to_do(cls):
    loss = make(cls, class_counts=None)
    pred, target = batch(ignored=False)
    if not loss.needs_counts:
        assert loss(pred, target).isfinite()
        return
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=rf"`{cls.__name__}` needs.*\n.*mmseol.ClassCountHook.*\n.*class_counts="
        ):
            loss(pred, target)
        loss.allocate_class_counts(K)
