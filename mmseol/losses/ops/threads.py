"""Threads of a CPU: images are shared among a few Python threads, each with one of torch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["in_threads", "single_threaded"]

Result = TypeVar("Result")


def in_threads(work: Callable[[range], list[Result]], count: int, workers: int) -> list[Result]:
    """Return ``work(range(count))``, divided among up to ``workers`` threads including this one.

    >>> in_threads(lambda part: [2 * i for i in part], 5, workers=2)
    [0, 2, 4, 6, 8]
    """
    part = -(-count // workers)
    if count <= part:
        return work(range(count))
    with ThreadPoolExecutor(workers - 1) as pool:
        starts = range(part, count, part)
        others = [pool.submit(work, range(start, min(start + part, count))) for start in starts]
        return work(range(part)) + [result for other in others for result in other.result()]


@contextmanager
def single_threaded(device: torch.device) -> Iterator[int]:
    """Set torch's thread number, which is process-wide, to 1 and yield the number that was set before.

    Pieces are too small to divide among threads, and one busy core would delay each of them. While the
    block runs, other Python threads of the process compute with one thread too.

    >>> with single_threaded(torch.device("cpu")):
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield 1
        return
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
