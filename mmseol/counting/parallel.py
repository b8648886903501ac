"""Run jobs in order, in this process (in threads where they may) until worker processes pay."""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

__all__ = ["default_workers", "run"]

Job = Callable[[], Any]
_PROBE = 8  # jobs that tell how long the others will take
_WORTH = {"fork": 1.0}  # seconds of work that make up for starting workers ...
_WORTH_IMPORT = 30.0  # ... where each imports the hosts anew


class _Jobs(Dataset):
    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int) -> Any:
        return self.jobs[index]()


def default_workers() -> int:
    """Return the number of cores for this process, shared with the other ranks of the node; at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def run(
    jobs: Sequence[Job], workers: int | None, progress: bool, description: str, threads: bool = False
) -> Iterator[Any]:
    """Yield the result of each job, in order.

    Workers are torch's data loader workers: what training itself is about to start, by the same start
    method, so that a parent with an initialised GPU is no more of a risk than it will be then. Torch's
    global random state stays untouched.

    Args:
        workers: Processes; 0 or 1 works in this one; ``None`` starts :func:`default_workers` once the
            first jobs have shown that it pays.
        threads: Whether the jobs may run in threads of this process, which ``None`` then takes while
            processes do not pay.
    """
    console = Console(stderr=True)
    shown = progress and console.is_terminal  # a bar in a log file is a line of noise
    results = _run(jobs, workers, threads)
    yield from track(results, description, len(jobs), console=console, transient=True) if shown else results


def _run(jobs: Sequence[Job], workers: int | None, threads: bool) -> Iterator[Any]:
    if workers is None:
        start = time.perf_counter()
        for job in jobs[:_PROBE]:
            yield job()
        jobs, done = jobs[_PROBE:], min(_PROBE, len(jobs))
        expected = (time.perf_counter() - start) / max(done, 1) * len(jobs)
        worth = _WORTH.get(multiprocessing.get_start_method(), _WORTH_IMPORT)
        workers = default_workers() if expected > worth else 0
        if threads and not workers and default_workers() > 1:
            yield from _in_threads(jobs, default_workers())
            return
    workers = min(workers, len(jobs))
    if workers < 2 or multiprocessing.current_process().daemon:  # a daemon may not have children
        for job in jobs:
            yield job()
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose the number
        batches = iter(
            DataLoader(
                _Jobs(jobs),
                batch_size=_batch_size(jobs, workers),
                num_workers=workers,
                collate_fn=list,
                generator=torch.Generator(),
            )
        )
    for batch in batches:
        yield from batch


def _in_threads(jobs: Sequence[Job], threads: int) -> Iterator[Any]:
    size = _batch_size(jobs, threads)
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    pool = ThreadPoolExecutor(threads)
    try:
        for results in pool.map(lambda batch: [job() for job in batch], batches):
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)  # the caller may have stopped at an error


def _batch_size(jobs: Sequence[Job], workers: int) -> int:
    return max(1, min(16, len(jobs) // (4 * workers)))
