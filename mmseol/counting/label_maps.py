"""Count the pixels of each class in the label maps of a segmentation data set, without decoding an image."""

from __future__ import annotations

import copy
import hashlib
import os
import pickle
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
from mmseol.counting.decode import count_file, count_values, loads_in_threads
from mmseol.counting.distributed import LabelError, agree, check_alike
from mmseol.counting.parallel import run
from mmseol.counting.wrappers import Items, walk
from mmseol.utils.arrays import IntArray

__all__ = ["LabelMapCounts", "count_label_maps"]

_FORMAT = 1  # of the cache files; raise it when the same key would mean other numbers


@dataclass(frozen=True)
class LabelMapCounts:
    """Pixels of each class in every distinct label map, and which map each position of the data set has.

    Attributes:
        counts: Pixels of each class, (M, K).
        sizes: Pixels, void included, (M,).
        rows: Row of ``counts`` of each position of the data set, (N,); repetitions share a row.
    """

    counts: IntArray
    sizes: IntArray
    rows: IntArray

    def class_counts(self) -> ClassCounts:
        """Return the sums over the data set, every repetition counted."""
        times = np.bincount(self.rows, minlength=len(self.sizes)).astype(np.int64)
        present = (self.counts > 0).astype(np.int64)
        return ClassCounts(times @ self.counts, times @ present, (times * self.sizes) @ present)


@dataclass
class _Job:
    """Counting of one label map: what a worker is sent."""

    loader: Any
    settings: str | None
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

    def __call__(self) -> tuple[list[int], int] | str:
        """Return pixels per class, K of them, and in all; or what is wrong with the label map."""
        try:
            found = count_file(self.loader, self.info)
            if found is None:
                labels = np.asarray(self.loader(copy.deepcopy(self.info))["gt_seg_map"])
        except Exception as error:
            return (
                f"The label map {self.name} cannot be read: {type(error).__name__}: {error} "
                "Restore the file, or take the image out of the data set."
            )
        try:
            found = count_map(labels) if found is None else found
            return class_pixels(found, self.num_classes, self.ignore_index), sum(found.values())
        except ValueError as error:
            return f"The label map {self.name} {error}"


def count_map(labels: NDArray[Any]) -> dict[int, int]:
    """Return the pixels of each label in a label map.

    Raises:
        ValueError: If it is no map of whole numbers.
    """
    if labels.dtype.kind not in "ui" or labels.ndim < 2 or (labels.ndim == 3 and labels.shape[2] in (3, 4)):
        raise ValueError(
            f"must hold one whole number per pixel, got {labels.dtype} of shape {labels.shape}. Convert "
            "colour maps to label indices first."
        )
    return count_values(labels)


def class_pixels(found: Mapping[int, int], num_classes: int, ignore_index: int) -> list[int]:
    """Return the pixels of each class, K of them, out of those of each label.

    Raises:
        ValueError: If there is a label that is neither a class nor ``ignore_index``.
    """
    counts = [0] * num_classes
    for label, pixels in sorted(found.items()):
        if 0 <= label < num_classes and label != ignore_index:
            counts[label] = pixels
        elif label != ignore_index:
            raise ValueError(
                f"holds the label {label} ({pixels} pixels), but num_classes is {num_classes} and "
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
) -> LabelMapCounts:
    """Count the pixels of each class in every label map of a segmentation data set.

    Arguments and errors as in :func:`mmseol.counting.count_dataset`.
    """
    jobs, rows = agree(lambda: _jobs(walk(dataset), num_classes, ignore_index))
    names = "\n".join(os.path.basename(job.path) for job in jobs)
    check_alike("The list of label maps", (len(jobs), hashlib.sha256(names.encode()).hexdigest()))
    rank, world = get_dist_info()
    path: Path | None = None
    known: list[tuple[IntArray, IntArray] | None] = [None]
    if cache and rank == 0:
        path = _cache_path(jobs, Path(cache_dir).expanduser() if cache_dir else default_cache_dir())
        known = [read(path, (len(jobs), num_classes)) if path else None]
    broadcast_object_list(known)  # rank 0 decides for all: one that counts would wait for those that do not
    if known[0] is not None:
        counts, sizes = known[0]
        return LabelMapCounts(counts, sizes, rows)

    counts = np.zeros((len(jobs), num_classes), dtype=np.int64)
    sizes = np.zeros(len(jobs), dtype=np.int64)
    share = range(rank, len(jobs), world)
    agree(lambda: _count([jobs[row] for row in share], share, counts, sizes, workers, progress and rank == 0))
    for array in (counts, sizes):
        all_reduce(torch.from_numpy(array))  # in place; int64, so that sums are exact
    if path is not None:
        write(path, counts, sizes)
    return LabelMapCounts(counts, sizes, rows)


def _count(
    jobs: list[_Job], share: range, counts: IntArray, sizes: IntArray, workers: int | None, progress: bool
) -> int:
    """Fill the rows of ``share`` and return how many there are over all ranks."""
    threads = all(loads_in_threads(job.loader, job.info) for job in jobs)
    results = run(jobs, workers, progress, "Counting classes", threads)
    for row, job, result in zip(share, jobs, results, strict=True):
        if isinstance(result, str):
            raise LabelError(result, job.position)
        counts[row], sizes[row] = result
    return len(sizes)


def _jobs(items: Items, num_classes: int, ignore_index: int) -> tuple[list[_Job], IntArray]:
    """Return one job per distinct label map, in order of first appearance, and each position's job, (N,)."""
    same = items.leaf << 40 | items.index
    _, first, inverse = np.unique(same, return_index=True, return_inverse=True)
    loaders = [_loader(dataset, found) for dataset, found in items.leaves]
    jobs: dict[bytes, tuple[int, _Job]] = {}
    row_of = np.zeros(len(first), dtype=np.int64)
    for unique in np.argsort(first):
        position = int(first[unique])
        info = {key: value for key, value in items.info(position).items() if key != "sample_idx"}
        loader, settings = loaders[items.leaf[position]]
        key = pickle.dumps((settings or id(loader), _labelling(info)))  # equal only if the maps are
        job = _Job(loader, settings, info, position, num_classes, ignore_index)
        row_of[unique], _ = jobs.setdefault(key, (len(jobs), job))
    return [job for _, job in jobs.values()], row_of[inverse.reshape(-1)]


def _labelling(info: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an annotation record that a label map can follow from."""
    return {key: value for key, value in info.items() if key != "img_path" or "seg_map_path" not in info}


def _loader(dataset: Any, found: list[Any]) -> tuple[Any, str | None]:
    """Return a copy of the transform that loads a data set's label maps, and its description if any."""
    described: dict[str | None, Any] = {}
    settings: str | None
    for loader in found:
        try:
            settings = describe(loader)
        except (TypeError, OSError, RecursionError):
            settings = None if len(found) == 1 else f"id {id(loader)}"
        described.setdefault(settings, loader)
    if len(described) != 1:
        raise ValueError(
            f"The pipeline of {type(dataset).__name__} must have one transform that loads label maps, such "
            f"as dict(type='LoadAnnotations'), got {list(described.values()) or 'none'}."
        )
    settings, loader = next(iter(described.items()))
    return copy.copy(loader), settings  # mmseg's sets its own `reduce_zero_label` at the first call


def _cache_path(jobs: list[_Job], folder: Path) -> Path | None:
    """Return the cache file for exactly these label maps, or ``None`` where that cannot be known."""
    digest = hashlib.sha256(f"{_FORMAT} {jobs[0].num_classes} {jobs[0].ignore_index}".encode())
    described: dict[bytes, str] = {}
    for job in jobs:
        rest = {key: value for key, value in _labelling(job.info).items() if key != "seg_map_path"}
        memo = pickle.dumps((job.settings, rest))
        try:
            if memo not in described:
                described[memo] = f"{job.settings} {describe(rest)}"
            status = os.stat(job.path)
        except (OSError, TypeError, RecursionError):
            return None
        if job.settings is None:
            return None
        file = f"{os.path.abspath(job.path)} {status.st_size} {status.st_mtime_ns}"
        digest.update(f"{file} {described[memo]}\n".encode())
    return folder / f"label-maps-{digest.hexdigest()[:40]}.npz"
