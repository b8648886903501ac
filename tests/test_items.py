"""Items of data sets of every form: labels offered at once, records without a path, lazy wrappers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_data import FourClassDataset, LabelDataset, seg_config, seg_dataset, write_maps
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import ClassBalancedDataset, ConcatDataset
from mmseg.datasets.transforms import LoadAnnotations

from mmseol.counting import count_dataset, count_label_maps, image_classes
from mmseol.counting.items import class_names, item_classes, single_labels
from mmseol.counting.wrappers import annotation_loaders, is_segmentation, walk

K = 4


class Records:
    """A data set of plain records."""

    metainfo = {"classes": ("a", "b", "c", "d")}  # noqa: RUF012

    def __init__(self, *records: dict[str, Any], pipeline: Any = ()) -> None:
        self.records, self.pipeline = records, list(pipeline)

    def __len__(self) -> int:
        return len(self.records)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return dict(self.records[index])


class AtOnce(Records):
    """Labels of all items at once; only the first record may be read, to learn what it holds."""

    def __init__(self, labels: list[int], *keys: str) -> None:
        super().__init__(*[dict.fromkeys(keys, 0)] * len(labels))
        self.labels = labels

    def get_gt_labels(self) -> np.ndarray:
        return np.array(self.labels)

    def get_data_info(self, index: int) -> dict[str, Any]:
        assert index == 0, "the labels are offered at once"
        return super().get_data_info(index)


class Halves(LabelDataset):
    """Offers numbers that are no classes."""

    def get_gt_labels(self) -> np.ndarray:
        return np.array([0.5, 1.5, 2.5])


def test_labels_that_are_offered_at_once_are_taken() -> None:
    first, second = AtOnce([2, 0, 3], "gt_label"), AtOnce([1, 1])
    assert not is_segmentation(second)
    assert single_labels(second, "The sampler").tolist() == [1, 1]
    both = torch.utils.data.ConcatDataset([first, second, LabelDataset([[3, 1]])])
    assert count_dataset(both, K).samples.tolist() == [1, 3, 1, 2]
    assert [found.tolist() for found in image_classes(both, K)] == [[2], [0], [3], [1], [1], [1, 3]]
    assert count_dataset(Halves([0, 1, 1]), K).samples.tolist() == [1, 2, 0, 0]


def test_classes_of_an_item_ascend_in_a_long_nest() -> None:
    many, other = LabelDataset([[3, 1, 0, 2]] * 40), LabelDataset([2] * 10)
    found = image_classes(ConcatDataset([many, other, many]), K)
    assert [classes.tolist() for classes in found] == [[0, 1, 2, 3]] * 40 + [[2]] * 10 + [[0, 1, 2, 3]] * 40


def test_an_item_without_a_path_is_named_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"^Item 1 of the data set has the label 7"):
        count_dataset(Records({"gt_label": 0}, {"gt_label": 7}), K)
    with pytest.raises(ValueError, match=r"Item 1 of the data set must have a `gt_label` .*, got None"):
        count_dataset(Records({"gt_label": 0}, {}), K)


def test_single_labels_are_one_for_each_item() -> None:
    assert single_labels(LabelDataset([2]), "The sampler").tolist() == [2]
    for labels, number, item in (([[0], [1], [2, 3], []], 2, 2), ([[0], []], 0, 1)):
        with pytest.raises(ValueError, match=f"one class per item, got {number} labels for item {item}"):
            single_labels(LabelDataset(labels), "The sampler")


def test_every_number_is_a_class_of_an_item() -> None:
    dataset = LabelDataset([255, 1], metainfo={"classes": [str(i) for i in range(256)]})
    assert [classes.tolist() for classes in item_classes(dataset)] == [[255], [1]]
    with pytest.raises(ValueError, match=r"must tell its classes in `metainfo\['classes'\]`, got 'cat'"):
        class_names(SimpleNamespace(metainfo={"classes": "cat"}))


def test_records_with_neither_label_maps_nor_labels_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Records must have `seg_map_path` .* got the keys \['img_path'\]"):
        is_segmentation(Records({"img_path": "a.jpg"}))


class LoadAnnotationsOfImages:
    """Makes the label map from the image alone; a name that ends with b.jpg cannot be read."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape
        self.hook = lambda: None  # cannot be described, so every map is counted

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        if results.get("img_path", "b.jpg") == "b.jpg":
            raise OSError("no such image")
        return {**results, "gt_seg_map": np.full(self.shape, len(results["img_path"]) % K)}


class Describable(LoadAnnotationsOfImages):
    def __init__(self, *shape: int) -> None:
        self.shape = shape


@pytest.mark.parametrize("loader", [LoadAnnotationsOfImages(2, 3), Describable(2, 3)])
def test_label_maps_may_come_from_the_image(loader: Any, tmp_path: Path) -> None:
    records = [{"img_path": "a.jpg"}, {"img_path": "aaa.jpg"}, {"img_path": "b.jpg"}, {}]
    dataset = Records(*records[:2], pipeline=[loader])
    counts = count_dataset(dataset, K, cache_dir=tmp_path, check_sizes=False)
    assert counts.samples.tolist() == [0, 6, 0, 6]
    assert not list(tmp_path.iterdir())  # images that are no local files
    with pytest.raises(ValueError, match=r"The label map b\.jpg \(item 0\) cannot be read: OSError"):
        count_dataset(Records(records[2], pipeline=[loader]), K, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"The label map  \(item 1\) cannot be read: OSError"):
        count_dataset(Records(records[0], records[3], pipeline=[loader]), K, cache_dir=tmp_path)


def test_maps_of_several_loaders_that_cannot_be_described_are_told_apart() -> None:
    parts = [Records({"img_path": "a.jpg"}, pipeline=[LoadAnnotationsOfImages(2, 3)]) for _ in range(2)]
    nest = Records({"img_path": "a.jpg"})
    nest.datasets = parts  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"must have one transform that loads label maps.*, got \[<.*, <"):
        count_dataset(nest, K, cache=False)


def test_images_that_share_a_label_map_count_it_once(tmp_path: Path) -> None:
    info = seg_dataset(write_maps(tmp_path, number=1)).get_data_info(0)
    shared = Records(info, {**info, "img_path": "other.png"}, pipeline=[LoadAnnotations()])
    maps = count_label_maps(shared, K, cache=False)
    assert maps.rows.tolist() == [0, 0]
    assert maps.counts.shape == (1, K)


class WithCategories(FourClassDataset):
    def get_cat_ids(self, idx: int) -> list[int]:
        return [0] if idx else [3]


@pytest.mark.usefixtures("mmseg_scope")
def test_wrappers_that_wait_are_initialised(tmp_path: Path) -> None:
    config = seg_config(write_maps(tmp_path))
    counts = [
        count_dataset(ClassBalancedDataset(WithCategories(**config), 0.5, lazy_init=lazy), K, cache=False)
        for lazy in (False, True)
    ]
    assert counts[0] == counts[1] != count_dataset(WithCategories(**config), K, cache=False)


def test_a_data_set_that_is_used_twice_is_one_leaf() -> None:
    plain = LabelDataset([0, 1])
    items = walk(ConcatDataset([plain, LabelDataset([2]), plain]))
    assert len(items.leaves) == 2
    assert items.leaf.tolist() == [0, 0, 1, 0, 0]


class LoadMyAnnotation(LoadImageFromFile):
    """A loader of labels of somebody's own."""


def test_of_several_loaders_the_usual_one_is_taken_or_else_the_first() -> None:
    own, other, usual = LoadMyAnnotation(), LoadMyAnnotation(), LoadAnnotations()
    assert annotation_loaders(SimpleNamespace(pipeline=[own, usual, other])) == [usual]
    assert annotation_loaders(SimpleNamespace(pipeline=[own, other])) == [own]
