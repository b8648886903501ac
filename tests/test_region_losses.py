"""Region losses against mmseg, scikit-learn and slow loops from the formula."""

import numpy as np
import pytest
import torch
from helpers.batches import IGNORE, batch, soft_labels
from helpers.distributed import run_ranks
from mmseg.models.losses import TverskyLoss as HostTversky
from sklearn.metrics import f1_score, jaccard_score

from mmseol.counting.counts import effective_number_weights
from mmseol.losses import DiceLoss, IoULoss, LovaszHingeLoss, LovaszSoftmaxLoss, TverskyLoss

K = 4
REGIONS = [DiceLoss, IoULoss, TverskyLoss, LovaszSoftmaxLoss, LovaszHingeLoss]
OVERLAPS = REGIONS[:3]


def batch_without(absent, shape=(3, 4, 5)):
    """Return a batch whose labels lack a class; ``None`` takes none away."""
    pred, target = batch(shape, K)
    if absent is not None:
        target[target == absent] = (absent + 1) % K
    return pred, target


def probabilities(pred):
    exp = np.exp(pred - pred.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def pixels(pred, target):
    """Yield probabilities or outputs, and label, of every valid pixel."""
    for n, *where in np.ndindex(*target.shape):
        if target[(n, *where)] != IGNORE:
            yield pred[(n, slice(None), *where)], int(target[(n, *where)])


def slow_overlap(pred, target, formula):
    """Return the mean of ``formula(p, t)`` over the classes present; p and t are lists over pixels."""
    losses = []
    for k in range(pred.shape[1]):
        rows = [(p[k], float(label == k)) for p, label in pixels(probabilities(pred), target)]
        if any(t for _, t in rows):
            losses.append(formula(rows))
    return sum(losses) / len(losses)


def dice(rows, power=2):
    sizes = sum(p**power for p, _ in rows) + sum(t**power for _, t in rows)
    return 1 - 2 * sum(p * t for p, t in rows) / sizes


def iou(rows):
    return 1 - sum(p * t for p, t in rows) / sum(p + t - p * t for p, t in rows)


def tversky(rows, alpha=0.3, beta=0.7):
    hit = sum(p * t for p, t in rows)
    false_positive, false_negative = sum(p * (1 - t) for p, t in rows), sum((1 - p) * t for p, t in rows)
    return 1 - hit / (hit + alpha * false_positive + beta * false_negative)


def jaccard_loss(truth, wrong):
    """Return 1 - |truth without the wrong| / |truth or wrong|, the set function that Lovász extends."""
    kept = sum(t and not w for t, w in zip(truth, wrong, strict=True))
    union = sum(t or w for t, w in zip(truth, wrong, strict=True))
    return 1 - kept / union if union else 0.0


def slow_lovasz(errors, truth):
    """Return Eq. (8): sum of errors, largest first, times what each adds to the Jaccard loss."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    wrong, before, total = [False] * len(errors), 0.0, 0.0
    for i in order:
        wrong[i] = True
        after = jaccard_loss(truth, wrong)
        total += errors[i] * (after - before)
        before = after
    return total


def slow_lovasz_softmax(pred, target):
    losses = []
    rows = list(pixels(probabilities(pred), target))
    for k in range(pred.shape[1]):
        truth = [label == k for _, label in rows]
        if any(truth):
            losses.append(slow_lovasz([abs((label == k) - p[k]) for p, label in rows], truth))
    return sum(losses) / len(losses)


def slow_lovasz_hinge(pred, target):
    losses = []
    rows = list(pixels(pred, target))
    for k in range(pred.shape[1]):
        truth = [label == k for _, label in rows]
        if any(truth):
            hinge = [max(0.0, 1 - (1 if label == k else -1) * z[k]) for z, label in rows]
            losses.append(slow_lovasz(hinge, truth))
    return sum(losses) / len(losses)


SLOW = [
    (DiceLoss(), lambda pred, target: slow_overlap(pred, target, dice)),
    (DiceLoss(power=1), lambda pred, target: slow_overlap(pred, target, lambda rows: dice(rows, 1))),
    (IoULoss(), lambda pred, target: slow_overlap(pred, target, iou)),
    (TverskyLoss(), lambda pred, target: slow_overlap(pred, target, tversky)),
    (TverskyLoss(0.9, 0.2), lambda pred, target: slow_overlap(pred, target, lambda r: tversky(r, 0.9, 0.2))),
    (LovaszSoftmaxLoss(), slow_lovasz_softmax),
    (LovaszHingeLoss(), slow_lovasz_hinge),
]


@pytest.mark.parametrize(("loss", "slow"), SLOW)
@pytest.mark.parametrize("absent", [None, 2])
def test_equals_slow_loop(loss, slow, absent):
    pred, target = batch_without(absent, (2, 3, 4))
    value = loss(pred, target, ignore_index=IGNORE)
    (grad,) = torch.autograd.grad(value, pred)
    array, labels = pred.detach().numpy(), target.numpy()
    np.testing.assert_allclose(value.item(), slow(array, labels), rtol=1e-12)
    for index in np.ndindex(*array.shape):
        moved = [array.copy(), array.copy()]
        moved[0][index] += 1e-6
        moved[1][index] -= 1e-6
        difference = (slow(moved[0], labels) - slow(moved[1], labels)) / 2e-6
        np.testing.assert_allclose(grad[index].item(), difference, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("loss", "slow"), SLOW)
@pytest.mark.parametrize(("classes", "shape"), [(2, (2, 3, 3)), (1000, (3,)), (3, (1, 1, 1))])
def test_few_pixels_and_any_number_of_classes(loss, slow, classes, shape):
    pred, target = batch(shape, classes, seed=1)
    target.view(-1)[0] = 1  # one valid pixel at least
    value = loss(pred, target, ignore_index=IGNORE)
    np.testing.assert_allclose(value.item(), slow(pred.detach().numpy(), target.numpy()), rtol=1e-12)
    assert torch.autograd.grad(value, pred)[0].isfinite().all()


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.5, 0.5)])
def test_tversky_equals_the_hosts(alpha, beta):
    pred, target = batch_without(1)
    host = HostTversky(smooth=1, alpha=alpha, beta=beta, ignore_index=IGNORE)
    ours = TverskyLoss(alpha, beta, smooth=1, classes="all", per_image=True, ignore_index=IGNORE)
    values = [loss(pred, target) for loss in (host, ours)]
    torch.testing.assert_close(*values, check_dtype=False)
    torch.testing.assert_close(*(torch.autograd.grad(value, pred)[0] for value in values))


def test_tversky_has_its_own_beta():
    counts = [9, 5, 3, 1]
    loss = TverskyLoss(0.2, 0.6, class_weight="effective_number", class_counts=counts, ignore_index=IGNORE)
    pred, target = batch((3, 4, 5), K)
    weight = loss.class_weight
    np.testing.assert_allclose(weight, effective_number_weights(counts, 0.9999))
    each = TverskyLoss(0.2, 0.6, reduction="none", ignore_index=IGNORE)(pred, target)
    torch.testing.assert_close(loss(pred, target), (each * weight).sum() / weight.sum())


def test_identities_of_tversky():
    pred, target = batch((3, 4, 5), K)
    soft = soft_labels(pred)
    for labels in (target, soft):
        for one, other in (
            (TverskyLoss(0.5, 0.5), DiceLoss(power=1)),
            (TverskyLoss(1, 1), IoULoss()),
            (TverskyLoss(1, 1, smooth=0.25), IoULoss(smooth=0.25)),
        ):
            torch.testing.assert_close(
                one(pred, labels, ignore_index=IGNORE), other(pred, labels, ignore_index=IGNORE)
            )


@pytest.mark.parametrize("cls", OVERLAPS)
def test_soft_labels(cls):
    pred, _ = batch((3, 4, 5), K)
    soft = soft_labels(pred)
    p, t = (
        array.swapaxes(0, 1).reshape(K, -1) for array in (probabilities(pred.detach().numpy()), soft.numpy())
    )
    formula = {DiceLoss: dice, IoULoss: iou, TverskyLoss: tversky}[cls]
    expected = np.mean([formula(list(zip(p[k], t[k], strict=True))) for k in range(K)])
    np.testing.assert_allclose(cls()(pred, soft).item(), expected, rtol=1e-12)


@pytest.mark.parametrize("cls", OVERLAPS)
def test_weight_of_soft_labels_repeats_the_pixel(cls):
    pred, _ = batch((1, 6), K)
    soft = soft_labels(pred)
    times = torch.tensor([1, 0, 2, 3, 1, 1])
    repeated = torch.arange(6).repeat_interleave(times)
    value = cls()(pred, soft, weight=times[None].double())
    torch.testing.assert_close(value, cls()(pred[..., repeated], soft[..., repeated]))


@pytest.mark.parametrize("cls", [*OVERLAPS, LovaszSoftmaxLoss])
def test_hard_outputs_give_one_minus_the_score_of_scikit_learn(cls):
    """At the vertices, outputs that are sure of one class, the losses are one minus the score."""
    generator = torch.Generator().manual_seed(2)
    target, guess = torch.randint(0, 5, (2, 300), generator=generator)
    scores = torch.nn.functional.one_hot(guess, 5).double()
    loss = cls(0.5, 0.5) if cls is TverskyLoss else cls()
    score = f1_score if cls in (DiceLoss, TverskyLoss) else jaccard_score
    expected = 1 - score(target.numpy(), guess.numpy(), average="macro")
    np.testing.assert_allclose(loss(scores * 1e4, target).item(), expected, rtol=1e-12)


def test_lovasz_hinge_of_hard_outputs():
    """Outputs of 1 and -1 have errors of 2 where wrong, else 0: twice one minus the IoU of scikit-learn."""
    target, guess = torch.randint(0, 5, (2, 300), generator=torch.Generator().manual_seed(2))
    outputs = 2 * torch.nn.functional.one_hot(guess, 5).double() - 1
    expected = 2 * (1 - jaccard_score(target.numpy(), guess.numpy(), average="macro"))
    np.testing.assert_allclose(LovaszHingeLoss()(outputs, target).item(), expected, rtol=1e-12)


def test_binary_lovasz_hinge_of_the_authors():
    """One output z, labels 0 and 1, mean over images: class 1 of the outputs (-z, z)."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (3, 12), generator=generator)
    target[1] = 0  # absent from an image, where the largest error counts
    target[2, :4] = IGNORE
    expected = 0.0
    for i in range(3):
        keep = target[i] != IGNORE
        signs = 2.0 * target[i][keep] - 1
        errors = (1 - z[i][keep] * signs).relu()  # errors below 0 add nothing in any order
        expected += slow_lovasz(errors.tolist(), (signs > 0).tolist()) / 3
    loss = LovaszHingeLoss(classes=[1], per_image=True)
    value = loss(torch.stack([-z, z], 1), target, ignore_index=IGNORE)
    np.testing.assert_allclose(value.item(), expected, rtol=1e-12)


@pytest.mark.parametrize("cls", REGIONS)
def test_per_image_is_the_mean_over_images_that_have_a_valid_pixel(cls):
    pred, target = batch_without(0)
    target[1] = IGNORE
    ones = [cls()(pred[i : i + 1], target[i : i + 1], ignore_index=IGNORE) for i in (0, 2)]
    loss = cls(per_image=True, ignore_index=IGNORE)
    torch.testing.assert_close(loss(pred, target), (ones[0] + ones[1]) / 2)
    each = loss(pred, target, reduction_override="none")
    assert each.shape == (3, K)
    assert each[1].eq(0).all()
    torch.testing.assert_close(loss(pred, target, reduction_override="sum"), each.sum())


@pytest.mark.parametrize("cls", REGIONS)
def test_reductions_over_classes(cls):
    pred, target = batch_without(2)
    loss = cls(ignore_index=IGNORE)
    each = loss(pred, target, reduction_override="none")
    assert each.shape == (K,)
    assert each.gt(0).tolist() == [True, True, False, True]
    torch.testing.assert_close(loss(pred, target, reduction_override="sum"), each.sum())
    torch.testing.assert_close(loss(pred, target), each.sum() / 3)
    torch.testing.assert_close(loss(pred, target, avg_factor=17), each.sum() / 3)  # ignored, as documented
    some = cls(classes=[0, 3], ignore_index=IGNORE)(pred, target)
    torch.testing.assert_close(some, (each[0] + each[3]) / 2)


@pytest.mark.parametrize("cls", REGIONS)
def test_class_weights_weigh_the_classes_present(cls):
    pred, target = batch_without(2)
    weight = torch.tensor([0.5, 2.0, 9.0, 1.0], dtype=torch.float64)
    each = cls(ignore_index=IGNORE, reduction="none")(pred, target)
    settings = dict(class_weight=weight.tolist(), ignore_index=IGNORE)
    torch.testing.assert_close(cls(**settings)(pred, target), (each * weight).sum() / 3.5)
    torch.testing.assert_close(cls(**settings, normalize="count")(pred, target), (each * weight).sum() / 3)


@pytest.mark.parametrize("cls", OVERLAPS)
def test_absent_classes_that_count(cls):
    pred, target = batch_without(2)
    plain = cls(ignore_index=IGNORE, reduction="none")(pred, target)
    torch.testing.assert_close(cls(classes="all", ignore_index=IGNORE)(pred, target), plain.sum() / K)
    smooth = cls(classes="all", smooth=1.0, ignore_index=IGNORE, reduction="none")(pred, target)
    p = pred.softmax(1)[:, 2][target != IGNORE]
    size = {DiceLoss: p.square().sum(), IoULoss: p.sum(), TverskyLoss: 0.3 * p.sum()}[cls]
    torch.testing.assert_close(smooth[2], 1 - 1 / (size + 1))
    pair = cls(smooth=(0, 1.0), ignore_index=IGNORE, reduction="none")(pred, target)
    assert (pair > cls(smooth=1.0, ignore_index=IGNORE, reduction="none")(pred, target))[[0, 1, 3]].all()


def test_absent_class_costs_lovasz_softmax_its_largest_probability():
    pred, target = batch_without(2)
    each = LovaszSoftmaxLoss(classes="all", ignore_index=IGNORE, reduction="none")(pred, target)
    torch.testing.assert_close(each[2], pred.softmax(1)[:, 2][target != IGNORE].max())


@pytest.mark.parametrize("cls", REGIONS)
def test_weights_count_pixels(cls):
    pred, target = batch((3, 6), K)
    loss = cls(ignore_index=IGNORE)
    weight = torch.randint(0, 3, target.shape, generator=torch.Generator().manual_seed(9))
    times = weight.flatten()
    flat = pred.movedim(1, -1).reshape(-1, K).repeat_interleave(times, 0)
    expected = loss(flat, target.flatten().repeat_interleave(times))
    torch.testing.assert_close(loss(pred, target, weight=weight), expected)
    without = torch.where(weight > 0, target, IGNORE)
    torch.testing.assert_close(loss(pred, target, weight=(weight > 0).double()), loss(pred, without))
    per_sample = torch.tensor([1.0, 0.0, 2.5])
    torch.testing.assert_close(
        loss(pred, target, weight=per_sample), loss(pred, target, weight=per_sample.view(3, 1).expand(3, 6))
    )


@pytest.mark.parametrize("cls", REGIONS)
def test_float32_keeps_sums_over_large_maps(cls):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(2, 3, 300, 300, generator=generator)
    target = torch.randint(0, 3, (2, 300, 300), generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        outputs = pred.to(dtype).requires_grad_()
        value = cls()(outputs, target)
        results.append((value, torch.autograd.grad(value, outputs)[0]))
    (value, grad), (exact, exact_grad) = results
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(
        grad.double(), exact_grad, rtol=1e-3, atol=float(exact_grad.abs().max()) * 1e-4
    )


@pytest.mark.parametrize(
    ("cls", "per_image"),
    # A Lovász loss sorts the pixels of its own rank: one process does the same only image by image.
    [*((cls, True) for cls in REGIONS), *((cls, False) for cls in OVERLAPS)],
)
def test_two_ranks_equal_one_process(cls, per_image):
    settings = dict(per_image=per_image, sync_avg_factor=True, ignore_index=IGNORE, class_weight=[1, 2, 3, 4])
    pred, target = batch_without(1, (5, 3, 4))
    target[0, 0, 0] = 1  # a class that one rank alone sees
    target[4] = IGNORE
    value = cls(**settings)(pred, target)
    (grad,) = torch.autograd.grad(value, pred)
    results = run_ranks(on_rank, cls, settings, pred.detach(), target)
    values = torch.tensor([result[0] for result in results], dtype=torch.float64)
    torch.testing.assert_close(values.mean(), value.detach(), rtol=1e-12, atol=0)
    if not per_image:
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=0)
    grads = torch.cat([torch.from_numpy(result[1]) for result in results]) / 2  # averaged over ranks
    torch.testing.assert_close(grads, grad, rtol=1e-10, atol=1e-14)


def on_rank(rank, cls, settings, pred, target):
    mine = slice(0, 3) if rank == 0 else slice(3, 5)
    outputs = pred[mine].clone().requires_grad_()
    value = cls(**settings)(outputs, target[mine])
    value.backward()
    return value.item(), outputs.grad.numpy()


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (DiceLoss, dict(power=3), "`power` must be 1 or 2, got 3"),
        (DiceLoss, dict(smooth=-1), "`smooth` must be a finite number of at least 0, got -1"),
        (
            DiceLoss,
            dict(smooth=(1, 2, 3)),
            r"`smooth` must be a number or two, none negative, got \(1, 2, 3\)",
        ),
        (IoULoss, dict(smooth="1"), "`smooth` must be a finite number of at least 0, got '1'"),
        (TverskyLoss, dict(alpha=-0.1), "`alpha` must be a finite number of at least 0, got -0.1"),
        (TverskyLoss, dict(beta=-0.1), "`beta` must be a finite number of at least 0, got -0.1"),
        (TverskyLoss, dict(alpha=0, beta=0), "nor both 0, got alpha=0, beta=0"),
        *(
            (cls, dict(classes=classes), "`classes` must be 'present', 'all' or different classes as numbers")
            for cls in REGIONS
            for classes in ("some", [], [1, 1], [-1], [0.5], 3)
        ),
    ],
)
def test_wrong_settings_are_named(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)


@pytest.mark.parametrize("cls", REGIONS)
def test_classes_that_the_outputs_lack_are_named(cls):
    pred, target = batch((3, 4, 5), K)
    with pytest.raises(ValueError, match=r"`classes` must lie in \[0, 4\), the classes of `pred`, got 4"):
        cls(classes=[0, 4])(pred, target, ignore_index=IGNORE)
