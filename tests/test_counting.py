"""Counting against slow explicit loops over the data set."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmcv
import numpy as np
import pytest
import rich.console
import torch

pytest.importorskip("mmseg")
pytest.importorskip("mmpretrain")

from helpers.distributed import run_ranks
from helpers.small_data import (
    SIZE,
    FourClassDataset,
    LabelDataset,
    seg_config,
    seg_dataset,
    write_images,
    write_maps,
)
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.fileio import LocalBackend, register_backend
from mmengine.registry import DefaultScope
from mmpretrain.datasets import CustomDataset, KFoldDataset
from mmseg.datasets import MultiImageMixDataset
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

import mmseol.counting.label_maps as label_maps
import mmseol.counting.wrappers as wrappers
from mmseol.counting import LabelMapCounts, count_dataset, count_label_maps, image_classes, image_size
from mmseol.counting.cache import default_cache_dir, describe, read
from mmseol.counting.counts import ClassCounts
from mmseol.counting.decode import count_file, count_values, is_local, is_whole
from mmseol.counting.items import class_names, item_classes
from mmseol.counting.parallel import default_workers, run

K = 4


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MMSEOL_CACHE", str(tmp_path / "cache"))
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_maps(tmp_path / "data")


def slow_maps(dataset: Any, void: tuple[int, ...] = (9, 255)) -> ClassCounts:
    """Count the files that `get_data_info` names, one pixel value after another."""
    total = np.zeros((3, K), dtype=np.int64)
    for i in range(len(dataset)):
        labels = np.asarray(Image.open(dataset.get_data_info(i)["seg_map_path"]))
        assert set(np.unique(labels)) <= {*range(K), *void}
        for c in range(K):
            pixels = int((labels == c).sum())
            total[:, c] += [pixels, pixels > 0, labels.size * (pixels > 0)]
    return ClassCounts(*total)


def slow_labels(dataset: Any) -> list[int]:
    counts = [0] * K
    for i in range(len(dataset)):
        for label in np.atleast_1d(dataset.get_data_info(i)["gt_label"]):
            counts[int(label)] += 1
    return counts


class WithCategories(FourClassDataset):
    """Says which classes an image has, as ClassBalancedDataset wants."""

    def get_cat_ids(self, idx: int) -> list[int]:
        labels = np.asarray(Image.open(self.get_data_info(idx)["seg_map_path"]))
        return [c for c in range(K) if (labels == c).any()]


class Foreign:
    """A wrapper with `get_data_info` and nothing else."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.kept = dataset, indices

    def __len__(self) -> int:
        return len(self.kept)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        return self.dataset.get_data_info(self.kept[idx])


def seg_nest(kind: str, root: Path) -> Any:
    plain = seg_dataset(root)
    if kind == "plain":
        return plain
    if kind == "indices":
        return seg_dataset(root, indices=5)
    if kind == "lazy":
        return seg_dataset(root, lazy_init=True)
    if kind == "repeat":
        return RepeatDataset(plain, 3)
    if kind == "concat":  # overlapping parts
        return ConcatDataset([plain, seg_dataset(root, indices=[1, 1, 4]), plain], lazy_init=True)
    if kind == "class balanced":
        return ClassBalancedDataset(WithCategories(**seg_config(root)), oversample_thr=0.9)
    if kind == "mosaic":
        return MultiImageMixDataset(ConcatDataset([plain, seg_dataset(root, indices=3)]), pipeline=[])
    if kind == "mosaic that loads":
        bare = ConcatDataset([seg_dataset(root, pipeline=[])])
        return MultiImageMixDataset(bare, pipeline=[{"type": "LoadAnnotations"}])
    if kind == "foreign":
        return Foreign(ConcatDataset([plain, seg_dataset(root)]), [0, 3, 3, 14])
    if kind == "nested pipeline":
        load = [{"type": "LoadAnnotations"}]
        return seg_dataset(root, pipeline=[{"type": "RandomApply", "transforms": load, "prob": 0.5}])
    raise AssertionError(kind)


SEG_KINDS = (
    "plain", "indices", "lazy", "repeat", "concat", "class balanced", "mosaic", "mosaic that loads",
    "foreign", "nested pipeline",
)  # fmt: skip


@pytest.mark.parametrize("kind", SEG_KINDS)
def test_label_maps_of_every_wrapper(kind: str, root: Path) -> None:
    dataset = seg_nest(kind, root)
    counted = count_dataset(dataset, K)
    assert counted == slow_maps(dataset)
    assert counted.samples.sum() > 0


def test_parts_of_a_mosaic_are_read_by_their_own_loaders(root: Path) -> None:
    loaders = [{"type": "LoadAnnotations", "imdecode_backend": name} for name in ("pillow", "cv2")]
    parts = [seg_dataset(root, pipeline=[loader]) for loader in loaders]
    counted = count_dataset(MultiImageMixDataset(ConcatDataset(parts), pipeline=[]), K)
    assert counted == slow_maps(ConcatDataset([seg_dataset(root)] * 2))


class Wrapped:
    """A wrapper whose pipeline may be that of another one around it."""

    def __init__(self, dataset: Any, pipeline: Any = None) -> None:
        self.dataset, self.pipeline = dataset, pipeline


Wrapped.__name__ = "KFoldDataset"  # wrappers are known by their names


def test_labels_are_loaded_by_the_nearest_pipeline_around_them(root: Path) -> None:
    plain, bare = seg_dataset(root), seg_dataset(root, pipeline=[])
    for nest in (
        Wrapped(Wrapped(bare), plain.pipeline.transforms),
        Wrapped(Wrapped(bare, plain.pipeline.transforms), [LoadOtherAnnotations()]),
    ):
        assert count_dataset(nest, K) == slow_maps(plain)


class LoadOtherAnnotations:
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("this pipeline is farther away")


def test_torch_subset_of_a_nest(root: Path) -> None:
    nest = RepeatDataset(seg_dataset(root), 2)
    subset = torch.utils.data.Subset(
        torch.utils.data.ConcatDataset([nest, seg_dataset(root)]), [0, 12, 25, -1]
    )
    expected = slow_maps(seg_dataset(root, indices=[0, 0, 1, 11]))
    assert count_dataset(subset, K) == expected


def test_each_file_is_loaded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    original = LoadAnnotations._load_seg_map

    def spy(self: Any, results: dict[str, Any]) -> None:
        loaded.append(results["seg_map_path"])
        original(self, results)

    monkeypatch.setattr(LoadAnnotations, "_load_seg_map", spy)
    dataset = ConcatDataset([seg_dataset(root), seg_dataset(root, indices=4)])
    maps = count_label_maps(RepeatDataset(seg_dataset(root), 5), K)
    assert len(loaded) == len(set(loaded)) == 12
    assert maps.counts.shape == (12, K)
    assert maps.rows.tolist() == list(range(12)) * 5
    loaded.clear()
    assert count_dataset(dataset, K, cache=False) == slow_maps(dataset)
    assert len(loaded) == 12


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_workers_do_not_matter(workers: int | None, root: Path) -> None:
    state = torch.random.get_rng_state()
    counted = count_dataset(seg_dataset(root), K, workers=workers, cache=False)
    assert counted == slow_maps(seg_dataset(root))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_workers_that_are_asked_for_do_the_work() -> None:
    found = set(run([os.getpid] * 20, workers=2, progress=False, description="Asking"))
    assert len(found) == 2
    assert os.getpid() not in found


def test_workers_that_are_asked_for_are_no_reason_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns of more workers than cores; here the user chose the number."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(run([int] * 16, workers=2, progress=False, description="Asking"))) == 16


def test_work_that_pays_starts_workers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mmseol.counting.parallel as parallel

    seen: list[int] = []

    class Spy(torch.utils.data.DataLoader):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            seen.append(kwargs["num_workers"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(parallel, "DataLoader", Spy)
    monkeypatch.setattr(parallel, "default_workers", lambda: 2)
    count_dataset(seg_dataset(root), K, cache=False)
    assert seen == []  # twelve small files start no process
    monkeypatch.setattr(parallel, "_WORTH", {"fork": 0.0})
    assert count_dataset(seg_dataset(root), K, cache=False) == slow_maps(seg_dataset(root))
    assert seen == [2]


@pytest.mark.parametrize(
    ("cores", "ranks", "expected"), [(32, 1, 8), (6, 1, 6), (32, 8, 4), (7, 2, 3), (32, 64, 1), (1, 1, 1)]
)
def test_workers_share_the_cores_of_a_node(
    cores: int, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert default_workers() == expected


def test_reduce_zero_label_and_fewer_classes(root: Path) -> None:
    whole = slow_maps(seg_dataset(root))
    loaders = seg_dataset(root, reduce_zero_label=True)
    # 0 becomes 255; the data set's own label map (9 is void) sees the reduced 8.
    for path in sorted((root / "ann").iterdir()):
        labels = np.array(Image.open(path))
        labels[labels == 9] = 255
        Image.fromarray(labels).save(path)
    assert count_dataset(loaders, 3).samples.tolist() == whole.samples[1:].tolist()
    assert loaders.pipeline.transforms[1].reduce_zero_label is None  # the data set's own is left alone
    swapped = seg_dataset(root, metainfo={"classes": ("d", "a")})
    assert count_dataset(swapped, 2).samples.tolist() == whole.samples[[3, 0]].tolist()


def test_ignore_index_is_not_counted(root: Path) -> None:
    expected = slow_maps(seg_dataset(root))
    for path in (root / "ann").iterdir():
        labels = np.array(Image.open(path))
        labels[labels == 255] = 9  # mapped to 255 when loaded
        Image.fromarray(labels).save(path)
    assert count_dataset(seg_dataset(root), K, ignore_index=255) == expected
    with pytest.raises(ValueError, match=r"label 255 .*ignore_index is 0"):
        count_dataset(seg_dataset(root), K, ignore_index=0)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "RGB"])
@pytest.mark.parametrize("reduce_zero_label", [False, True])
@pytest.mark.parametrize("label_map", [None, {}, {11: 255}, {0: 3, 3: 0, 7: 255, 255: 1, 254: 2}])
def test_file_is_counted_as_mmseg_loads_it(
    mode: str, reduce_zero_label: bool, label_map: dict[int, int] | None, tmp_path: Path
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (23, 31)).astype(np.uint8)
    values[:9] = np.arange(9)[:, None]  # some values often
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 3)
    elif mode == "P":
        image = Image.fromarray(values)
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).astype(np.uint8).tobytes())
    else:
        image = Image.fromarray(values).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "map.png")
    info = {
        "seg_map_path": str(tmp_path / "map.png"),
        "reduce_zero_label": reduce_zero_label,
        "label_map": label_map,
        "seg_fields": [],
    }
    counted = count_file(LoadAnnotations(), info)
    assert (counted is not None) == (mode in ("L", "P"))
    if counted is not None:
        loaded = LoadAnnotations()(dict(info))["gt_seg_map"]
        values, pixels = np.unique(loaded, return_counts=True)
        assert counted == (dict(zip(values.tolist(), pixels.tolist(), strict=True)), loaded.shape)


def test_a_map_of_one_row_is_loaded_by_mmseg(tmp_path: Path) -> None:
    """mmseg squeezes it to one dimension, which training could not use."""
    info = {"reduce_zero_label": False, "label_map": None, "seg_fields": []}
    for size in ((9, 1), (1, 9)):
        Image.new("L", size).save(tmp_path / "map.png")
        assert count_file(LoadAnnotations(), {**info, "seg_map_path": str(tmp_path / "map.png")}) is None


class OtherLoadAnnotations(LoadAnnotations):
    """Same labels, but not mmseg's own class."""


def test_only_known_loaders_are_bypassed(root: Path) -> None:
    info = seg_dataset(root).get_data_info(0)
    assert count_file(LoadAnnotations(), info) is not None
    changed = LoadAnnotations()
    changed._load_seg_map = lambda results: None
    with pytest.warns(UserWarning, match="reduce_zero_label"):
        reducing = LoadAnnotations(reduce_zero_label=True)
    for loader in (OtherLoadAnnotations(), LoadAnnotations(imdecode_backend="cv2"), changed, reducing):
        assert count_file(loader, info) is None
    assert count_file(LoadAnnotations(), {"seg_map_path": info["seg_map_path"]}) is None
    needed = {name: info[name] for name in ("seg_map_path", "reduce_zero_label", "seg_fields")}
    assert count_file(LoadAnnotations(), needed) is not None


class MovedBackend(LocalBackend):
    """Files of another folder, known by the name of the backend alone."""

    root = Path()

    def get(self, filepath: str | Path) -> bytes:
        return super().get(self.root / filepath)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_files_are_read_by_the_backend_of_the_loader(
    dtype: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_backend("moved", MovedBackend, force=True)
    monkeypatch.setattr(MovedBackend, "root", tmp_path)
    Image.fromarray(np.array([[0, 1, 255], [1, 1, 2]], dtype=dtype)).save(tmp_path / "a.png")
    loader = LoadAnnotations(backend_args={"backend": "moved"})
    info = {"seg_map_path": "a.png", "reduce_zero_label": False, "label_map": None, "seg_fields": []}
    dataset = Foreign(SimpleNamespace(get_data_info=lambda index: info, pipeline=[loader]), [0])
    assert count_dataset(dataset, K, cache=False).samples.tolist() == [1, 3, 1, 0]
    Image.fromarray(np.array([[0, 256], [0, 0]], dtype=np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="holds the label 256 in more than 8 bits"):
        count_dataset(dataset, K, cache=False)


def test_files_of_another_backend_are_not_local() -> None:
    for name, local in (("local", True), ("disk", True), ("petrel", False)):
        for setting in ("backend_args", "file_client_args"):
            assert is_local("data/map.png", SimpleNamespace(**{setting: {"backend": name}})) == local
    assert is_local("map.png", SimpleNamespace(backend_args=None))
    assert not is_local("s3://map.png", SimpleNamespace(backend_args=None))


@pytest.mark.parametrize("shape", [(5, 7), (1, 3), (0, 4), (64, 64)])
def test_values_of_an_array(shape: tuple[int, int]) -> None:
    for dtype in (np.uint8, np.int16, np.int64):
        labels = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
        for view in (labels, labels[:, ::2], labels.T):
            values, pixels = np.unique(view, return_counts=True)
            assert count_values(view) == dict(zip(values.tolist(), pixels.tolist(), strict=True))


def test_counts_of_chosen_label_maps() -> None:
    maps = LabelMapCounts(
        np.array([[3, 1], [0, 5], [2, 2]]), np.array([6, 6, 4]), np.zeros((3, 2)), rows=np.array([1, 0, 0])
    )
    assert maps.class_counts() == ClassCounts([6, 7], [2, 3], [12, 18])


def test_a_label_map_is_a_plane_or_a_volume_of_whole_numbers() -> None:
    assert label_maps.count_map(np.ones((2, 3, 5), dtype=int)) == {1: 30}
    for labels in (np.ones((2, 3)), np.ones(6, dtype=int)):
        with pytest.raises(ValueError, match=rf"one whole number per pixel, got {labels.dtype} of shape \("):
            label_maps.count_map(labels)


class LoadVolume(LoadAnnotations):
    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        return {**results, "gt_seg_map": np.zeros((2, 4, 5), dtype=np.uint8)}


def test_shapes_of_label_maps(root: Path) -> None:
    dataset = seg_dataset(root)
    assert count_label_maps(dataset, K).shapes.tolist() == [list(SIZE)] * 12
    write_images(root)
    dataset.pipeline.transforms[1] = LoadVolume()
    maps = count_label_maps(dataset, K, check_sizes=True)  # a volume has not the size of an image
    assert maps.shapes.tolist() == [[0, 0]] * 12
    assert maps.sizes.tolist() == [40] * 12


def test_arguments_of_the_three_functions_have_the_same_defaults() -> None:
    reference = inspect.signature(count_dataset).parameters
    for function in (count_label_maps, image_classes):
        for name, parameter in inspect.signature(function).parameters.items():
            if (function, name) != (count_label_maps, "ignore_index"):  # 255, as in segmentation
                assert parameter.default == reference[name].default, name
    assert reference["cache"].default is reference["progress"].default is True


def test_another_rank_counts_its_part_and_neither_reads_nor_writes_the_cache(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    monkeypatch.setattr(label_maps, "get_dist_info", lambda: (1, 2))
    (root / "ann" / "000.png").unlink()  # the first rank looks for the files
    maps = count_label_maps(seg_dataset(root), K)
    assert maps.counts.any(1).tolist() == [False, True] * 6
    assert not default_cache_dir().exists()
    assert capfd.readouterr().err == ""


def test_void_is_255_unless_told_otherwise(root: Path) -> None:
    assert any((np.asarray(Image.open(path)) == 255).any() for path in (root / "ann").iterdir())
    assert count_label_maps(seg_dataset(root), K).class_counts() == slow_maps(seg_dataset(root))


def test_image_classes(root: Path) -> None:
    dataset = RepeatDataset(WithCategories(**seg_config(root)), 2)
    expected = [dataset.dataset.get_cat_ids(i % 12) for i in range(24)]
    assert [classes.tolist() for classes in image_classes(dataset, K)] == expected
    labels = [[2, 0], [], [1], [3, 1, 1]]
    found = image_classes(RepeatDataset(LabelDataset(labels), 2), K)
    assert [classes.tolist() for classes in found] == [[0, 2], [], [1], [1, 3]] * 2


def test_the_ignored_label_is_no_class_of_an_item(root: Path) -> None:
    dataset = WithCategories(**seg_config(root))
    expected = [[c for c in dataset.get_cat_ids(i) if c != 3] for i in range(12)]
    for path in sorted((root / "ann").iterdir()):
        labels = np.array(Image.open(path))
        labels[labels > 8] = 3
        Image.fromarray(labels).save(path)
    assert [classes.tolist() for classes in item_classes(dataset, ignore_index=3)] == expected


# ------------------------------------------------------------------ classification


@pytest.mark.parametrize("kind", ["plain", "indices", "nest", "class balanced", "foreign", "subset"])
def test_labels_of_every_wrapper(kind: str) -> None:
    plain = LabelDataset([0, 0, 1, 3, 0, 2, 3, 0])
    dataset = {
        "plain": lambda: plain,
        "indices": lambda: LabelDataset([0, 0, 1, 3], indices=[2, 2, 3], lazy_init=True),
        "nest": lambda: ConcatDataset([plain, LabelDataset([1, 1])]),
        "class balanced": lambda: ClassBalancedDataset(plain, oversample_thr=0.5),
        "foreign": lambda: Foreign(RepeatDataset(plain, 2), [0, 15, 15]),
        "subset": lambda: Foreign(plain, [5, 6]),
    }[kind]()
    expected = slow_labels(dataset)
    assert count_dataset(dataset, K) == ClassCounts(expected, expected, expected)


def test_mmpretrain_folders_and_folds(tmp_path: Path) -> None:
    for c, number in enumerate([5, 3, 2, 1]):
        (tmp_path / "train" / "abcd"[c]).mkdir(parents=True)
        for i in range(number):
            (tmp_path / "train" / "abcd"[c] / f"{i}.jpg").write_bytes(b"no image")
    config = {"data_root": str(tmp_path), "data_prefix": "train", "lazy_init": True}
    assert count_dataset(CustomDataset(**config), K).samples.tolist() == [5, 3, 2, 1]
    config["type"] = "mmpretrain.CustomDataset"
    folds = [KFoldDataset(config, fold=i, num_splits=3) for i in range(3)]
    counts = [count_dataset(fold, K) for fold in folds]
    assert sum(counts[1:], counts[0]).samples.tolist() == [10, 6, 4, 2]
    folds[0].full_init()
    assert counts[0].samples.tolist() == slow_labels(folds[0])


def test_multi_label_items_count_once_for_each_class() -> None:
    dataset = LabelDataset([[0, 1], [1], [], [1, 3, 3]])
    assert count_dataset(dataset, K).samples.tolist() == [1, 3, 0, 1]


class OtherLabels(LabelDataset):
    """Data set whose labels of all items are not those of its items, as behind a wrapper that repeats."""

    def get_gt_labels(self) -> np.ndarray:
        return np.array([0, 1, 2, 3, 3, 3])


def test_labels_of_another_number_of_items_are_not_taken() -> None:
    assert count_dataset(OtherLabels([0, 1, 1]), K).samples.tolist() == [1, 2, 0, 0]


def test_a_data_set_without_metainfo_is_named() -> None:
    dataset = SimpleNamespace(metainfo=None)
    with pytest.raises(
        ValueError, match=r"must tell its classes in `metainfo\['classes'\]`, got None from Simple"
    ):
        class_names(dataset)


def test_every_label_is_a_class_unless_told_otherwise() -> None:
    dataset = LabelDataset([255, 3])
    assert count_dataset(dataset, 256).samples[255] == 1
    assert count_dataset(dataset, 256, ignore_index=255).samples[255] == 0


def test_bad_label_names_the_image() -> None:
    dataset = RepeatDataset(LabelDataset([0, 1, 4, -1]), 2)
    with pytest.raises(ValueError, match=r"2\.jpg \(item 2\) has the label 4, but num_classes is 4"):
        count_dataset(dataset, K)
    with pytest.raises(ValueError, match="must have a `gt_label`"):
        count_dataset(LabelDataset([0, None]), K)


# ------------------------------------------------------------------ errors


def spoil(root: Path, number: int, value: int) -> None:
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[0, :3] = value
    Image.fromarray(labels).save(root / "ann" / f"{number:03}.png")


@pytest.mark.parametrize("workers", [0, 3])
def test_first_bad_map_is_named(workers: int, root: Path) -> None:
    spoil(root, 10, 77)
    spoil(root, 7, 4)
    spoil(root, 8, 99)
    with pytest.raises(
        ValueError, match=r"007\.png \(item 7\) holds the label 4 \(3 pixels\), but num_classes is 4"
    ):
        count_dataset(seg_dataset(root), K, workers=workers)
    if workers:
        return  # torch takes 8 seconds to end workers in the middle of their work
    reverse = seg_dataset(root, indices=list(range(11, -1, -1)))
    with pytest.raises(ValueError, match=r"010\.png \(item 1\) holds the label 77"):
        count_dataset(reverse, K, workers=workers)


@pytest.mark.parametrize("content", [b"", b"\x89PNG no more"])
def test_broken_map_is_named(content: bytes, root: Path) -> None:
    (root / "ann" / "003.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"003\.png \(item 3\) cannot be read"):
        count_dataset(seg_dataset(root), K)


def test_missing_maps_are_listed(root: Path) -> None:
    for number in range(2, 9):
        (root / "ann" / f"{number:03}.png").unlink()
    with pytest.raises(
        ValueError, match=r"^7 of 12 label maps do not exist: .*002\.png \(item 2\)"
    ) as caught:
        count_dataset(seg_dataset(root), K)
    assert "006.png (item 6), .. (7 in all). Check `data_root`" in str(caught.value)
    shutil.rmtree(root / "ann")
    with pytest.raises(ValueError, match=r"folder of label maps '.*/ann' does not exist \(12 of 12"):
        count_dataset(seg_dataset(root), K)


def test_a_single_missing_map_is_named(root: Path) -> None:
    (root / "ann" / "000.png").unlink()
    with pytest.raises(ValueError, match=r"^1 of 1 label maps do not exist: .*000\.png \(item 0\)\. Check"):
        count_dataset(seg_dataset(root, indices=1), K)


def test_labels_of_more_than_eight_bits_are_refused(root: Path) -> None:
    """mmseg casts to uint8: 300 would be trained as 44, and 259 as class 3."""
    labels = np.zeros(SIZE, dtype=np.uint16)
    labels[0, :2] = 3, 255
    Image.fromarray(labels).save(root / "ann" / "005.png")
    assert count_dataset(seg_dataset(root), K).samples[3] > 0
    labels[0, 0] = 259
    Image.fromarray(labels).save(root / "ann" / "005.png")
    with pytest.raises(ValueError, match=r"005\.png \(item 5\) holds the label 259 .* cuts to 3\. Write"):
        count_dataset(seg_dataset(root), K)


def test_palette_maps_in_nested_folders_are_read_as_indices(tmp_path: Path) -> None:
    root = write_maps(tmp_path / "nested" / "data")
    expected = slow_maps(seg_dataset(root))
    for path in sorted((root / "ann").iterdir()):
        labels = Image.open(path).copy()
        labels.putpalette(list(range(255, -1, -1)) * 3)
        city = ("bonn", "ulm")[int(path.stem) % 2]
        for folder in ("img", "ann"):
            (root / folder / city).mkdir(exist_ok=True)
        (root / "img" / path.name).rename(root / "img" / city / path.name)
        path.unlink()
        labels.save(root / "ann" / city / path.name)
        assert Image.open(root / "ann" / city / path.name).mode == "P"
    nested = seg_dataset(root)
    assert len(nested) == 12
    assert count_dataset(nested, K) == expected


# ------------------------------------------------------------------ sizes


@pytest.mark.parametrize("world", [1, 2])
def test_label_map_of_another_size_than_its_image_is_named(world: int, root: Path) -> None:
    write_images(root)
    dataset = seg_dataset(root)
    assert count_dataset(dataset, K, check_sizes=True) == slow_maps(dataset)
    Image.new("RGB", SIZE).save(root / "img" / "007.png")  # as many pixels, turned
    Image.new("RGB", (4, 4)).save(root / "img" / "008.png")
    assert count_dataset(dataset, K) == slow_maps(dataset)
    message = (
        r"007\.png \(item 7\) must have the size of its image .*007\.png, 10x8 \(HxW\), got 8x10\. Resize"
    )
    for cache in (True, False):  # the counts are cached, the images have changed
        if world == 1:
            with pytest.raises(ValueError, match=message):
                count_dataset(dataset, K, cache=cache, check_sizes=True)
        else:
            for error in run_ranks(_check_on, root, cache):
                assert re.search(message, error)
    write_images(root)
    content = (root / "img" / "003.png").read_bytes()
    (root / "img" / "003.png").write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"The image .*003\.png \(item 3\) is truncated"):
        count_dataset(dataset, K, check_sizes=True)
    (root / "img" / "003.png").write_bytes(content)
    (root / "img" / "007.png").unlink()
    with pytest.raises(ValueError, match=r"The image .*007\.png \(item 7\) cannot be read"):
        count_dataset(dataset, K, check_sizes=True)


def _check_on(rank: int, root: Path, cache: bool) -> str:
    with pytest.raises(ValueError, match="must have the size of its image") as caught:
        count_dataset(seg_dataset(root), K, cache=cache, check_sizes=True)
    return str(caught.value)


def test_images_that_are_not_on_a_local_disk_are_not_checked(root: Path) -> None:
    for changed in ({"img_path": "s3://a.png"}, {"img_path": None}):
        info = {**seg_dataset(root).get_data_info(0), **changed}
        dataset = Foreign(SimpleNamespace(get_data_info=lambda i, info=info: info), [0])
        dataset.pipeline = [LoadAnnotations()]  # type: ignore[attr-defined]
        assert count_dataset(dataset, K, check_sizes=True).samples.sum() > 0


def test_the_end_of_a_png_lies_in_its_last_4096_bytes(tmp_path: Path) -> None:
    for rest in (0, 4092, 4093, 5000):
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"IEND" + b"x" * rest)
        assert is_whole(tmp_path / "a.png") == (rest <= 4092)


def test_images_of_unknown_formats_are_not_checked(root: Path) -> None:
    assert image_size(root / "img" / "000.png") is None  # no image at all
    dataset = seg_dataset(root)
    assert count_dataset(dataset, K, check_sizes=True) == slow_maps(dataset)


def test_size_is_that_of_the_decoded_image(tmp_path: Path) -> None:
    """OpenCV turns a photograph upright by its EXIF tag."""
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[274] = orientation
        Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
        assert image_size(tmp_path / "a.jpg") == mmcv.imread(tmp_path / "a.jpg").shape[:2]
    with pytest.raises(FileNotFoundError):
        image_size(tmp_path / "b.jpg")


def test_a_large_image_is_measured_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns of images above a limit, which aerial photographs pass; only the header is read here."""
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # warns above it, refuses above twice of it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        assert image_size(tmp_path / "a.png") == (20, 30)
        assert warnings.filters == before  # those of the user's program
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert image_size(tmp_path / "a.png") is None


@pytest.mark.parametrize("channels", [2, 3, 4])  # grey with alpha, RGB, RGBA
def test_colour_map_is_refused(root: Path, channels: int) -> None:
    Image.fromarray(np.zeros((*SIZE, channels), dtype=np.uint8)).save(root / "ann" / "000.png")
    with pytest.raises(ValueError, match=r"000\.png \(item 0\) must hold one whole number per pixel"):
        count_dataset(seg_dataset(root), K)


def test_bad_arguments(root: Path) -> None:
    dataset = seg_dataset(root)
    with pytest.raises(ValueError, match="`num_classes` must be a whole number of at least 2, got 1"):
        count_dataset(dataset, 1)
    with pytest.raises(ValueError, match="`workers` must be a whole number of at least 0, got -1"):
        count_dataset(dataset, K, workers=-1)
    with pytest.raises(TypeError, match=r"must offer `get_data_info\(index\)`.*TensorDataset"):
        count_dataset(torch.utils.data.TensorDataset(torch.zeros(3)), K)
    with pytest.raises(ValueError, match="must not be empty"):
        count_dataset(torch.utils.data.Subset(dataset, []), K)
    with pytest.raises(ValueError, match=r"one transform that loads label maps.*got none"):
        count_dataset(seg_dataset(root, pipeline=[]), K)
    with pytest.raises(TypeError, match="of one kind"):
        count_dataset(torch.utils.data.ConcatDataset([dataset, LabelDataset([1])]), K)


# ------------------------------------------------------------------ cache


class Counter:
    """Counts how often label maps are really counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs = 0
        original = label_maps.run

        def spy(jobs: Any, *args: Any) -> Any:
            self.jobs += len(jobs)
            return original(jobs, *args)

        monkeypatch.setattr(label_maps, "run", spy)

    def during(self, *args: Any, **kwargs: Any) -> tuple[int, ClassCounts]:
        self.jobs = 0
        counts = count_dataset(*args, **kwargs)
        return self.jobs, counts


@TRANSFORMS.register_module()
class LoadOneLess(LoadAnnotations):
    """Another loader with the same settings: class 3 is read as 2."""

    def _load_seg_map(self, results: dict[str, Any]) -> None:
        super()._load_seg_map(results)
        results["gt_seg_map"][results["gt_seg_map"] == 3] = 2


def test_cache_hits_only_what_is_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = Counter(monkeypatch)
    expected = slow_maps(seg_dataset(root))
    assert counter.during(seg_dataset(root), K) == (12, expected)
    assert counter.during(seg_dataset(root), K) == (0, expected)
    assert counter.during(RepeatDataset(seg_dataset(root), 2), K) == (0, expected * 2)
    assert counter.during(seg_dataset(root), K, cache=False)[0] == 12
    assert counter.during(seg_dataset(root), K, cache_dir=tmp_path / "elsewhere")[0] == 12
    assert counter.during(seg_dataset(root), K + 1)[0] == 12
    assert counter.during(seg_dataset(root, indices=11), K)[0] == 11
    renamed = seg_dataset(root, metainfo={"classes": ("b", "a", "c", "d")})
    jobs, counts = counter.during(renamed, K)
    assert (jobs, counts.samples.tolist()) == (12, expected.samples[[1, 0, 2, 3]].tolist())
    jobs, counts = counter.during(seg_dataset(root, pipeline=[{"type": "LoadOneLess"}]), K)
    assert (jobs, counts.samples[3]) == (12, 0)
    pillow = seg_dataset(root, pipeline=[{"type": "LoadAnnotations", "imdecode_backend": "cv2"}])
    assert counter.during(pillow, K) == (12, expected)
    assert counter.during(seg_dataset(root), K) == (0, expected)  # the first entry is still in the cache


def test_cache_notices_a_changed_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    counter.during(seg_dataset(root), K)
    path = root / "ann" / "005.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert counter.during(seg_dataset(root), K)[0] == 12
    assert counter.during(seg_dataset(root), K)[0] == 0
    path.unlink()
    with pytest.raises(ValueError, match=r"005\.png"):
        count_dataset(seg_dataset(root), K)


@pytest.mark.parametrize("since", [0, -1000], ids=["stands", "goes back"])
def test_cache_notices_a_changed_file_without_a_clock(since: int, root: Path) -> None:
    """A file of the same size at the same time; the cache is not younger than the label maps."""
    time = 10**18 + 5
    for label in (0, 1):
        Image.fromarray(np.full(SIZE, label, dtype=np.uint8)).save(root / "ann" / "005.png", compress_level=0)
        for path in (root / "ann").iterdir():
            os.utime(path, ns=(time, time))
        assert count_dataset(seg_dataset(root), K) == slow_maps(seg_dataset(root))
        (file,) = default_cache_dir().iterdir()
        os.utime(file, ns=(time + since, time + since))


@pytest.mark.parametrize("start", [10**18, 10**18 + 10**9, 10**18 + 5])
def test_cache_notices_a_changed_file_of_the_same_second(
    start: int, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system of the label maps keeps whole seconds; one that keeps more tells at once."""
    counter = Counter(monkeypatch)
    for path in (root / "ann").iterdir():
        os.utime(path, ns=(start, start))
    first = 1 if start % 10**9 else 10**9  # nanoseconds after which a cache is younger
    for later, jobs in ((0, 12), (first - 1, 12), (first, 12), (first, 0)):
        assert counter.during(seg_dataset(root), K)[0] == jobs
        (file,) = default_cache_dir().iterdir()
        os.utime(file, ns=(start + later, start + later))


def test_tables_of_a_cache_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """Rows of two classes: their pixels, those of the map, height and width."""
    good = np.array([[3, 3, 6, 2, 3]])
    for table in (
        good,
        good.astype(float),
        good[:, 1:],
        good * [-1, 1, 1, 1, 1],
        good + np.array([-3, 4, 0, 0, 0]),
    ):
        np.savez(tmp_path / "a.npz", table=table)
        if table is good:
            assert read(tmp_path / "a.npz", 1, 2).tolist() == good.tolist()
        else:
            with pytest.warns(UserWarning, match=r"a\.npz were changed; counting anew"):
                assert read(tmp_path / "a.npz", 1, 2) is None


def test_a_folder_of_the_cache_may_be_that_of_the_user(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    count_dataset(seg_dataset(root), K, cache_dir="~/counts")
    assert len(list((tmp_path / "home" / "counts").iterdir())) == 1


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage", "flip", "other numbers", "payload"])
def test_broken_cache_is_counted_anew(damage: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    _, expected = counter.during(seg_dataset(root), K)
    (file,) = default_cache_dir().iterdir()
    content = file.read_bytes()
    if damage == "other numbers":
        with file.open("wb") as handle:
            np.savez(handle, table=np.full((12, K + 3), 10**6))
    elif damage == "payload":
        with file.open("wb") as handle:
            np.savez(handle, table=np.array(Payload(root / "ran"), dtype=object))
    else:
        middle = len(content) // 3
        flipped = bytearray(content)
        flipped[middle] ^= 0xFF
        file.write_bytes(
            {"truncate": content[:middle], "empty": b"", "garbage": b"x" * 500, "flip": bytes(flipped)}[
                damage
            ]
        )
    with pytest.warns(UserWarning, match="counting anew"):
        assert counter.during(seg_dataset(root), K) == (12, expected)
    assert counter.during(seg_dataset(root), K) == (0, expected)
    assert [path.name for path in default_cache_dir().iterdir()] == [file.name]
    assert not (root / "ran").exists()


def test_folder_that_cannot_be_written_costs_a_warning(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be cached"):
        counts = count_dataset(seg_dataset(root), K, cache_dir=tmp_path / "file" / "below")
    assert counts == slow_maps(seg_dataset(root))


def test_default_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMSEOL_CACHE", "one")
    assert default_cache_dir() == Path("one")
    monkeypatch.delenv("MMSEOL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "two")
    assert default_cache_dir() == Path("two/mmseol")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "mmseol"


def test_describe_tells_settings_apart() -> None:
    values = [1, 1.0, "1", True, None, [1], {"a": 1}, {"b": 1}, np.arange(2000), np.arange(2000) * 2]
    texts = [describe(value) for value in values]
    assert len(set(texts)) == len(texts)
    assert describe(LoadAnnotations()) == describe(pickle.loads(pickle.dumps(LoadAnnotations())))
    assert describe(LoadAnnotations()) != describe(LoadAnnotations(imdecode_backend="cv2"))
    assert describe(LoadAnnotations()) != describe(OtherLoadAnnotations())
    for value in (lambda: 1, open, object(), LoadAnnotations, np.array([{}], dtype=object)):
        with pytest.raises(TypeError, match="cannot be described"):
            describe(value)
    assert describe(np.arange(6)[::2]) == describe(np.array([0, 2, 4]))
    assert describe(Path("a/b")) == '"a/b"'


def test_cache_notices_another_version(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(monkeypatch)
    counter.during(seg_dataset(root), K)
    for module in ("mmseg", "mmcv"):  # the loader is mmseg's and inherits from mmcv's
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.__version__", "99")
            assert counter.during(seg_dataset(root), K)[0] == 12
    with monkeypatch.context() as patch:
        patch.setattr(label_maps, "__version__", "99")
        assert counter.during(seg_dataset(root), K)[0] == 12
    assert counter.during(seg_dataset(root), K)[0] == 0


def test_cache_notices_changed_code_without_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_loader.py").write_text("class Load:\n    pass\n")
    loader = importlib.import_module("own_loader").Load()
    before = describe(loader)
    assert describe(loader) == before
    assert hashlib.sha256(b"class Load:\n    pass\n").hexdigest() in before  # the same in every process
    (tmp_path / "own_loader.py").write_text("class Load:\n    level = 2\n")
    assert describe(loader) != before
    (tmp_path / "own_loader.py").unlink()
    with pytest.raises(TypeError, match="Load has no source file"):
        describe(loader)


def test_settings_without_a_description_are_counted_each_time(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    dataset = seg_dataset(root)
    dataset.pipeline.transforms[1].hook = lambda: None
    for _ in range(2):
        assert counter.during(RepeatDataset(dataset, 2), K) == (12, slow_maps(dataset) * 2)
    assert not default_cache_dir().exists()


@pytest.mark.parametrize("count", [count_dataset, image_classes, lambda data, k: item_classes(data)])
def test_a_nest_is_walked_once(count: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    original = wrappers._walk
    monkeypatch.setattr(wrappers, "_walk", lambda data, *rest: walks.append(data) or original(data, *rest))
    for plain in (seg_dataset(root), LabelDataset([0, 1, 2, 3])):
        walks.clear()
        nest = RepeatDataset(plain, 2)
        count(nest, K)
        assert walks == [nest, plain]


# ------------------------------------------------------------------ ranks


def _count_on(rank: int, root: Path, cache_dir: Path) -> tuple[Any, int]:
    jobs = []
    original = label_maps.run
    label_maps.run = lambda share, *args: jobs.extend(share) or original(share, *args)
    try:
        return count_dataset(RepeatDataset(seg_dataset(root), 2), K, cache_dir=cache_dir), len(jobs)
    except ValueError as error:
        return str(error), len(jobs)


def test_two_ranks_share_the_work_and_agree(root: Path, tmp_path: Path) -> None:
    expected = slow_maps(seg_dataset(root)) * 2
    assert run_ranks(_count_on, root, tmp_path / "cache") == [(expected, 6), (expected, 6)]
    assert run_ranks(_count_on, root, tmp_path / "cache") == [(expected, 0), (expected, 0)]
    spoil(root, 7, 4)
    spoil(root, 8, 5)
    (first, _), (second, _) = run_ranks(_count_on, root, tmp_path / "cache")
    assert first == second
    assert "007.png (item 7) holds the label 4" in first


def _count_own(rank: int, root: Path) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        count_dataset(seg_dataset(root, indices=[12, 11][rank]), K, cache=False)
    return str(caught.value)


def test_ranks_with_other_data_all_raise(root: Path) -> None:
    errors = run_ranks(_count_own, root)
    assert all("must be the same on every rank" in error for error in errors)


def _count_in_a_daemon(root: Path, expected: list[int]) -> None:
    counts = count_dataset(seg_dataset(root), K, workers=2, cache=False)
    os._exit(0 if counts.samples.tolist() == expected else 1)


def test_a_daemon_counts_without_workers(root: Path) -> None:
    """A process of a data loader or a launcher may not start processes of its own."""
    expected = slow_maps(seg_dataset(root)).samples.tolist()
    context = multiprocessing.get_context("fork")
    daemon = context.Process(target=_count_in_a_daemon, args=(root, expected), daemon=True)
    daemon.start()
    daemon.join(60)
    assert daemon.exitcode == 0


def test_counting_leaves_the_transforms_of_the_pipeline_alone(root: Path) -> None:
    dataset = seg_dataset(root)
    loader = dataset.pipeline.transforms[1] = OtherLoadAnnotations()
    before = dict(vars(loader))
    count_dataset(dataset, K)
    assert vars(loader) == before


class LoadMyAnnotation(LoadImageFromFile):
    """A loader of labels of somebody's own."""


def test_the_loader_of_labels_is_found_behind_that_of_images() -> None:
    image, label = LoadImageFromFile(), LoadMyAnnotation()
    assert wrappers.annotation_loaders(SimpleNamespace(pipeline=[image, label])) == [label]
    assert wrappers.annotation_loaders(SimpleNamespace(pipeline=[image])) == []


def test_a_bar_is_shown_on_a_terminal_and_where_it_is_asked_for(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(rich.console.Console, "is_terminal", True)
    for progress in (False, True):
        count_dataset(seg_dataset(root), K, cache=False, progress=progress)
        shown = capfd.readouterr().err
        assert bool(shown) == progress
        assert not shown or shown.endswith("\x1b[1A\x1b[2K")  # the bar is removed at the end


def test_no_bar_in_a_log_file(root: Path, capfd: pytest.CaptureFixture) -> None:
    count_dataset(seg_dataset(root), K, cache=False, progress=True)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_import_is_light() -> None:
    code = (
        "import sys, mmseol, mmseol.counting; "
        "print([m for m in ('cv2', 'mmcv', 'mmseg', 'mmpretrain', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
