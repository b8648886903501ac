"""Samplers against the published formulas, loops over the labels and what they draw."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.distributed import run_ranks
from helpers.small_data import LabelDataset, seg_dataset, write_maps
from helpers.tiny_runner import TinyModel, outlying, tiny_runner
from mmengine.dataset import DefaultSampler, RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmseol.counting import image_classes
from mmseol.datasets import ImbalancedDataset
from mmseol.samplers import (
    ClassAwareSampler,
    DeferredSampler,
    EpochSampler,
    OverSampler,
    ProgressivelyBalancedSampler,
    RareClassSampler,
    UnderSampler,
)

K = 4
SIZES = [60, 25, 10, 5]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(K), SIZES)).tolist()
ODD = [0] * 51 + [1] * 25 + [3] * 5  # their number is odd, and so is that of an equal sample
EPOCHS = 200


@pytest.fixture(scope="module", autouse=True)
def _scope() -> Iterator[None]:
    """Build mmseg's LoadAnnotations, not mmcv's."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(scope="module")
def data() -> LabelDataset:
    return LabelDataset(LABELS)


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return seg_dataset(write_maps(tmp_path_factory.mktemp("maps"), 40))


def every_sampler(data: Any, maps: Any, **kwargs: Any) -> list[EpochSampler]:
    return [
        ClassAwareSampler(data, **kwargs),
        ClassAwareSampler(data, power=0.5, **kwargs),
        ProgressivelyBalancedSampler(data, max_epochs=EPOCHS, **kwargs),
        UnderSampler(data, **kwargs),
        OverSampler(data, **kwargs),
        RareClassSampler(maps, temperature=0.3, **kwargs),
    ]


def epochs(sampler: EpochSampler, number: int = EPOCHS) -> list[list[int]]:
    drawn = []
    for epoch in range(number):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


@pytest.mark.parametrize("power", [0, 0.5, 1, 2])
def test_classes_are_drawn_by_the_power_of_their_counts(data: LabelDataset, power: float) -> None:
    sampler = ClassAwareSampler(data, power, seed=0)
    total = sum(n**power for n in SIZES)
    expected = [n**power / total for n in SIZES]
    np.testing.assert_allclose(sampler.probabilities(), expected, rtol=1e-12)
    drawn = np.concatenate(epochs(sampler))
    assert len(drawn) == EPOCHS * 100
    share = np.bincount(np.array(LABELS)[drawn], minlength=K) / len(drawn)
    spread = np.sqrt(np.multiply(expected, np.subtract(1, expected)) / len(drawn))
    assert (np.abs(share - expected) < 4.5 * spread).all()


def test_images_of_a_class_come_up_in_turn(data: LabelDataset) -> None:
    for drawn in epochs(ClassAwareSampler(data, seed=1), 5):
        times = np.bincount(drawn, minlength=100)
        for c in range(K):
            assert np.ptp(times[np.array(LABELS) == c]) <= 1


def test_progressive_balance_is_the_published_mixture(data: LabelDataset) -> None:
    sampler = ProgressivelyBalancedSampler(data, max_epochs=10, seed=0)
    for epoch, t in ((0, 0.0), (3, 0.3), (10, 1.0), (25, 1.0)):
        expected = [(1 - t) * n / sum(SIZES) + t / K for n in SIZES]
        np.testing.assert_allclose(sampler.probabilities(epoch), expected, rtol=1e-12)
        sampler.set_epoch(epoch)
        np.testing.assert_allclose(sampler.expected_counts(), 100 * np.array(expected), rtol=1e-12)


def test_progressive_balance_changes_what_is_drawn(data: LabelDataset) -> None:
    sampler = ProgressivelyBalancedSampler(data, max_epochs=2, num_samples=20000, seed=0)
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        counts = np.bincount(np.array(LABELS)[list(sampler)], minlength=K)
        expected = np.array([(1 - epoch / 2) * n / 100 + epoch / 2 / K for n in SIZES])
        assert (np.abs(counts - 20000 * expected) < 4.5 * np.sqrt(20000 * expected * (1 - expected))).all()


def test_under_sampling_takes_the_rarest_classs_number(data: LabelDataset) -> None:
    sampler = UnderSampler(data, seed=0)
    drawn = epochs(sampler, 60)
    for epoch in drawn:
        assert len(epoch) == len(set(epoch)) == len(sampler) == 20
        assert Counter(LABELS[i] for i in epoch) == dict.fromkeys(range(K), 5)
    assert len(set(np.concatenate(drawn).tolist())) > 95  # each epoch draws others


def test_over_sampling_takes_every_image_and_as_many_of_each_class(data: LabelDataset) -> None:
    sampler = OverSampler(data, seed=0)
    for epoch in epochs(sampler, 3):
        times = np.bincount(epoch, minlength=100)
        assert len(epoch) == len(sampler) == 240
        assert Counter(LABELS[i] for i in epoch) == dict.fromkeys(range(K), 60)
        for c, size in enumerate(SIZES):
            assert set(times[np.array(LABELS) == c]) <= {60 // size, math.ceil(60 / size)}


def test_rare_classes_are_drawn_as_in_daformer(maps: Any) -> None:
    pixels = np.zeros(K)
    for i in range(len(maps)):
        labels = _labels(maps, i)
        for c in range(K):
            pixels[c] += (labels == c).sum()
    frequency = pixels / pixels.sum()
    for temperature in (0.01, 0.3, float("inf")):
        weights = [math.exp((1 - f) / temperature) for f in frequency]
        sampler = RareClassSampler(maps, temperature, seed=0)
        np.testing.assert_allclose(sampler.probabilities, np.divide(weights, sum(weights)), rtol=1e-9)


def _labels(maps: Any, index: int) -> np.ndarray:
    return maps.pipeline.transforms[1](maps.get_data_info(index))["gt_seg_map"]


def test_min_pixels_leaves_small_objects_out(maps: Any) -> None:
    sampler = RareClassSampler(maps, min_pixels=20, seed=0)
    for c, found in enumerate(sampler.by_class):
        assert found.tolist() == [i for i in range(40) if (_labels(maps, i) == c).sum() >= 20]
    drawn = set(np.concatenate(epochs(sampler, 20)).tolist())
    assert drawn <= set(np.concatenate(sampler.by_class).tolist())


def test_rare_images_come_more_often(maps: Any) -> None:
    contains = [set(found.tolist()) for found in image_classes(maps, K)]
    rarest = min(range(K), key=lambda c: sum(c in found for found in contains))
    sampler = RareClassSampler(maps, seed=0)
    share = np.mean([rarest in contains[i] for i in np.concatenate(epochs(sampler, 50))])
    assert share > 1.5 * np.mean([rarest in found for found in contains])


@pytest.mark.parametrize("which", range(6))
def test_expected_counts_are_the_mean_of_what_is_drawn(data: LabelDataset, maps: Any, which: int) -> None:
    sampler = every_sampler(data, maps, seed=3)[which]
    classes = image_classes(sampler.dataset, K)
    seen = np.zeros((EPOCHS, K))
    expected = np.zeros(K)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        expected += sampler.expected_counts() / EPOCHS
        seen[epoch] = np.bincount(np.concatenate([classes[i] for i in sampler]), minlength=K)
    spread = np.sqrt(sampler.total_size / 4 / EPOCHS)  # an upper bound: the variance of a fair coin
    tolerance = 1e-9 if isinstance(sampler, (UnderSampler, OverSampler)) else 4.5 * spread
    assert np.abs(seen.mean(0) - expected).max() <= tolerance


def test_expected_counts_of_a_class_in_a_single_image(tmp_path: Path) -> None:
    """Its image is drawn whenever the class is, so that the expected counts follow from the formula alone."""
    root = write_maps(tmp_path, 3)
    for i, labels in enumerate(([0, 0, 1], [0, 0, 0], [1, 1, 2])):  # class 2 in one image, class 3 in none
        Image.fromarray(np.array([labels] * 2, np.uint8)).save(root / "ann" / f"{i:03}.png")
    sampler = RareClassSampler(seg_dataset(root), temperature=float("inf"), seed=0)
    # Each class is drawn with 1/3, then one of its images: {0, 1}, {0, 2} or {2}.
    per_image = np.array([1 / 6 + 1 / 6, 1 / 6, 1 / 6 + 1 / 3])
    contains = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0]])
    np.testing.assert_allclose(sampler.expected_counts(), 3 * per_image @ contains)


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (ClassAwareSampler, dict(power=0.0, num_samples=None, seed=None)),
        (RareClassSampler, dict(temperature=0.01, min_pixels=1, ignore_index=255, seed=None)),  # DAFormer
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults(made: Any, defaults: dict[str, Any]) -> None:
    """A config that names no value keeps its data and its results with every version."""
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_orders_follow_from_seed_and_epoch(data: LabelDataset, maps: Any) -> None:
    for one, same, other in zip(*(every_sampler(data, maps, seed=seed) for seed in (5, 5, 6)), strict=True):
        assert epochs(one, 3) == epochs(same, 3)
        first, second, _ = epochs(one, 3)
        assert first != second
        assert epochs(other, 1)[0] != first
        assert epochs(one, 1)[0] == list(one) == first
        assert len(one) == len(first)


def test_deferred_samplers_draw_as_many_items(data: LabelDataset) -> None:
    with pytest.raises(ValueError, match=r"as many items an epoch as `first` \(100\), got 20"):
        DeferredSampler(data, begin=3, then=dict(type="mmseol.UnderSampler"))


def test_orders_of_one_seed_are_not_those_of_the_next(data: LabelDataset) -> None:
    first, second = (ClassAwareSampler(data, seed=seed) for seed in (0, 1))
    orders = [*epochs(first, 3), *epochs(second, 3)]
    assert len({tuple(order) for order in orders}) == 6


def test_classes_are_mixed_within_an_epoch(data: LabelDataset) -> None:
    """Batches of one class each would have the same counts over the epoch."""
    for sampler in (ClassAwareSampler(data, seed=0), UnderSampler(data, seed=0), OverSampler(data, seed=0)):
        drawn = np.concatenate([np.array(LABELS)[epoch] for epoch in epochs(sampler, 5)])
        assert np.mean(drawn[1:] == drawn[:-1]) < 0.4  # one in K = 4 by chance


def test_deferred_sampling_passes_the_epoch_and_the_seed_on(data: LabelDataset) -> None:
    sampler = DeferredSampler(data, begin=3, then=dict(type="mmseol.ClassAwareSampler"), seed=4)
    first, then = DefaultSampler(data, shuffle=True, seed=4), ClassAwareSampler(data, seed=4)
    for epoch in (0, 2, 3, 5):
        alone = first if epoch < 3 else then
        for each in (sampler, alone):
            each.set_epoch(epoch)
        assert list(sampler) == list(alone)


def test_the_first_sampler_is_one_of_the_same_data(data: LabelDataset) -> None:
    first = dict(type="mmseol.ClassAwareSampler", power=1.0)
    sampler = DeferredSampler(data, 1, dict(type="mmseol.ClassAwareSampler"), first=first, seed=4)
    alone = ClassAwareSampler(data, power=1.0, seed=4)
    assert list(sampler) == list(alone)
    sampler.set_epoch(1)
    alone.set_epoch(1)
    assert list(sampler) != list(alone)


def test_one_epoch_of_progressive_balance(data: LabelDataset) -> None:
    sampler = ProgressivelyBalancedSampler(data, max_epochs=1, seed=0)
    np.testing.assert_allclose(sampler.probabilities(0), np.array(SIZES) / sum(SIZES))
    np.testing.assert_allclose(sampler.probabilities(1), [1 / K] * K)


def test_skipping_begins_anywhere_in_the_stream_of_epochs(data: LabelDataset, maps: Any) -> None:
    deferred = DeferredSampler(data, begin=2, then={"type": "mmseol.ClassAwareSampler"}, seed=0)
    for sampler in [*every_sampler(data, maps, seed=0), deferred]:
        length = len(sampler)
        stream = [item for epoch in epochs(sampler, 4) for item in epoch]
        for skipped in (0, 3, length - 1, length, 2 * length + 5, 1):  # absolute, also when it goes back
            sampler.skip(skipped)
            seen = list(sampler)
            for epoch in range(1, 4 - skipped // length):  # as IterBasedTrainLoop counts them
                sampler.set_epoch(epoch)
                seen += sampler
            assert seen == stream[skipped:], type(sampler).__name__
        with pytest.raises(ValueError, match=r"`num_samples` must be a whole number of at least 0, got -1"):
            sampler.skip(-1)


@pytest.mark.parametrize("around", ["ImbalancedDataset", "RepeatDataset"])
def test_wrapped_data_sets(data: LabelDataset, around: str) -> None:
    wrapped = (
        RepeatDataset(data, 2) if around == "RepeatDataset" else ImbalancedDataset(data, counts=[10, 5, 2, 1])
    )
    labels = [wrapped.get_data_info(i)["gt_label"] for i in range(len(wrapped))]
    drawn = Counter(labels[i] for i in OverSampler(wrapped, seed=0))
    assert drawn == {c: max(Counter(labels).values()) for c in range(K)}


def test_a_class_without_images_is_left_out() -> None:
    data = LabelDataset([0] * 6 + [2] * 3 + [3])
    for sampler in (ClassAwareSampler(data, seed=0), UnderSampler(data, seed=0), OverSampler(data, seed=0)):
        assert sampler.expected_counts()[1] == 0
        assert set(sampler) <= set(range(10))
    np.testing.assert_allclose(ClassAwareSampler(data, seed=0).probabilities(), [1 / 3, 0, 1 / 3, 1 / 3])
    assert len(UnderSampler(data, seed=0)) == 3


def _share_of_rank(rank: int, root: Path) -> list[tuple[list[int], float]]:
    samplers = every_sampler(LabelDataset(ODD), seg_dataset(root))  # without a seed
    return [
        (list(sampler), len(sampler), sampler.seed, sampler.expected_counts().sum()) for sampler in samplers
    ]


def test_two_ranks_share_one_order(maps: Any) -> None:
    ranks = run_ranks(_share_of_rank, Path(maps.data_root))
    data = LabelDataset(ODD)
    for which, ((first, length, seed, expected), other) in enumerate(zip(*ranks, strict=True)):
        second = other[0]
        assert length == len(first) == len(second) == other[1]
        assert seed == other[2]
        assert expected == other[3]
        alone = every_sampler(data, maps, seed=seed)[which]
        whole = [index for pair in zip(first, second, strict=True) for index in pair]
        assert len(whole) - len(alone) in (0, 1)
        if len(whole) == len(alone):
            assert whole == list(alone)


def test_runners_build_and_advance_them(tmp_path: Path) -> None:
    for name in ("ClassAwareSampler", "UnderSampler", "OverSampler"):
        loader = Runner.build_dataloader(
            dict(
                batch_size=5, num_workers=0, dataset=LabelDataset(LABELS), sampler=dict(type=f"mmseol.{name}")
            ),
            seed=7,
        )
        assert loader.sampler.seed == 7
    with DefaultScope.overwrite_default_scope("mmengine"):
        runner = tiny_runner(tmp_path, TinyModel([outlying()], [outlying()]), epochs=3)
        sampler = dict(type="mmseol.ProgressivelyBalancedSampler", max_epochs=3)
        runner._train_dataloader = {**runner._train_dataloader, "sampler": sampler}
        runner.train()
    assert runner.train_dataloader.sampler.epoch == 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda data, maps: ClassAwareSampler(data, -1), ValueError, "`power` must be"),
        (lambda data, maps: ClassAwareSampler(data, float("nan")), ValueError, "`power` must be"),
        (lambda data, maps: ClassAwareSampler(data, num_samples=0), ValueError, "`num_samples` must be"),
        (lambda data, maps: ProgressivelyBalancedSampler(data, 0), ValueError, "`max_epochs` must be"),
        (lambda data, maps: RareClassSampler(maps, 0), ValueError, "`temperature` must be"),
        (lambda data, maps: RareClassSampler(maps, min_pixels=0), ValueError, "`min_pixels` must be"),
        (
            lambda data, maps: RareClassSampler(maps, min_pixels=10**6),
            ValueError,
            "`min_pixels` must be reached",
        ),
        (lambda data, maps: RareClassSampler(data), TypeError, "needs label maps.*take ClassAwareSampler"),
        (
            lambda data, maps: ClassAwareSampler(maps),
            TypeError,
            "ClassAwareSampler needs `gt_label`.*RareClass",
        ),
        (
            lambda data, maps: UnderSampler(data, shuffle=True),  # merged with a DefaultSampler
            TypeError,
            "`UnderSampler` has no argument `shuffle`.*previous sampler; add `_delete_=True`",
        ),
        (
            lambda data, maps: DeferredSampler(data, 3, {}, shuffle=True),
            TypeError,
            "`DeferredSampler` has no argument `shuffle`.*previous sampler",
        ),
        (lambda data, maps: OverSampler(LabelDataset([[0, 1]])), ValueError, "got 2 labels for item 0"),
        (lambda data, maps: OverSampler(LabelDataset([[0], []])), ValueError, "got 0 labels for item 1"),
        (
            lambda data, maps: DeferredSampler(data, -1, dict(type="mmseol.ClassAwareSampler")),
            ValueError,
            "`begin` must be .*got -1",
        ),
    ],
)
def test_errors(data: LabelDataset, maps: Any, make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(data, maps)
