"""Claims: one owner at a time, heartbeats, and claims that are taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest

from mmseol.sweeps.claims import Claim, live_holder


def write(folder: Path, number: int, age: float = 0.0, **holder) -> Path:
    """Write a claim of another process, with its last heartbeat ``age`` seconds ago."""
    path = folder / f"claim-{number:04}.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": None, **holder}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def dead_pid() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    return process.pid


def test_a_claim_of_another_host_stands_until_its_heartbeat_is_old(tmp_path):
    write(tmp_path, 1, age=50)
    assert Claim.take(tmp_path, stale_after=60) is None
    assert live_holder(tmp_path, stale_after=60)["host"] == "elsewhere"
    assert live_holder(tmp_path, stale_after=40) is None
    claim = Claim.take(tmp_path, stale_after=40)
    assert claim.path.name == "claim-0002.json"
    assert live_holder(tmp_path)["pid"] == os.getpid()


def test_a_dead_process_of_this_host_holds_nothing(tmp_path):
    write(tmp_path, 1, host=socket.gethostname(), pid=dead_pid())
    assert live_holder(tmp_path) is None
    assert Claim.take(tmp_path) is not None


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path):
    write(tmp_path, 1, host=socket.gethostname(), pid=os.getpid(), started="12")
    assert live_holder(tmp_path) is None
    assert Claim.take(tmp_path) is not None


def test_an_owner_learns_that_its_claim_was_taken_over(tmp_path):
    claim = Claim.take(tmp_path)
    assert claim.renew()
    write(tmp_path, 2)
    assert not claim.renew()
    claim.release()
    assert live_holder(tmp_path)["host"] == "elsewhere"


def test_a_heartbeat_keeps_a_claim(tmp_path):
    claim = Claim.take(tmp_path)
    os.utime(claim.path, (time.time() - 100,) * 2)
    assert live_holder(tmp_path, stale_after=60) is None
    assert claim.renew()
    assert live_holder(tmp_path, stale_after=60) is not None


def test_of_many_processes_one_takes_over(tmp_path):
    write(tmp_path, 1, age=1000)
    context = multiprocessing.get_context("fork")
    gate, queue = context.Barrier(8), context.SimpleQueue()

    def race() -> None:
        gate.wait()
        queue.put(Claim.take(tmp_path) is not None)
        gate.wait()  # a dead owner would give its claim away

    processes = [context.Process(target=race) for _ in range(8)]
    for process in processes:
        process.start()
    won = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_released_claim_gives_the_folder_back(tmp_path):
    write(tmp_path, 1, age=1000)
    Claim.take(tmp_path).release()
    assert live_holder(tmp_path) is None
    assert Claim.take(tmp_path).path.name == "claim-0002.json"


def test_a_claim_that_is_just_being_written_stands(tmp_path):
    (tmp_path / "claim-0001.json").touch()
    assert Claim.take(tmp_path) is None


def test_a_full_disk_leaves_no_claim(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        Claim.take(tmp_path)
    assert list(tmp_path.iterdir()) == []
