"""Spread work over worker processes of this machine, and agree on its outcome over the ranks of a run."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from mmengine.dist import all_gather_object
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

__all__ = ["agree", "check_alike", "default_workers", "run"]

Job = Callable[[], Any]
Result = TypeVar("Result")
_PROBE = 8  # jobs that are timed before workers are started
_WORTH = {"fork": 1.0}  # seconds of work for which workers are started ...
_WORTH_IMPORT = 30.0  # ... and where each of them imports the hosts anew


class _Jobs(Dataset):
    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> Any:
        return self.jobs[index]()


def default_workers() -> int:
    """Return the number of cores for this process, shared with the other ranks of the node; at most 8.

    >>> 1 <= default_workers() <= 8
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def run(jobs: Sequence[Job], workers: int | None, progress: bool, description: str) -> Iterator[Any]:
    """Yield the result of each job, in order.

    Workers are torch's data loader workers: training starts the same kind next, by the same start method.
    The global random state of torch stays as it is. A daemonic process may not have children and works
    alone.

    >>> list(run([lambda: 1, lambda: 2], workers=None, progress=False, description="Adding"))
    [1, 2]

    Args:
        workers: Processes; 0 or 1 works in this one; ``None`` starts :func:`default_workers` of them if the
            first jobs are slow enough for that to be faster.
        progress: Whether a terminal shows a bar.
    """
    console = Console(stderr=True)
    shown = progress and console.is_terminal  # a bar in a log file is a line of noise
    results = _run(jobs, workers)
    yield from track(results, description, len(jobs), console=console, transient=True) if shown else results


def _run(jobs: Sequence[Job], workers: int | None) -> Iterator[Any]:
    if workers is None:
        start = time.perf_counter()
        for job in jobs[:_PROBE]:
            yield job()
        jobs, done = jobs[_PROBE:], min(_PROBE, len(jobs))
        expected = (time.perf_counter() - start) / max(done, 1) * len(jobs)
        worth = _WORTH.get(multiprocessing.get_start_method(), _WORTH_IMPORT)
        workers = default_workers() if expected > worth else 0
    workers = min(workers, len(jobs))
    if workers < 2 or multiprocessing.current_process().daemon:
        for job in jobs:
            yield job()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose the number
        batches = iter(
            DataLoader(
                _Jobs(jobs),
                batch_size=max(1, min(16, len(jobs) // (4 * workers))),
                num_workers=workers,
                collate_fn=list,
                generator=torch.Generator(),
            )
        )
    for batch in batches:
        yield from batch


def agree(work: Callable[[], Result]) -> Result:
    """Return ``work()``. If it fails on some ranks, raise on all of them, so that none waits for another.

    >>> agree(lambda: 3)
    3

    Raises:
        Exception: The failure of this rank, if it is the first in data set order (``position`` of the
            exception); else a ``ValueError`` with the message of the first.
    """
    result: Result
    caught = None
    try:
        result = work()
    except Exception as error:
        caught = error
    mine = None if caught is None else (getattr(caught, "position", -1), str(caught))
    failures = [failure for failure in all_gather_object(mine) if failure is not None]
    if not failures:
        return result
    if caught is not None and mine == min(failures):
        raise caught
    raise ValueError(min(failures)[1])


def check_alike(name: str, value: object) -> None:
    """Raise on all ranks if ``value`` is not the same on all of them.

    >>> check_alike("The number of images", 367)

    Raises:
        ValueError: If it is not.
    """
    values = all_gather_object(value)
    if any(other != values[0] for other in values):
        raise ValueError(
            f"{name} must be the same on every rank, got {values}. Check the data on every node."
        )
