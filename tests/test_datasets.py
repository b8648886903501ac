"""Wrappers around data sets of both hosts, composed with the hosts' own wrappers."""

from __future__ import annotations

import inspect
import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.distributed import run_ranks
from helpers.small_data import (
    FourClassDataset,
    LabelDataset,
    seg_config,
    seg_dataset,
    write_images,
    write_maps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS as ROOT
from mmengine.registry import DefaultScope
from mmpretrain.datasets import BaseDataset as ClsDataset
from mmseg.datasets import MultiImageMixDataset as Mosaic
from sklearn.model_selection import StratifiedKFold as SklearnKFold
from torch.utils.data import DataLoader

from mmseol.counting import count_dataset, image_classes
from mmseol.datasets import (
    HoldOut,
    ImbalancedDataset,
    RepeatRareDataset,
    StratifiedHoldOut,
    StratifiedKFold,
    SubsetDataset,
)
from mmseol.datasets.imbalance import kept_indices
from mmseol.datasets.repeat_rare import repeat_factors
from mmseol.datasets.stratify import held_out, stratified_parts

K = 4
BALANCED = [c for c in range(K) for _ in range(20)]


@ROOT.register_module()
class MmseolTestLabels(ClsDataset):
    """Images of mmpretrain's kind, without files; the pipeline returns the record."""

    METAINFO = {"classes": ("a", "b", "c", "d")}  # noqa: RUF012

    def __init__(self, labels: list[int], **kwargs: Any) -> None:
        self.labels = labels
        # Serialising collects garbage, which takes half a second in a process as large as this one.
        super().__init__(ann_file="", **{"serialize_data": False, **kwargs})

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": f"{i}.jpg", "gt_label": label} for i, label in enumerate(self.labels)]


def labels_dataset(labels: list[int] = BALANCED, **kwargs: Any) -> MmseolTestLabels:
    return MmseolTestLabels(labels, **kwargs)


def config(labels: list[int] = BALANCED, **kwargs: Any) -> dict[str, Any]:
    return {"type": "MmseolTestLabels", "labels": labels, **kwargs}


def counts(dataset: Any) -> list[int]:
    return count_dataset(dataset, K).samples.tolist()


def paths(dataset: Any) -> list[str]:
    return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]


@pytest.fixture(scope="module", autouse=True)
def _scope() -> Iterator[None]:
    """Build mmseg's LoadAnnotations, not mmcv's."""
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_maps(tmp_path_factory.mktemp("maps"), 40)


def test_what_an_imbalanced_data_set_holds() -> None:
    dataset = ImbalancedDataset(labels_dataset(), ratio=10, seed=1)
    kept = kept_indices(BALANCED, [20, 9, 4, 2], 1)
    assert dataset.indices.tolist() == kept.tolist()
    assert paths(dataset) == [f"{i}.jpg" for i in kept]
    assert dataset.get_gt_labels().tolist() == [BALANCED[i] for i in kept]
    assert [dataset.get_cat_ids(i) for i in range(len(dataset))] == [[BALANCED[i]] for i in kept]
    assert [dataset[i]["gt_label"] for i in range(len(dataset))] == dataset.get_gt_labels().tolist()
    assert dataset.get_data_info(-1)["sample_idx"] == len(dataset) - 1
    assert dataset.get_data_info(0)["sample_idx"] == 0
    assert dataset.CLASSES == dataset.metainfo["classes"] == ("a", "b", "c", "d")
    assert repr(dataset) == "ImbalancedDataset(MmseolTestLabels, 35 of 80 items)"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (dict(ratio=10), [20, 9, 4, 2]),
        (dict(ratio=10, n_max=10), [10, 4, 2, 1]),
        (dict(profile="step", ratio=10), [20, 20, 2, 2]),
        (dict(ratio=10, class_order=[3, 2, 1, 0]), [2, 4, 9, 20]),
        (dict(counts=[1, 2, 3, 20]), [1, 2, 3, 20]),
        (dict(ratio=10, protocol="cao2019"), [20, 9, 4, 2]),
    ],
)
def test_profiles(arguments: dict[str, Any], expected: list[int]) -> None:
    dataset = ROOT.build({"type": "mmseol.ImbalancedDataset", "dataset": config(), **arguments})
    assert counts(dataset) == expected
    expected_indices = kept_indices(BALANCED, expected, 0, arguments.get("protocol"))
    assert dataset.indices.tolist() == expected_indices.tolist()


# How each wrapper of the hosts is put around a data set.
AROUND = {
    "RepeatDataset": lambda inner: {"type": "RepeatDataset", "dataset": inner, "times": 2},
    "ConcatDataset": lambda inner: {"type": "ConcatDataset", "datasets": [inner, inner]},
    "ClassBalancedDataset": lambda inner: {
        "type": "ClassBalancedDataset",
        "dataset": inner,
        "oversample_thr": 1e-9,
    },
    "KFoldDataset": lambda inner: {
        "type": "mmpretrain.KFoldDataset",
        "dataset": inner,
        "num_splits": 2,
        "seed": 0,
    },
    "HoldOut": lambda inner: {"type": "mmseol.HoldOut", "dataset": inner, "per_class": 1},
    "ImbalancedDataset": lambda inner: {"type": "mmseol.ImbalancedDataset", "dataset": inner, "ratio": 2},
    "StratifiedHoldOut": lambda inner: {
        "type": "mmseol.StratifiedHoldOut",
        "dataset": inner,
        "fraction": 0.5,
    },
    "StratifiedKFold": lambda inner: {"type": "mmseol.StratifiedKFold", "dataset": inner, "num_folds": 2},
    "RepeatRareDataset": lambda inner: {"type": "mmseol.RepeatRareDataset", "dataset": inner},
}
OURS = ["HoldOut", "ImbalancedDataset", "StratifiedHoldOut", "StratifiedKFold", "RepeatRareDataset"]
COMPOSED = [(a, b) for a in AROUND for b in AROUND if a in OURS or b in OURS]
# mmengine's ClassBalancedDataset needs `get_cat_ids`, its KFold `get_subset`: its own wrappers lack them too.
LACKING = {
    ("ClassBalancedDataset", "RepeatDataset"),
    ("ClassBalancedDataset", "ConcatDataset"),
    ("KFoldDataset", "RepeatRareDataset"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("outer", "inner"), [pair for pair in COMPOSED if pair not in LACKING])
def test_wrappers_compose(outer: str, inner: str, lazy: bool) -> None:
    wrapped = AROUND[inner](config(lazy_init=lazy))
    if lazy and inner != "KFoldDataset":
        wrapped["lazy_init"] = True
    dataset = ROOT.build(AROUND[outer](wrapped))
    dataset.full_init()
    read = [dataset[i]["gt_label"] for i in range(len(dataset))]
    assert read
    assert read == [dataset.get_data_info(i)["gt_label"] for i in range(len(dataset))]
    assert counts(dataset) == np.bincount(read, minlength=K).tolist()
    assert dataset.metainfo["classes"] == ("a", "b", "c", "d")
    again = pickle.loads(pickle.dumps(dataset))
    assert [again[i]["gt_label"] for i in range(len(again))] == read


@pytest.mark.parametrize("outer", ["RepeatDataset", "ConcatDataset", "ClassBalancedDataset", *OURS])
def test_host_wrappers_take_instances(outer: str) -> None:
    inner = ImbalancedDataset(labels_dataset(), ratio=4)
    dataset = ROOT.build(AROUND[outer](inner))
    assert set(paths(dataset)) <= set(paths(inner))


def test_repetitions_and_orders_are_kept() -> None:
    inner = ImbalancedDataset(labels_dataset(), counts=[1, 2, 3, 4])
    assert paths(RepeatDataset(inner, 2)) == 2 * paths(inner)
    assert paths(ConcatDataset([inner, inner])) == 2 * paths(inner)
    outside = ImbalancedDataset(RepeatDataset(labels_dataset(), 2), counts=[40, 1, 1, 1])
    assert counts(outside) == [40, 1, 1, 1]
    assert ClassBalancedDataset(inner, 1e-9).repeat_indices == list(range(10))


def test_nothing_is_read_before_full_init() -> None:
    class Unread(MmseolTestLabels):
        def load_data_list(self) -> list[dict[str, Any]]:
            raise RuntimeError("read")

    lazy = ImbalancedDataset(HoldOut(Unread(BALANCED, lazy_init=True), lazy_init=True), lazy_init=True)
    assert lazy.metainfo["classes"] == ("a", "b", "c", "d")
    assert "not initialised" in repr(lazy)
    for read in (lazy.full_init, lambda: len(lazy), lambda: lazy.get_data_info(0), lazy.get_gt_labels):
        with pytest.raises(RuntimeError, match="read"):
            read()
    late = ImbalancedDataset(config(lazy_init=True), ratio=4, lazy_init=True)
    assert len(late) == len(ImbalancedDataset(config(), ratio=4))


def test_workers_get_the_same_items() -> None:
    dataset = ImbalancedDataset(labels_dataset(), ratio=4)
    assert paths(ImbalancedDataset(labels_dataset(serialize_data=True), ratio=4)) == paths(dataset)
    loader = DataLoader(dataset, 4, num_workers=1, collate_fn=list, multiprocessing_context="fork")
    assert [item["img_path"] for batch in loader for item in batch] == paths(dataset)


@pytest.mark.parametrize("around", [None, *AROUND])
def test_a_rejected_image_is_replaced_by_one_of_the_part(around: str | None) -> None:
    # A BaseDataset whose pipeline returns None draws another of its items, which may have been left out.
    inner = labels_dataset(pipeline=[lambda info: None if int(info["img_path"][:-4]) % 3 else info])
    inside = (
        inner
        if around is None
        else ROOT.build(AROUND[around](config() if around == "KFoldDataset" else inner))
    )
    if around == "KFoldDataset":
        inside.dataset.pipeline = inner.pipeline
    part = HoldOut(inside, per_class=4, side="val")
    allowed = set(paths(part))
    found = {part[i]["img_path"] for _ in range(5) for i in range(len(part))}
    assert found
    assert found <= allowed


class MultiImageMixDataset:
    """Serves samples of its own, as mmseg's data set of this name does."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.metainfo = dataset, dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        return self.dataset.get_data_info(idx)

    def __getitem__(self, idx: int) -> str:
        return f"mosaic {idx}"


def test_samples_of_a_mosaic_stay_mosaics() -> None:
    """Labels are looked up inside of a mosaic, samples are not."""
    inner = labels_dataset()
    part = HoldOut(MultiImageMixDataset(inner), per_class=1, side="val")
    assert part.get_gt_labels().tolist() == HoldOut(inner, per_class=1, side="val").get_gt_labels().tolist()
    assert [part[i] for i in range(len(part))] == [f"mosaic {index}" for index in part.indices]


def test_samples_of_a_part_of_a_part_are_its_own() -> None:
    class Marked(HoldOut):
        def prepare_data(self, idx: int) -> Any:
            return {**super().prepare_data(idx), "marked": idx}

    inner = Marked(labels_dataset(), per_class=4, side="val")
    part = ImbalancedDataset(inner, ratio=1)
    assert [part[i]["marked"] for i in range(3)] == [0, 1, 2]


def test_a_test_set_does_not_replace_images() -> None:
    part = HoldOut(labels_dataset(pipeline=[lambda info: None], test_mode=True), side="val")
    with pytest.raises(Exception, match="Test time pip"):
        part[0]


def test_subsets_of_a_part() -> None:
    part = ImbalancedDataset(labels_dataset(), ratio=4)
    names = paths(part)
    assert paths(part.get_subset([3, 0, -1])) == [names[3], names[0], names[-1]]
    assert paths(part.get_subset(5)) == names[:5]
    assert paths(part.get_subset(-5)) == names[-5:]
    assert paths(part.get_subset(0)) == []
    assert paths(part.get_subset([])) == []
    assert paths(part) == names
    part.get_subset_(2)
    assert paths(part) == names[:2]


def test_kept_indices_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    arguments = dict(dataset=labels_dataset(), ratio=4, class_order=(3, 2, 1, 0), indices_file=path)
    first = ImbalancedDataset(**arguments)
    content = json.loads(path.read_text())
    assert content["indices"] == first.indices.tolist()
    assert content["sha256"] == first.digest
    written = path.stat().st_mtime_ns
    assert ImbalancedDataset(**arguments).digest == first.digest
    assert path.stat().st_mtime_ns == written
    for changed in (dict(seed=1), dict(ratio=5), dict(protocol="cao2019"), dict(class_order=None)):
        with pytest.raises(ValueError, match="must have been written for this data set and these settings"):
            ImbalancedDataset(**{**arguments, **changed})
    with pytest.raises(ValueError, match="got length 80 in the file"):
        ImbalancedDataset(**{**arguments, "dataset": labels_dataset(BALANCED[::2])})
    content["indices"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it was changed after it was written"):
        ImbalancedDataset(**arguments)


def _digest_of_rank(rank: int, path: Path) -> tuple[str, bool]:
    dataset = ImbalancedDataset(labels_dataset(), ratio=4, indices_file=path / f"{rank}.json")
    return dataset.digest, (path / f"{rank}.json").exists()


def test_only_the_first_rank_writes(tmp_path: Path) -> None:
    (first, wrote), (second, wrote_too) = run_ranks(_digest_of_rank, tmp_path)
    assert first == second
    assert (wrote, wrote_too) == (True, False)


def test_food_101_lt_as_in_the_paper() -> None:
    class Food(LabelDataset):
        METAINFO = {"classes": tuple(map(str, range(101)))}  # noqa: RUF012

        def get_gt_labels(self) -> list[int]:
            return self.labels

    food = Food([c for c in range(101) for _ in range(750)], serialize_data=False)
    rest, held = HoldOut(food, per_class=50), HoldOut(food, per_class=50, side="val")
    cut = ImbalancedDataset(rest, ratio=100)
    assert (len(held), len(cut)) == (5050, 15359)
    assert set(rest.indices[cut.indices]).isdisjoint(held.indices)
    after = HoldOut(ImbalancedDataset(food, ratio=100), per_class=5)
    assert count_dataset(after, 101).samples[[0, -1]].tolist() == [745, 2]


sides = st.lists(st.integers(0, K - 1), min_size=30, max_size=60).filter(
    lambda labels: np.bincount(labels, minlength=K).min() > 3
)


@settings(max_examples=40)
@given(sides, st.integers(0, 100), st.sampled_from(["count", "share", "fold"]))
def test_two_sides_share_nothing_and_are_everything(labels: list[int], seed: int, kind: str) -> None:
    data = LabelDataset(labels, serialize_data=False)
    make = {
        "count": lambda side: HoldOut(data, 3, side, seed),
        "share": lambda side: StratifiedHoldOut(data, 0.4, side, seed),
        "fold": lambda side: StratifiedKFold(data, 1, 3, side, seed),
    }[kind]
    train, val = make("train"), make("val")
    assert sorted([*train.indices, *val.indices]) == list(range(len(labels)))
    if kind == "count":
        assert counts(val) == [3] * K
    if kind == "share":
        wanted = 0.4 * np.bincount(labels, minlength=K)
        assert np.abs(counts(val) - wanted).max() < 1


@settings(max_examples=40)
@given(sides, st.integers(2, 4), st.integers(0, 9))
def test_folds_are_as_even_as_scikit_learns(labels: list[int], num_folds: int, seed: int) -> None:
    data = LabelDataset(labels, serialize_data=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds = [StratifiedKFold(data, fold, num_folds, "val", seed).indices for fold in range(num_folds)]
        theirs = [fold for _, fold in SklearnKFold(num_folds).split(labels, labels)]
    assert sorted(np.concatenate(folds)) == list(range(len(labels)))
    for c in range(K):
        ours = sorted(np.sum(np.array(labels)[fold] == c) for fold in folds)
        assert ours == sorted(np.sum(np.array(labels)[fold] == c) for fold in theirs)
    assert np.ptp([len(fold) for fold in folds]) <= 1


def test_every_item_is_held_out_as_often() -> None:
    data = LabelDataset(BALANCED)
    for make in (
        lambda seed: HoldOut(data, 5, "val", seed),
        lambda seed: StratifiedHoldOut(data, 0.25, "val", seed),
    ):
        times = np.bincount(np.concatenate([make(seed).indices for seed in range(400)]), minlength=80)
        assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_segmentation_is_split_by_the_classes_in_the_images(maps: Path) -> None:
    whole = seg_dataset(maps)
    arguments = {"type": "mmseol.StratifiedHoldOut", "dataset": seg_config(maps), "fraction": 0.25}
    arguments["dataset"]["type"] = "FourClassDataset"
    train, val = (ROOT.build({**arguments, "side": side}) for side in ("train", "val"))
    assert sorted([*train.indices, *val.indices]) == list(range(40))
    images = count_dataset(whole, K).images
    assert (count_dataset(train, K) + count_dataset(val, K)) == count_dataset(whole, K)
    assert np.abs(count_dataset(val, K).images - images / 4).max() <= 1.5
    folds = [StratifiedKFold(whole, fold, 4, "val") for fold in range(4)]
    assert sorted(np.concatenate([fold.indices for fold in folds])) == list(range(40))
    spread = np.array([count_dataset(fold, K).images for fold in folds])
    assert np.abs(spread - images / 4).max() <= 2


def test_iterative_stratification_beats_chance_on_rare_classes() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((200, 6)) < [0.9, 0.7, 0.4, 0.15, 0.06, 0.03]
    classes = [np.flatnonzero(row) for row in present]
    parts = stratified_parts(classes, 6, [0.8, 0.2], seed=0)
    wanted = 0.2 * present.sum(0)
    ours = np.abs(present[parts == 1].sum(0) - wanted)
    chance = [np.abs(present[rng.permutation(200)[:40]].sum(0) - wanted) for _ in range(200)]
    assert ours.max() <= 2
    assert abs((parts == 1).sum() - 40) <= 2
    assert ours.sum() < np.percentile(np.sum(chance, axis=1), 5)
    assert (parts == stratified_parts(classes, 6, [0.8, 0.2], seed=0)).all()
    assert (parts != stratified_parts(classes, 6, [0.8, 0.2], seed=1)).any()


class Mark:
    """Transform of a mosaic that marks what it has seen."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, "mixed": True}


def test_a_part_of_a_mosaic_serves_mixed_images(maps: Path) -> None:
    write_images(maps, 40)
    mosaic = Mosaic({"type": FourClassDataset, **seg_config(maps)}, pipeline=[{"type": Mark}])
    part = StratifiedHoldOut(mosaic, 0.25, side="val")
    assert part[0]["mixed"]
    assert part[0]["img_path"] == mosaic.dataset.get_data_info(int(part.indices[0]))["img_path"]


def test_items_without_a_class_are_dealt_out_too() -> None:
    parts = stratified_parts([[]] * 10 + [[0], [1]], 2, [0.5, 0.5])
    assert np.bincount(parts).tolist() == [6, 6]


def test_only_the_fold_that_lacks_a_class_warns() -> None:
    dataset = LabelDataset([0] * 30 + [1] * 30 + [2] * 2 + [3] * 30)
    seen: dict[bool, list[int]] = {True: [], False: []}
    for fold in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            part = StratifiedKFold(dataset, fold=fold, num_folds=3, side="val")
        seen[2 in part.get_gt_labels()].append(len(caught))
    assert seen == {True: [0, 0], False: [1]}


def test_a_class_that_only_one_side_gets_is_named() -> None:
    with pytest.warns(UserWarning, match=r"both sides: d \(1 train, 0 val\)\."):
        StratifiedHoldOut(LabelDataset([0, 1, 2] * 10 + [3]), 0.2)


def host_repetitions(classes: list[np.ndarray], threshold: float) -> list[int]:
    """Return how often mmengine's own code repeats each item."""
    dataset = LabelDataset([item.tolist() for item in classes])
    return np.bincount(
        ClassBalancedDataset(dataset, threshold).repeat_indices, minlength=len(classes)
    ).tolist()


def test_one_item_of_each_class_on_a_side_is_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        part = StratifiedHoldOut(LabelDataset([0, 1, 2, 3] * 4), 0.25, side="val")
    assert sorted(part.get_gt_labels()) == [0, 1, 2, 3]


def test_repeat_factors_are_those_of_mmengine(maps: Path) -> None:
    whole = seg_dataset(maps)
    classes = image_classes(whole, K)
    for threshold in (0.2, 0.5, 1.0):
        repeated = RepeatRareDataset(whole, threshold, seed=None)
        times = np.bincount(repeated.repeat_indices, minlength=40).tolist()
        assert times == host_repetitions(classes, threshold)
    assert len(RepeatRareDataset(whole, 1.0, seed=None)) > 40


def test_factors_are_rounded_at_random_to_their_mean(maps: Path) -> None:
    whole = seg_dataset(maps)
    factors = repeat_factors(image_classes(whole, K), K, 0.9)
    assert ((factors % 1) > 0).any()
    runs = [
        np.bincount(RepeatRareDataset(whole, 0.9, seed=seed).repeat_indices, minlength=40)
        for seed in range(60)
    ]
    assert all(((run == np.floor(factors)) | (run == np.ceil(factors))).all() for run in runs)
    deviation = np.sqrt((factors % 1 * (1 - factors % 1)).sum() / 60)
    assert abs(np.mean([run.sum() for run in runs]) - factors.sum()) < 5 * deviation


def test_repeating_needs_no_decoding_twice(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = seg_dataset(maps)
    first = RepeatRareDataset(whole).repeat_indices
    monkeypatch.setattr("mmseol.counting.label_maps._Job.__call__", None)
    assert RepeatRareDataset(whole, seed=0).repeat_indices == first  # the default seed
    assert RepeatRareDataset(whole, seed=1).repeat_indices != first


def test_counting_sees_the_repetitions(maps: Path) -> None:
    repeated = RepeatRareDataset(StratifiedHoldOut(seg_dataset(maps), 0.25), 1.0)
    expected = np.zeros(K, dtype=np.int64)
    for i in range(len(repeated)):
        item = repeated.repeat_indices[i]
        expected[image_classes(repeated.dataset, K)[item]] += 1
    assert count_dataset(repeated, K).images.tolist() == expected.tolist()


class Unnamed(LabelDataset):
    METAINFO = {}  # noqa: RUF012


class Unlabelled(LabelDataset):
    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": "0.jpg"}] * len(self.labels)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: HoldOut(LabelDataset([0, 0, 1, 1, 1]), 2),
            ValueError,
            r"got 2 of class 0 \(a\), which has 2",
        ),
        (lambda: HoldOut(LabelDataset(BALANCED), 0), ValueError, "`per_class` must be"),
        (lambda: HoldOut(LabelDataset(BALANCED), side="test"), ValueError, "`side` must be .*, got 'test'"),
        (
            lambda: HoldOut(Unlabelled(BALANCED)),
            TypeError,
            "needs `gt_label`.*Give the data set its annotations",
        ),
        (lambda: StratifiedHoldOut(Unlabelled(BALANCED)), TypeError, "`gt_label`"),
        (lambda: HoldOut(Unnamed(BALANCED)), ValueError, r"metainfo=dict\(classes"),
        (lambda: HoldOut(LabelDataset([[0, 1], [1]])), ValueError, "got 2 labels for item 0"),
        (lambda: HoldOut(LabelDataset([0, 4])), ValueError, "has the label 4"),
        (lambda: HoldOut(BALANCED), TypeError, "`dataset` must be a config or a data set .* got list"),
        (lambda: ImbalancedDataset(LabelDataset([0, 1, 2]), ratio=1), ValueError, r"got 0 for class 0 \(a\)"),
        (
            lambda: ImbalancedDataset(LabelDataset(BALANCED), ratio=100),
            ValueError,
            r"got 0 for class 2 \(c\)",
        ),
        (lambda: ImbalancedDataset(LabelDataset(BALANCED), ratio=0.1), ValueError, "`ratio` must be"),
        (lambda: ImbalancedDataset(LabelDataset(BALANCED), counts=[1, 2]), ValueError, "2 entries for 4"),
        (
            lambda: ImbalancedDataset(LabelDataset(BALANCED), counts=[1] * 4, n_max=1),
            ValueError,
            "stand alone",
        ),
        (lambda: StratifiedHoldOut(LabelDataset(BALANCED), 1.0), ValueError, "`fraction` must be"),
        (
            lambda: StratifiedKFold(LabelDataset(BALANCED), 5, 5),
            ValueError,
            "`fold` must be .* below 5",
        ),
        (lambda: StratifiedKFold(LabelDataset(BALANCED), 0, 1), ValueError, "`num_folds` must be"),
        (lambda: StratifiedKFold(LabelDataset([0, 1, 2]), 0, 5), ValueError, "5 folds of 3 items"),
        (
            lambda: RepeatRareDataset(LabelDataset(BALANCED), data_prefix="train"),
            TypeError,
            "`RepeatRareDataset` has no argument `data_prefix`.*previous dataset; add `_delete_=True`",
        ),
        (
            lambda: ImbalancedDataset(LabelDataset(BALANCED), ration=10),
            TypeError,
            "no argument `ration`. Did you mean `ratio`",
        ),
        (lambda: RepeatRareDataset(LabelDataset(BALANCED), 0.0), ValueError, "`threshold` must be"),
    ],
)
def test_errors(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_segmentation_has_no_class_per_image(maps: Path) -> None:
    for make in (HoldOut, ImbalancedDataset):
        with pytest.raises(TypeError, match=r"needs `gt_label`.*for segmentation take StratifiedHoldOut"):
            make(seg_dataset(maps))


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (HoldOut, dict(per_class=5, side="train", seed=0, lazy_init=False)),  # Kato & Hotta, sec. 4.1
        (ImbalancedDataset, dict(profile="long_tailed", ratio=100, seed=0, protocol=None, lazy_init=False)),
        (StratifiedHoldOut, dict(fraction=0.1, side="train", seed=0, ignore_index=255, lazy_init=False)),
        (StratifiedKFold, dict(fold=0, num_folds=5, side="train", seed=0, ignore_index=255, lazy_init=False)),
        (RepeatRareDataset, dict(threshold=0.5, seed=0, ignore_index=255, lazy_init=False)),
        (kept_indices, dict(seed=0, protocol=None)),
        (held_out, dict(seed=0)),
        (stratified_parts, dict(seed=0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_defaults(made: Any, defaults: dict[str, Any]) -> None:
    """A config that names no value keeps its data and its results with every version."""
    parameters = inspect.signature(made).parameters
    assert {name: parameters[name].default for name in defaults} == defaults


def test_the_base_class_cannot_be_mistaken_for_a_wrapper() -> None:
    with pytest.raises(KeyError):
        ROOT.build({"type": "mmseol.SubsetDataset", "dataset": config()})
    assert issubclass(ImbalancedDataset, SubsetDataset)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]])
def test_items_of_one_class_are_halved_whichever_class_is_rarest(order: list[int]) -> None:
    labels = np.repeat(order, [8, 4, 2])
    parts = stratified_parts([[c] for c in labels.tolist()], 3, [0.5, 0.5])
    for c, size in zip(order, (8, 4, 2), strict=True):
        assert np.bincount(parts[labels == c], minlength=2).tolist() == [size // 2, size // 2]
