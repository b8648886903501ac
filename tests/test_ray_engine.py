"""The Ray engine, on a cluster of two nodes on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import quick_trials
from helpers.quick_trials import (
    COMMAND,
    EPOCHS,
    children_of,
    drive,
    epochs_of,
    make,
    parent_of,
    process_of,
    record_of,
    release,
    wait_for,
)

from mmseol.sweeps import ray_engine
from mmseol.sweeps.engines import make_engine
from mmseol.sweeps.ray_engine import RayEngine
from mmseol.sweeps.trial import state
from mmseol.utils.files import read_json


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes with one core and one pretended GPU each."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = str(Path(__file__).parents[1])
        monkeypatch.setenv("PYTHONPATH", root)
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        utils = pytest.importorskip("ray.cluster_utils", reason='needs pip install "mmseol[ray]"')
        resources = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80_000_000}
        handler = signal.getsignal(signal.SIGTERM)
        cluster = utils.Cluster(
            initialize_head=True, head_node_args={**resources, "include_dashboard": False}
        )
        cluster.add_node(**resources)
        yield cluster
        cluster.shutdown()
        signal.signal(signal.SIGTERM, handler)  # Ray's nodes set theirs


@pytest.fixture
def engine(cluster, monkeypatch) -> Iterator[RayEngine]:
    """Return an engine on both nodes, for quick trials."""
    monkeypatch.setattr(RayEngine, "command", COMMAND)
    engine = RayEngine(address=cluster.address, gpus_per_trial=0)
    yield engine
    engine.close()


def process(folder: Path) -> dict[str, Any]:
    """Return what a record tells of the process of its trial."""
    return read_json(folder / "record.json")["process"]


def test_two_nodes_give_the_records_of_one_process(engine, tmp_path):
    folders = make(tmp_path / "ray", 4, seconds=1)
    assert engine.slots == 2
    drive(engine, folders)
    expected = quick_trials.records_on_this_machine(tmp_path / "here", 4)
    assert [record_of(folder) for folder in folders] == expected
    assert len({process(folder)["settings"]["RAY_RAYLET_PID"] for folder in folders}) == 2
    for folder in folders:
        assert process(folder)["attempts"] == 1
        assert process(folder)["workdir"] == os.getcwd()
        assert process(folder)["settings"]["CUDA_VISIBLE_DEVICES"] == ""
        assert process(folder)["settings"]["OMP_NUM_THREADS"] == "1"


def test_killed_trials_workers_and_nodes_give_their_trials_back(engine, cluster, tmp_path):
    folders = make(tmp_path, 4, seconds=1, held=range(4))
    node = cluster.add_node(num_cpus=2, object_store_memory=80_000_000)
    raylets = [one.all_processes["raylet"][0].process.pid for one in (*cluster.list_all_nodes(), node)]
    wait_for(lambda: engine.slots == 4)
    killed: dict[int, list[Path]] = {}

    def kill() -> None:
        """Kill a trial on the first node, a worker on the second, all processes of the third."""
        if killed or not all(epochs_of(folder) for folder in folders):
            return
        for folder in folders:
            trial = process_of(folder)
            worker = parent_of(trial)
            killed.setdefault(parent_of(worker), []).append(folder)
            victim = {raylets[0]: trial, raylets[1]: worker}.get(parent_of(worker), trial)
            os.kill(victim, signal.SIGKILL)
        for pid in [*children_of(raylets[-1]), raylets[-1]]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: all(state(folder) == "interrupted" for folder in folders))
        release(folders)

    drive(engine, folders, kill)
    assert set(killed) == set(raylets)
    for folder in folders:
        assert epochs_of(folder) == list(range(EPOCHS)), "continued, not repeated"
        assert process(folder)["attempts"] == 2
        assert process(folder)["settings"]["RAY_RAYLET_PID"] != str(raylets[-1])


def test_a_killed_driver_leaves_what_the_next_one_continues(engine, cluster, tmp_path):
    folders = make(tmp_path, 4, seconds=1, held=(2, 3))
    driver = subprocess.Popen([sys.executable, *COMMAND, "drive", cluster.address, *map(str, folders)])
    wait_for(lambda: state(folders[0]) == state(folders[1]) == "done" and epochs_of(folders[2]))
    driver.kill()
    driver.wait()
    wait_for(lambda: all(state(folder) != "running" for folder in folders))  # they stop with their driver
    assert epochs_of(folders[2]) == [0]
    release(folders)
    before = [(folder / "record.json").stat().st_mtime_ns for folder in folders[:2]]
    drive(engine, folders)
    assert [(folder / "record.json").stat().st_mtime_ns for folder in folders[:2]] == before
    assert [process(folder)["attempts"] for folder in folders[:3]] == [1, 1, 2]
    assert [epochs_of(folder) for folder in folders] == [list(range(EPOCHS))] * 4


def test_closing_stops_trials_so_that_they_continue(cluster, monkeypatch, tmp_path):
    monkeypatch.setattr(RayEngine, "command", COMMAND)
    engine = RayEngine(slots=1, address=cluster.address, gpus_per_trial=0.5)
    (folder,) = make(tmp_path, 1, seconds=0, held=(0,))
    assert engine.slots == 1
    engine.start(folder)
    process_of(folder)
    engine.close()
    engine.close()
    assert state(folder) == "interrupted"
    release([folder])
    drive(RayEngine(address=cluster.address, gpus_per_trial=0.5), [folder])
    assert epochs_of(folder) == list(range(EPOCHS))
    assert process(folder)["settings"]["CUDA_VISIBLE_DEVICES"] in ("0", "1")


def test_fractions_of_gpus_are_slots(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    engine = RayEngine(gpus_per_trial=0.5)
    assert engine.slots == 2  # each of the nodes has two halves, but one core
    engine.close()


@pytest.mark.parametrize(
    ("node", "gpus", "slots"), [({"CPU": 8, "GPU": 2}, 0.3, 6), ({"CPU": 8, "GPU": 5}, 2, 2)]
)
def test_a_fraction_lies_on_one_gpu(node, gpus, slots):
    assert ray_engine._fitting(node, 1, gpus) == slots


def test_a_node_that_cannot_run_trials_ends_the_driver(engine, monkeypatch, tmp_path):
    engine.start(tmp_path / "elsewhere")
    with pytest.raises(
        RuntimeError, match=r"has no folder .*elsewhere.* file system that all machines share"
    ):
        wait_for(engine.finished)
    (folder,) = make(tmp_path, 1, seconds=0)
    monkeypatch.setattr(RayEngine, "command", ("-m", "no_such_module"))
    engine.start(folder)
    with pytest.raises(RuntimeError, match=r"ended with status 1: .*No module named no_such_module"):
        wait_for(engine.finished)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gpus_per_trial", 2), ("cpus_per_trial", 3), ("gpus_per_trial", 1.5), ("gpus_per_trial", -1)],
)
def test_more_than_a_node_has(cluster, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got {value}"):
        RayEngine(address=cluster.address, **{name: value})


@pytest.mark.parametrize("address", ["127.0.0.1", "head:port", "ray://head:10001", "head:70000"])
def test_an_address_is_host_and_port(address):
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match=f"`--address` must be .*, got '{address}'"):
        RayEngine(address=address)


def test_no_cluster_is_an_error_within_seconds(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"got '{address}': .*refused.* Start one by `ray start --head`"):
            RayEngine(address=address)
        listening.listen()  # but never answers
        monkeypatch.setattr(ray_engine, "_ANSWER", 2.0)
        with pytest.raises(ValueError, match="is no Ray cluster"):
            RayEngine(address=address)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "mmseol\[ray\]"'):
        make_engine("ray", None, (), {})
