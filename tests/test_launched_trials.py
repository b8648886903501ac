"""Trials of several processes, started by PyTorch's launcher."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helpers.forked_runs import start
from helpers.quick_trials import wait_for
from helpers.ranks import note_rank

from mmseol.sweeps import runs
from mmseol.sweeps.engines import LocalEngine
from mmseol.sweeps.planner import Trial
from mmseol.sweeps.request import Requests
from mmseol.sweeps.sweep_file import Sweep

CONFIG = "quickstart/digits.py"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(runs, "_train_process", note_rank)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    )


def ranks(folder: Path) -> list[list[str]]:
    """Return world size, local rank, launcher and process of each rank."""
    return [path.read_text().split() for path in sorted(folder.glob("rank*.txt"))]


def test_ranks_train_together_and_the_first_that_fails_is_named(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError, match="rank 1: ValueError: no such class"):
        runs.train(tmp_path, {"processes": 2, "failing": 1})
    assert signal.getsignal(signal.SIGINT) is before
    assert [rank[:3] for rank in ranks(tmp_path)] == [["2", "0", "pytorch"], ["2", "1", "pytorch"]]


def test_ranks_end_with_their_trial(tmp_path):
    trial = start(runs.train, tmp_path, {"processes": 2, "seconds": 60})
    wait_for(lambda: len(ranks(tmp_path)) == 2)
    os.kill(trial.pid, signal.SIGKILL)
    trial.join()
    wait_for(lambda: not any(Path("/proc", rank[-1]).exists() for rank in ranks(tmp_path)))


def test_fewer_gpus_than_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(
        ValueError, match=r"`processes_per_trial` must be at most .* 1, got 2: .* gpus_per_trial=2"
    ):
        runs.train(tmp_path, {"processes": 2})


def test_the_number_of_processes_is_part_of_a_trial():
    trial = Trial("final", CONFIG, None, "ce", (), length=2, seed=1)
    made = [
        Requests(Sweep("a", [CONFIG], ["ce"], epochs=2, metric="accuracy", processes_per_trial=number)).of(
            trial
        )
        for number in (1, 2)
    ]
    assert [one["processes"] for one in made] == [1, 2]
    assert made[0]["key"] != made[1]["key"]
    assert made[1]["command"][0].startswith(f"tools/dist_train.sh {CONFIG} 2 --loss ce")
    with pytest.raises(ValueError, match="`processes_per_trial` must be"):
        Sweep("a", [CONFIG], ["ce"], epochs=2, metric="accuracy", processes_per_trial=0)


def test_slots_of_several_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6,7,9")
    engine = LocalEngine(gpus_per_trial=2)
    assert engine.slots == 2
    assert [engine._gpus_of(slot) for slot in range(3)] == ["3,5", "6,7", "9,3"]
    assert LocalEngine().slots == 5
    with pytest.raises(ValueError, match=r"`gpus_per_trial` must be at most 5, .* got 6"):
        LocalEngine(gpus_per_trial=6)
