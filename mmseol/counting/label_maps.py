"""Count the pixels of each class in the label maps of a segmentation data set, without decoding an image."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, get_dist_info
from numpy.typing import NDArray

from mmseol.counting.cache import default_cache_dir, describe, read, write
from mmseol.counting.counts import ClassCounts
from mmseol.counting.decode import (
    check_depth,
    count_file,
    count_values,
    image_size,
    is_local,
    is_whole,
    reads_file,
)
from mmseol.counting.parallel import agree, check_alike, run
from mmseol.counting.wrappers import Items, LabelError, walk
from mmseol.utils.arrays import IntArray
from mmseol.utils.text import first_few
from mmseol.version import __version__

__all__ = ["LabelMapCounts", "count_label_maps"]

_FORMAT = 3  # of the cache files; raise it when the same key would mean other numbers


@dataclass(frozen=True)
class LabelMapCounts:
    """Pixels of each class in every distinct label map, and the label map of each item of the data set.

    >>> maps = LabelMapCounts(np.array([[3, 1]]), np.array([6]), np.array([[2, 3]]), rows=np.array([0, 0]))
    >>> maps.class_counts().samples
    array([6, 2])

    Attributes:
        counts: Pixels of each class, (M, K).
        sizes: Pixels, void included, (M,).
        shapes: Height and width, (M, 2); 0 for a label map that is no plane.
        rows: Row of ``counts`` of each item of the data set, (N,); repetitions share a row.
    """

    counts: IntArray
    sizes: IntArray
    shapes: IntArray
    rows: IntArray

    def class_counts(self) -> ClassCounts:
        """Return the sums over the data set, every repetition counted."""
        times = np.bincount(self.rows, minlength=len(self.sizes)).astype(np.int64)
        present = (self.counts > 0).astype(np.int64)
        return ClassCounts(times @ self.counts, times @ present, (times * self.sizes) @ present)


@dataclass
class _Job:
    """Counting of one label map, as a worker gets it."""

    loader: Any
    key: str | None  # settings that its labels depend on; None if they cannot be described
    info: dict[str, Any]
    position: int
    num_classes: int
    ignore_index: int

    @property
    def path(self) -> str:
        return str(self.info.get("seg_map_path") or self.info.get("img_path") or "")

    @property
    def name(self) -> str:
        return f"{self.path} (item {self.position})"

    def __call__(self) -> list[int] | str:
        """Return the pixels of each class, K of them, of the whole map, height and width; or an error."""
        try:
            counted = count_file(self.loader, self.info)
            if counted is None:
                labels = np.asarray(self.loader(copy.deepcopy(self.info))["gt_seg_map"])
        except Exception as error:
            return (
                f"The label map {self.name} cannot be read: {type(error).__name__}: {error}. "
                "Restore the file, or take the image out of the data set."
            )
        try:
            if counted is None:
                check_depth(self.loader, self.info)
                counted = count_map(labels), (labels.shape if labels.ndim == 2 else (0, 0))
            pixels, shape = counted
            return [
                *class_pixels(pixels, self.num_classes, self.ignore_index),
                sum(pixels.values()),
                *shape,
            ]
        except ValueError as error:
            return f"The label map {self.name} {error}"


@dataclass
class _SizeCheck:
    """Comparison of a label map's size with its image's, as a worker gets it."""

    job: _Job
    shape: tuple[int, int]

    def __call__(self) -> str | None:
        """Return an error, or ``None``."""
        path = str(self.job.info.get("img_path") or "")
        if not path or not is_local(path, self.job.loader) or not any(self.shape):
            return None
        try:
            size = image_size(path)
            if not is_whole(path):
                return f"The image {path} (item {self.job.position}) is truncated. Restore the file."
        except OSError as error:
            return f"The image {path} (item {self.job.position}) cannot be read: {error}. Restore the file."
        if size in (None, self.shape):
            return None
        return (
            f"The label map {self.job.name} must have the size of its image {path}, "
            f"{size[0]}x{size[1]} (HxW), got {self.shape[0]}x{self.shape[1]}. Resize one of "
            "them (labels by nearest neighbour)."
        )


def count_map(labels: NDArray[Any]) -> dict[int, int]:
    """Return the pixels of each label in a label map.

    >>> count_map(np.array([[0, 0, 2]]))
    {0: 2, 2: 1}

    Raises:
        ValueError: If it is not a map of whole numbers.
    """
    if (
        labels.dtype.kind not in "ui"
        or labels.ndim < 2
        or (labels.ndim == 3 and labels.shape[2] in (2, 3, 4))
    ):
        raise ValueError(
            f"must hold one whole number per pixel, got {labels.dtype} of shape {labels.shape}. Convert "
            "colour maps to label indices first."
        )
    return count_values(labels)


def class_pixels(pixels: Mapping[int, int], num_classes: int, ignore_index: int) -> list[int]:
    """Return the pixels of each class, K of them, given those of each label.

    >>> class_pixels({0: 5, 2: 1, 255: 9}, num_classes=3, ignore_index=255)
    [5, 0, 1]

    Raises:
        ValueError: If there is a label that is neither a class nor ``ignore_index``.
    """
    counts = [0] * num_classes
    for label, number in sorted(pixels.items()):
        if 0 <= label < num_classes and label != ignore_index:
            counts[label] = number
        elif label != ignore_index:
            raise ValueError(
                f"holds the label {label} ({number} pixels), but num_classes is {num_classes} and "
                f"ignore_index is {ignore_index}: labels must lie in [0, {num_classes}) or equal the latter. "
                "Map the label in the data set (its `label_map`, `reduce_zero_label` or "
                "`metainfo.classes`), or correct the head's num_classes or ignore_index."
            )
    return counts


def count_label_maps(
    dataset: Any,
    num_classes: int,
    ignore_index: int = 255,
    workers: int | None = None,
    cache: bool = True,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    check_sizes: bool = False,
) -> LabelMapCounts:
    """Count the pixels of each class in every label map of a segmentation data set.

    >>> count_label_maps(road_scenes, num_classes=2).counts.tolist()
    [[4, 0], [4, 0], [4, 0], [3, 1]]

    Arguments and errors as in :func:`mmseol.counting.count_dataset`.
    """
    jobs, rows = agree(lambda: _jobs(walk(dataset), num_classes, ignore_index))
    names = "\n".join(os.path.basename(job.path) for job in jobs)
    check_alike("The list of label maps", (len(jobs), hashlib.sha256(names.encode()).hexdigest()))
    rank, world = get_dist_info()
    progress = progress and rank == 0
    part = range(rank, len(jobs), world)
    path: Path | None = None
    cached: list[IntArray | None] = [None]
    if cache and rank == 0:
        folder = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        path, changed = _cache_path(jobs, folder)
        cached = [read(path, len(jobs), num_classes, changed) if path else None]
    broadcast_object_list(cached)  # rank 0 decides for all: one that counts would wait for those that do not
    table = cached[0]
    if table is None:
        table = np.zeros((len(jobs), num_classes + 3), dtype=np.int64)
        agree(lambda: _count(jobs, part, table, workers, progress))
        all_reduce(torch.from_numpy(table))  # in place; int64, so that sums are exact
        if path is not None:
            write(path, table)
    if check_sizes:
        agree(lambda: _check_sizes(jobs, part, table[:, -2:].tolist(), workers, progress))
    return LabelMapCounts(table[:, :-3], table[:, -3], table[:, -2:], rows)


def _count(jobs: list[_Job], part: range, table: IntArray, workers: int | None, progress: bool) -> None:
    """Fill the rows of ``part``."""
    if 0 in part:
        _check_files(jobs)
    chosen = [jobs[row] for row in part]
    results = run(chosen, workers, progress, "Counting classes")
    for row, job, result in zip(part, chosen, results, strict=True):
        if isinstance(result, str):
            raise LabelError(result, job.position)
        table[row] = result


def _check_files(jobs: list[_Job]) -> None:
    """Check that all label maps on local disks exist."""
    missing = [
        job
        for job in jobs
        if reads_file(job.loader) and is_local(job.path, job.loader) and not os.path.exists(job.path)
    ]
    if not missing:
        return
    folder = os.path.dirname(os.path.abspath(missing[0].path))
    if not os.path.isdir(folder):
        text = (
            f"The folder of label maps {folder!r} does not exist ({len(missing)} of {len(jobs)} label maps)."
        )
    else:
        text = f"{len(missing)} of {len(jobs)} label maps do not exist: {first_few(j.name for j in missing)}."
    raise LabelError(
        f"{text} Check `data_root`, `data_prefix` (its 'seg_map_path') and `seg_map_suffix` of the data set, "
        "or restore the files.",
        missing[0].position,
    )


def _check_sizes(
    jobs: list[_Job], part: range, shapes: list[list[int]], workers: int | None, progress: bool
) -> None:
    """Check that the label maps of ``part`` have the sizes of their images."""
    checks = [_SizeCheck(jobs[row], (shapes[row][0], shapes[row][1])) for row in part]
    for check, error in zip(checks, run(checks, workers, progress, "Checking sizes"), strict=True):
        if error is not None:
            raise LabelError(error, check.job.position)


def _jobs(items: Items, num_classes: int, ignore_index: int) -> tuple[list[_Job], IntArray]:
    """Return one job per distinct label map, in order of first appearance, and each item's job, (N,)."""
    same = items.leaf << 40 | items.index
    _, first, inverse = np.unique(same, return_index=True, return_inverse=True)
    loaders = [_loader(leaf, transforms) for leaf, transforms in items.leaves]
    jobs: dict[Any, tuple[int, _Job]] = {}
    row_of = np.zeros(len(first), dtype=np.int64)
    for unique in np.argsort(first):
        position = int(first[unique])
        info = {key: value for key, value in items.info(position).items() if key != "sample_idx"}
        loader, settings = loaders[items.leaf[position]]
        key = None if settings is None else _describe([settings, _labelling(info)])
        job = _Job(loader, key, info, position, num_classes, ignore_index)
        row_of[unique], _ = jobs.setdefault(key or position, (len(jobs), job))  # equal only if the maps are
    return [job for _, job in jobs.values()], row_of[inverse.reshape(-1)]


def _labelling(info: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an annotation record that a label map can depend on."""
    return {key: value for key, value in info.items() if key != "img_path" or "seg_map_path" not in info}


def _describe(value: Any) -> str | None:
    try:
        return describe(value)
    except (TypeError, ValueError, OSError, RecursionError):
        return None


def _loader(dataset: Any, transforms: list[Any]) -> tuple[Any, str | None]:
    """Return a copy of the transform that loads a data set's label maps, and its description if any."""
    loaders: dict[Any, Any] = {}
    for transform in transforms:
        loaders.setdefault(_describe(transform) or id(transform), transform)
    if len(loaders) != 1:
        raise ValueError(
            f"The pipeline of {type(dataset).__name__} must have one transform that loads label maps, such "
            f"as dict(type='LoadAnnotations'), got {list(loaders.values()) or 'none'}."
        )
    settings, loader = next(iter(loaders.items()))
    # mmseg's sets its own `reduce_zero_label` at the first call, hence the copy.
    return copy.copy(loader), settings if isinstance(settings, str) else None


def _cache_path(jobs: list[_Job], folder: Path) -> tuple[Path | None, int]:
    """Return the cache file of exactly these label maps, or ``None`` if there cannot be one, and the time of
    their last change in nanoseconds.
    """
    settings = f"{_FORMAT} {__version__} {jobs[0].num_classes} {jobs[0].ignore_index}"
    digest, changed = hashlib.sha256(settings.encode()), 0
    for job in jobs:
        try:
            status = os.stat(job.path)
        except (OSError, ValueError):  # not a local file
            return None, 0
        if job.key is None:
            return None, 0
        file = f"{os.path.abspath(job.path)} {status.st_size} {status.st_mtime_ns}"
        digest.update(f"{file} {job.key}\n".encode())
        rest = 0 if status.st_mtime_ns % 10**9 else 10**9 - 1  # a file system of whole seconds
        changed = max(changed, status.st_mtime_ns + rest)
    return folder / f"label-maps-{digest.hexdigest()[:40]}.npz", changed
