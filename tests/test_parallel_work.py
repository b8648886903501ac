"""Work of several processes: when workers start, what they get, and how ranks agree on a failure."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import mmseol.counting.parallel as parallel
from mmseol.counting.parallel import agree, check_alike, default_workers, run
from mmseol.counting.wrappers import LabelError


class Loader:
    """A data loader that works in this process and notes how it was built."""

    built: list[tuple[int, int]]

    def __init__(self, jobs: Any, batch_size: int, num_workers: int, **settings: Any) -> None:
        warnings.warn("another warning", stacklevel=1)
        warnings.warn("This DataLoader will create 9 worker processes", stacklevel=1)
        self.built.append((num_workers, batch_size))
        self.jobs = jobs

    def __iter__(self) -> Iterator[list[Any]]:
        return iter([[self.jobs[index] for index in range(len(self.jobs))]])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    monkeypatch.setattr(Loader, "built", [], raising=False)
    monkeypatch.setattr(parallel, "DataLoader", Loader)
    return Loader.built


@pytest.mark.parametrize(
    ("method", "seconds", "jobs", "starts"),
    [
        ("fork", 0.1, 18, False),  # 8 jobs are timed; the other 10 take a second, which is not more
        ("fork", 0.125, 16, False),
        ("fork", 0.15, 15, True),
        ("fork", 0.109, 18, True),
        ("spawn", 3.1, 18, True),
        ("spawn", 2.9, 18, False),
        ("fork", 9.0, 8, False),  # nothing is left
    ],
)
def test_workers_start_where_the_rest_takes_longer(
    method: str, seconds: float, jobs: int, starts: bool, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [5.0]
    monkeypatch.setattr(parallel, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    monkeypatch.setattr(parallel, "default_workers", lambda: 3)

    def job(number: int) -> Callable[[], int]:
        def work() -> int:
            now[0] += seconds
            return number

        return work

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(run([job(number) for number in range(jobs)], None, False, "Working"))
    assert found == list(range(jobs))
    assert [workers for workers, _ in built] == [3] * starts


@pytest.mark.parametrize(("jobs", "workers", "batch"), [(1000, 2, 16), (136, 2, 16), (100, 2, 12), (4, 2, 1)])
def test_each_worker_gets_several_batches(jobs: int, workers: int, batch: int, built: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        assert list(run([int] * jobs, workers, False, "Working")) == [0] * jobs
        assert warnings.filters == filters  # those of the user's program
    assert [str(warning.message) for warning in caught] == ["another warning"]
    assert built == [(workers, batch)]


def test_a_process_that_may_have_no_children_works_alone(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "current_process", lambda: SimpleNamespace(daemon=True))
    assert list(run([int] * 20, 2, False, "Working")) == [0] * 20
    assert built == []


def test_cores_of_systems_that_do_not_say_which_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1} if pid == 0 else {}, raising=False)
    assert default_workers() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    for cores, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert default_workers() == expected


def _fail(error: Exception) -> None:
    raise error


def test_the_first_failure_of_all_ranks_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[Any] = []
    monkeypatch.setattr(parallel, "all_gather_object", lambda mine: [None, mine, *others])
    assert agree(lambda: 5) == 5
    others[:] = [(6, "item 6"), (4, "item 4")]
    with pytest.raises(ValueError, match="item 4") as caught:
        agree(lambda: 5)
    with pytest.raises(ValueError, match="item 4"):
        agree(lambda: _fail(LabelError("item 5", 5)))
    for error in (LabelError("item 3", 3), TypeError("of the data set, before any item")):
        others[:] = [(4, "item 4"), (0, "item 0")][: 1 if isinstance(error, LabelError) else 2]
        with pytest.raises(type(error)) as caught:
            agree(lambda error=error: _fail(error))
        assert caught.value is error


def test_ranks_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "all_gather_object", lambda value: [value, value, 4])
    check_alike("The number of images", 4)
    with pytest.raises(ValueError, match=r"must be the same on every rank, got \[3, 3, 4\]"):
        check_alike("The number of images", 3)
