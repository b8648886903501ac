"""The contract that every loss of this package keeps, for a loss of one's own; needs no test framework."""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.model import ExponentialMovingAverage
from torch import Tensor

from mmseol.losses import ClassLoss, RegionLoss
from mmseol.losses.ops.tiles import tiles_of
from mmseol.utils.checks import whole_number

__all__ = ["LossCheck", "check_loss", "loss_checks"]

_IGNORE = 255


def check_loss(
    loss: type[ClassLoss],
    num_classes: int = 5,
    *,
    training: bool = False,
    skip: Mapping[str, str] | None = None,
    **settings: Any,
) -> None:
    """Run every check of :func:`loss_checks` that applies to a loss.

    >>> class SmoothedLoss(ClassLoss):
    ...     def position_loss(self, pred, target, valid):
    ...         options = dict(reduction="none", label_smoothing=0.1)
    ...         return torch.nn.functional.cross_entropy(pred, target, **options)
    >>> check_loss(SmoothedLoss)

    Args:
        loss: Class of the loss, a subclass of :class:`~mmseol.losses.ClassLoss`.
        num_classes: Number of classes of most checks, at least 3.
        training: Whether the loss is checked in training mode.
        skip: Names of checks that cannot apply to this loss, each with the reason.
        **settings: Arguments of the loss under which it is a function of its inputs alone: no random
            numbers, no state.

    Raises:
        AssertionError: If checks fail, with the name and the message of each.
        ValueError: If an argument is out of its range.
    """
    checks = {check.name: check for check in loss_checks()}
    unknown = sorted(set(skip or {}) - set(checks))
    if unknown:
        raise ValueError(f"`skip` must name checks among {', '.join(checks)}, got {', '.join(unknown)}.")
    failures = []
    for name, check in checks.items():
        if check.exception(loss) is None and name not in (skip or {}):
            try:
                check(loss, num_classes, training=training, **settings)
            except AssertionError as error:
                failures.append(error)
    if failures:
        raise AssertionError("\n".join(map(str, failures))) from failures[0]


def loss_checks() -> list[LossCheck]:
    """Return all checks, to be parametrised by a test framework.

    >>> [check.name for check in loss_checks()][:2]
    ['has_a_name_that_mmseg_optimises', 'takes_the_arguments_of_every_loss']
    """
    return list(_CHECKS)


@dataclass(frozen=True)
class LossCheck:
    """One property of a loss; call it with the loss's class to assert that the loss has it.

    >>> from mmseol.losses import CrossEntropyLoss
    >>> gradcheck = {check.name: check for check in loss_checks()}["gradient_is_the_difference_quotient"]
    >>> gradcheck(CrossEntropyLoss, num_classes=3)
    """

    name: str
    """Name, in words."""

    run: Callable[[_Subject], None]
    """Function that raises an error if a loss lacks the property."""

    exceptions: Mapping[str, Callable[[type], bool]] = field(default_factory=dict)
    """Reasons why the check cannot apply, each with the losses that it concerns."""

    def exception(self, loss: type[ClassLoss]) -> str | None:
        """Return the reason why the check cannot apply to a loss, or ``None`` where it applies."""
        if not (isinstance(loss, type) and issubclass(loss, ClassLoss)):
            raise ValueError(f"`loss` must be a subclass of mmseol.losses.ClassLoss, got {loss!r}.")
        return next((reason for reason, concerns in self.exceptions.items() if concerns(loss)), None)

    def __call__(
        self, loss: type[ClassLoss], num_classes: int = 5, *, training: bool = False, **settings: Any
    ) -> None:
        """Raise AssertionError with the check's name if the loss lacks the property."""
        subject = _Subject(loss, whole_number("num_classes", num_classes, at_least=3), training, settings)
        try:
            self.run(subject)
        except Exception as error:
            message = f"{loss.__name__} fails {self.name}: {type(error).__name__}: {error}"
            raise AssertionError(message) from error

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Subject:
    """A loss to check, its settings, and inputs for it."""

    cls: type[ClassLoss]
    num_classes: int
    training: bool
    settings: Mapping[str, Any]

    @property
    def counts(self) -> list[int]:
        """Counts that differ and are not in order, so that a mix-up of classes shows."""
        return (10 * np.random.default_rng(0).permutation(np.arange(1, self.num_classes + 1)) ** 2).tolist()

    def make(self, **settings: Any) -> Any:
        """Return the loss; one that follows a schedule is as before its start."""
        loss: Any = self.cls(**{"class_counts": self.counts, **self.settings, **settings})
        loss.train(self.training)
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(0)
        return loss

    def batch(
        self,
        dtype: torch.dtype = torch.float64,
        ignored: bool = True,
        shape: tuple[int, ...] = (3, 4, 6),
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Return outputs and labels; if ``ignored``, the first row of the first sample is."""
        generator = torch.Generator().manual_seed(0)
        outputs = (shape[0], self.num_classes, *shape[1:])
        pred = torch.randn(outputs, generator=generator, dtype=dtype) * scale
        target = torch.randint(0, self.num_classes, shape, generator=generator)
        if ignored:
            target[0, 0] = _IGNORE
        return pred.requires_grad_(), target


_CHECKS: list[LossCheck] = []
_REGION = {"one value per class from all elements together": lambda cls: issubclass(cls, RegionLoss)}
_BATCH = {"normalised over its batch: avg_factor is ignored": lambda cls: not cls.takes_avg_factor}


def _check(
    exceptions: Mapping[str, Callable[[type], bool]] | None = None,
) -> Callable[[Callable[[_Subject], None]], Callable[[_Subject], None]]:
    """Enrol a check under the function's name."""

    def enrol(function: Callable[[_Subject], None]) -> Callable[[_Subject], None]:
        _CHECKS.append(LossCheck(function.__name__.strip("_"), function, exceptions or {}))
        return function

    return enrol


@contextmanager
def _raises(error: type[Exception], pattern: str) -> Iterator[None]:
    """Assert that the block raises an error whose message the pattern is found in."""
    message = None
    try:
        yield
    except error as raised:
        message = str(raised)
    assert message is not None, f"must raise {error.__name__} with a message that matches {pattern!r}"
    assert re.search(pattern, message), f"the message must match {pattern!r}, got {message!r}"


def _value_and_grad(loss: Any, pred: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    value = loss(pred, target, **kwargs)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    return value, grad


def _flat(pred: Tensor) -> Tensor:
    """Return (N, K, *) as (N', K)."""
    return pred.movedim(1, -1).reshape(-1, pred.shape[1])


_close = torch.testing.assert_close


@_check()
def _has_a_name_that_mmseg_optimises(subject: _Subject) -> None:
    assert subject.make().loss_name.startswith("loss_")


@_check()
def _takes_the_arguments_of_every_loss(subject: _Subject) -> None:
    given = dict(ignore_index=7, loss_weight=0.5, reduction="sum", loss_name="loss_own", sync_avg_factor=True)
    defaults = dict(ignore_index=-100, loss_weight=1.0, reduction="mean", sync_avg_factor=False)
    for loss, expected in ((subject.make(**given), given), (subject.make(), defaults)):
        assert {name: getattr(loss, name) for name in expected} == expected


@_check()
def _ignored_elements_change_nothing(subject: _Subject) -> None:
    loss = subject.make(ignore_index=_IGNORE)
    pred, target = subject.batch()
    value, grad = _value_and_grad(loss, pred, target)
    assert value > 0, f"the loss of random outputs must be positive, got {value}"
    assert grad[0, :, 0].eq(0).all(), "the gradient at ignored elements must be 0"
    assert grad[1:].ne(0).any(), "the gradient at other elements must not be 0"
    for odd in (1e30, float("inf"), float("-inf"), float("nan")):
        other = pred.detach().clone()
        other[0, :, 0] = odd
        other_value, other_grad = _value_and_grad(loss, other.requires_grad_(), target)
        _close(other_value, value, rtol=0, atol=0)
        _close(other_grad, grad, rtol=0, atol=0)


@_check()
def _ignored_elements_equal_their_absence(subject: _Subject) -> None:
    pred, target = subject.batch()
    keep = target.flatten() != _IGNORE
    for reduction in ("mean", "sum"):
        loss = subject.make(reduction=reduction)
        expected = loss(_flat(pred.detach())[keep], target.flatten()[keep])
        _close(loss(pred, target, ignore_index=_IGNORE), expected)


@_check()
def _the_call_overrides_the_constructors_ignore_index(subject: _Subject) -> None:
    pred, target = subject.batch()
    expected = subject.make(ignore_index=_IGNORE)(pred, target)
    _close(subject.make(ignore_index=0)(pred, target, ignore_index=_IGNORE), expected)
    with _raises(ValueError, rf"`target` must lie in \[0, {subject.num_classes}\).*-100.*got 255"):
        subject.make()(pred, target)


@_check()
def _all_ignored_gives_zero_and_zero_gradient(subject: _Subject) -> None:
    pred, target = subject.batch(scale=100.0)
    nothing = torch.full_like(target, _IGNORE)
    for reduction in ("mean", "sum", "none"):
        value, grad = _value_and_grad(subject.make(reduction=reduction), pred, nothing, ignore_index=_IGNORE)
        assert value.eq(0).all(), f"reduction={reduction!r} must give 0, got {value}"
        assert grad.eq(0).all(), f"reduction={reduction!r} must give gradient 0"


@_check()
def _any_shape_equals_flattened(subject: _Subject) -> None:
    for shape in ((7,), (3, 9), (3, 4, 6), (2, 3, 4, 2)):
        pred, target = subject.batch(ignored=False, shape=shape)
        value, grad = _value_and_grad(subject.make(), pred, target)
        flat = _flat(pred.detach()).requires_grad_()
        flat_value, flat_grad = _value_and_grad(subject.make(), flat, target.flatten())
        _close(value, flat_value)
        _close(_flat(grad), flat_grad)


@_check(_BATCH)
def _reductions_and_avg_factor_agree(subject: _Subject) -> None:
    loss = subject.make(ignore_index=_IGNORE)
    pred, target = subject.batch()
    elements = loss(pred, target, reduction_override="none")
    assert elements.shape == target.shape, f"must be of shape {target.shape}, got {elements.shape}"
    assert elements[0, 0].eq(0).all(), "the loss of ignored elements must be 0"
    total = loss(pred, target, reduction_override="sum")
    _close(elements.sum(), total)
    _close(loss(pred, target, avg_factor=7), total / 7)
    _close(loss(pred, target, avg_factor=torch.tensor(7.0)), total / 7)
    _close(loss(pred, target), total / int((target != _IGNORE).sum()))
    with _raises(ValueError, r"`avg_factor` goes with reduction='mean'"):
        loss(pred, target, avg_factor=7, reduction_override="sum")


@_check(_REGION)
def _weight_scales_elements_and_stays_out_of_the_divisor(subject: _Subject) -> None:
    loss = subject.make(ignore_index=_IGNORE)
    pred, target = subject.batch()
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    elements = loss(pred, target, reduction_override="none")
    _close(loss(pred, target, weight=weight, reduction_override="none"), elements * weight)
    valid = (target != _IGNORE).sum()
    _close(loss(pred, target, weight=weight), (elements * weight).sum() / valid)
    per_sample = torch.tensor([0.0, 2.0, 0.5])
    expected = (elements * per_sample.view(3, 1, 1)).sum() / valid
    _close(loss(pred, target, weight=per_sample), expected)


@_check()
def _loss_weight_is_linear(subject: _Subject) -> None:
    pred, target = subject.batch(ignored=False)
    for reduction in ("none", "mean", "sum"):
        expected = 3 * subject.make(reduction=reduction)(pred, target)
        _close(subject.make(loss_weight=3, reduction=reduction)(pred, target), expected)
    assert subject.make(loss_weight=0)(pred, target) == 0, "loss_weight=0 must give 0"


@_check()
def _soft_labels_of_one_class_equal_labels(subject: _Subject) -> None:
    pred, target = subject.batch(ignored=False)
    one_hot = torch.nn.functional.one_hot(target, subject.num_classes).movedim(-1, 1)
    loss = subject.make()
    if not subject.cls.soft_targets:
        with _raises(ValueError, f"`target` of {subject.cls.__name__} must hold integer labels"):
            loss(pred, one_hot)
        return
    for soft in (one_hot, one_hot.double(), one_hot.to(torch.uint8)):
        _close(loss(pred, soft), loss(pred, target))


@_check()
def _gradient_is_the_difference_quotient(subject: _Subject) -> None:
    loss = subject.make(ignore_index=_IGNORE)
    pred, target = subject.batch(shape=(2, 3))
    assert torch.autograd.gradcheck(lambda a: loss(a, target), (pred,))
    if subject.cls.soft_targets:
        soft = torch.rand(pred.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        assert torch.autograd.gradcheck(lambda a: loss(a, soft.softmax(1)), (pred,))


@_check()
def _upsampled_outputs_are_not_needed(subject: _Subject) -> None:
    """The loss of tiles is the loss of the whole, of upsampled outputs and of outputs of label size."""
    generator = torch.Generator().manual_seed(3)
    pred = torch.randn(2, subject.num_classes, 4, 5, dtype=torch.float64, generator=generator) * 3
    # At 9 from 4 and 14 from 5 no two pixels are alike: a loss that sorts them has one gradient.
    _, target = subject.batch(shape=(2, 9, 14))
    weight = torch.rand(target.shape, generator=generator)
    for align_corners in (False, True):
        small = pred.clone().requires_grad_()
        large = torch.nn.functional.interpolate(small, (9, 14), mode="bilinear", align_corners=align_corners)
        expected = subject.make(ignore_index=_IGNORE)(large, target, weight=weight)
        gradients = torch.autograd.grad(expected, (small, large))
        given = dict(align_corners=align_corners, weight=weight)
        with tiles_of(10 * subject.num_classes):
            value, grad = _value_and_grad(
                subject.make(ignore_index=_IGNORE).forward_upsampled, small, target, **given
            )
            same_value, same_grad = _value_and_grad(
                subject.make(ignore_index=_IGNORE), large.detach().requires_grad_(), target, weight=weight
            )
        _close(value, expected)
        _close(grad, gradients[0])
        _close(same_value, expected)
        _close(same_grad, gradients[1])


@_check()
def _half_precision_is_lifted(subject: _Subject) -> None:
    loss = subject.make(ignore_index=_IGNORE)
    pred, target = subject.batch(torch.float32, scale=300.0)
    for dtype in (torch.float16, torch.bfloat16):
        half = pred.detach().to(dtype)
        expected = loss(half.float(), target)
        for autocast in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = loss(half, target)
            assert value.dtype == torch.float32, f"must be float32, got {value.dtype}"
            assert value.isfinite(), f"must be finite, got {value}"
            _close(value, expected)


@_check()
def _finite_at_small_and_large_outputs(subject: _Subject) -> None:
    for scale in (1e-4, 1e4):
        pred, target = subject.batch(torch.float32, scale=scale)
        value, grad = _value_and_grad(subject.make(ignore_index=_IGNORE), pred, target)
        assert value.isfinite(), f"must be finite at outputs of {scale}, got {value}"
        assert grad.isfinite().all(), f"the gradient must be finite at outputs of {scale}"


@_check()
def _two_and_many_classes_one_without_samples(subject: _Subject) -> None:
    for classes in (2, 1000):
        counts = np.arange(classes, 0, -1) * 10
        counts[-1] = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Classes")  # that class is named
            loss = subject.make(class_counts=counts, ignore_index=_IGNORE)
        generator = torch.Generator().manual_seed(0)
        pred = (torch.randn(6, classes, 3, generator=generator) * 1e4).requires_grad_()
        target = torch.randint(0, min(classes, _IGNORE), (6, 3), generator=generator)
        target[0] = classes - 1  # the class without samples
        value, grad = _value_and_grad(loss, pred, target)
        assert value.isfinite(), f"must be finite with {classes} classes, got {value}"
        assert grad.isfinite().all(), f"the gradient must be finite with {classes} classes"
        one = torch.full_like(target, _IGNORE)
        one[2, 1] = target[2, 1]
        value, grad = _value_and_grad(loss, pred, one)
        _close(value, loss(pred[2:3, :, 1], target[2:3, 1]))
        assert grad.isfinite().all(), "the gradient must be finite with one valid element"
        assert grad.abs().sum((1, 2)).count_nonzero() <= 1, "only the valid element may have a gradient"


@_check()
def _non_finite_outputs_are_never_masked(subject: _Subject) -> None:
    for odd in (float("nan"), float("inf")):
        pred, target = subject.batch(torch.float32)
        pred = pred.detach()
        pred[2, :, 1, 1] = odd
        value = subject.make(ignore_index=_IGNORE)(pred, target)
        assert not value.isfinite(), f"outputs of {odd} must give a non-finite loss, got {value}"


@_check()
def _permuting_classes_with_their_counts_changes_nothing(subject: _Subject) -> None:
    pred, target = subject.batch(ignored=False)
    order = torch.randperm(subject.num_classes, generator=torch.Generator().manual_seed(0))
    permuted = subject.make(class_counts=[subject.counts[i] for i in order])
    _close(permuted(pred[:, order], order.argsort()[target]), subject.make()(pred, target))


@_check()
def _counts_survive_checkpoint_copy_and_averaging(subject: _Subject) -> None:
    loss = subject.make()
    pred, target = subject.batch(ignored=False)
    fresh = subject.make(class_counts=None)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(loss.state_dict(), Path(folder) / "checkpoint.pth")
        fresh.load_state_dict(
            torch.load(Path(folder) / "checkpoint.pth")
        )  # the number of classes is new to it
    assert fresh.class_counts.dtype == torch.int64
    assert fresh.class_counts.tolist() == subject.counts
    _close(fresh(pred, target), loss(pred, target))
    _close(copy.deepcopy(loss)(pred, target), loss(pred, target))

    for update_buffers in (False, True):
        parts = [subject.make(class_counts=None) for _ in range(2)]
        for part in parts:
            part.allocate_class_counts(subject.num_classes)
        model = torch.nn.Sequential(*parts)
        average = ExponentialMovingAverage(model, update_buffers=update_buffers)
        for part in parts:
            part.set_class_counts(subject.counts)
        average.update_parameters(model)
        for part in average.module:
            assert part.class_counts.tolist() == subject.counts
            _close(part(pred, target), loss(pred, target))


@_check()
def _large_counts_stay_exact_in_half_precision_modules(subject: _Subject) -> None:
    counts = [2**24 + 1, 2**40 + 1, *range(subject.num_classes, 2, -1)]
    loss = subject.make(class_counts=counts).half()
    assert loss.class_counts.tolist() == counts
    pred, target = subject.batch(ignored=False)
    _close(loss(pred, target), subject.make(class_counts=counts)(pred, target))


@_check()
def _compiles_without_graph_break(subject: _Subject) -> None:
    torch.compiler.reset()  # the limit of recompilations counts those of other losses
    loss = subject.make(ignore_index=_IGNORE)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    pred, target = subject.batch()
    for kwargs in ({}, {"avg_factor": 5.0}, {"weight": torch.rand(target.shape)}):
        value, grad = _value_and_grad(loss, pred, target, **kwargs)
        compiled_value, compiled_grad = _value_and_grad(compiled, pred, target, **kwargs)
        _close(compiled_value, value)
        _close(compiled_grad, grad)


@_check()
def _wrong_inputs_are_named(subject: _Subject) -> None:
    loss, classes = subject.make(), subject.num_classes
    pred, target = subject.batch(ignored=False)
    soft = torch.rand(pred.shape)
    for kwargs, message in (
        (dict(pred=pred[:, :1], target=target), "`pred` must have at least 2 classes.*num_classes=2"),
        (dict(pred=pred[0, 0, 0], target=target), "`pred` must be floating-point"),
        (dict(pred=pred.long(), target=target), "`pred` must be floating-point"),
        (dict(pred=pred, target=target[:, 0]), r"`target` must be of shape \(3, 4, 6\)"),
        (dict(pred=pred, target=target.double()), "`target` .* must hold integer labels, got torch.float64"),
        (dict(pred=pred, target=soft[:, :2]), "soft `target` must be of `pred`'s shape"),
        (dict(pred=pred, target=target, weight=torch.ones(4, 6)), "`weight` must be of shape"),
        (dict(pred=pred, target=target + classes - 2), rf"`target` must lie in \[0, {classes}\)"),
        (dict(pred=pred, target=target - 1), r"got -1\. Correct the labels"),
        (dict(pred=pred, target=target, reduction_override="avg"), "`reduction_override` must be one of"),
        (
            dict(pred=pred[:, :-1], target=target % (classes - 1)),
            f"`pred` has {classes - 1} classes, but `class_counts` has {classes} entries",
        ),
    ):
        with _raises(ValueError, message):
            loss(**kwargs)


@_check()
def _wrong_settings_are_named(subject: _Subject) -> None:
    for wrong, message in (
        (dict(class_counts=[3, -1, 2]), r"`class_counts` must not be negative, got \[3, -1, 2\]"),
        (dict(class_counts=[0, 0]), "`class_counts` must not be all zero"),
        (dict(class_counts=[1.5, 2]), "`class_counts` must be finite whole numbers"),
        (dict(class_counts=[float("nan"), 2]), "`class_counts` must be finite whole numbers"),
        (dict(class_counts=[[1, 2]]), "`class_counts` must be a sequence of at least two numbers"),
        (dict(class_counts="counts.txt"), "`class_counts` must be a sequence or a .json or .npy file"),
        (dict(class_counts="missing.json"), "which does not exist"),
        (dict(reduction="avg"), "`reduction` must be one of 'none', 'mean', 'sum', got 'avg'"),
        (dict(loss_weight=float("nan")), "`loss_weight` must be a finite number, got nan"),
    ):
        with _raises(ValueError, message):
            subject.cls(**{**subject.settings, **wrong})


@_check()
def _counts_must_fit_the_number_of_classes(subject: _Subject) -> None:
    loss, counts = subject.make(class_counts=None), subject.counts
    loss.allocate_class_counts(subject.num_classes)
    assert not loss.counted
    with _raises(ValueError, f"got {len(counts) + 1} entries for {len(counts)} classes"):
        loss.set_class_counts([*counts, 1])
    buffer = loss.class_counts
    loss.set_class_counts(np.array(counts), totals=torch.tensor(counts) * 2)
    assert loss.counted
    assert loss.class_counts is buffer, "must be filled in place: averaged and wrapped models hold the tensor"
    assert loss.class_totals.tolist() == [2 * count for count in counts]


@_check()
def _counts_are_read_from_files(subject: _Subject) -> None:
    counts = subject.counts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "list.json").write_text(str(counts))
        (folder / "object.json").write_text(f'{{"samples": {counts}, "images": {[1] * len(counts)}}}')
        np.save(folder / "array.npy", np.array(counts))
        for file in ("list.json", "object.json", "array.npy"):
            assert subject.make(class_counts=str(folder / file)).class_counts.tolist() == counts


@_check()
def _use_without_counts_says_what_to_do(subject: _Subject) -> None:
    loss = subject.make(class_counts=None)
    pred, target = subject.batch(ignored=False)
    if not loss.needs_counts:
        assert loss(pred, target).isfinite()
        return
    help_ = rf"`{subject.cls.__name__}` needs.*\n.*mmseol.ClassCountHook.*\n.*class_counts="
    for _ in range(2):
        with _raises(RuntimeError, help_):
            loss(pred, target)
        loss.allocate_class_counts(subject.num_classes)
