"""The Slurm engine, on a cluster of one node on this machine; its jobs without Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import quick_trials, slurm
from helpers.forked_runs import start
from helpers.quick_trials import (
    COMMAND,
    EPOCHS,
    drive,
    epochs_of,
    make,
    parent_of,
    process_of,
    record_of,
    release,
    wait_for,
)

from mmseol.sweeps import slurm_engine
from mmseol.sweeps.engines import make_engine
from mmseol.sweeps.slurm_engine import SlurmEngine, SlurmTrial, minutes
from mmseol.sweeps.trial import state
from mmseol.utils.files import read_json


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Run Slurm on a node with four cores and two pretended GPUs."""
    if reason := slurm.missing():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    with slurm.cluster() as config, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("SLURM_CONF", str(config))
        monkeypatch.setattr(SlurmEngine, "command", COMMAND)
        monkeypatch.setattr(SlurmEngine, "poll", 0.5)
        yield


def command(*words: str) -> str:
    """Return the output of a command of Slurm."""
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def job(folder: Path) -> str:
    """Return the job of a trial."""
    return read_json(folder / "slurm.json")["job"]


def process(folder: Path) -> dict[str, Any]:
    """Return what a record tells of the process of its trial."""
    return read_json(folder / "record.json")["process"]


@pytest.mark.usefixtures("cluster")
def test_a_job_array_gives_the_records_of_one_process(tmp_path):
    folders = make(tmp_path / "slurm", 4, seconds=1)
    engine = SlurmEngine(slots=3, cpus_per_trial=2, gpus_per_trial=1, memory=0.25, time="2:00:00")
    drive(engine, folders)
    expected = quick_trials.records_on_this_machine(tmp_path / "here", 4)
    assert [record_of(folder) for folder in folders] == expected
    arrays = [job(folder).partition("_") for folder in folders]
    assert [index for _, _, index in arrays] == ["0", "1", "2", ""], "three at a time, then the last one"
    assert len({number for number, _, _ in arrays[:3]}) == 1
    for folder in folders:
        settings = process(folder)["settings"]
        assert settings["OMP_NUM_THREADS"] == settings["SLURM_CPUS_PER_TASK"] == "2"
        assert settings["CUDA_VISIBLE_DEVICES"] in ("0", "1")
        assert process(folder)["attempts"] == 1
        assert process(folder)["workdir"] == os.getcwd()


@pytest.mark.usefixtures("cluster")
def test_time_limits_and_kills_give_trials_back(tmp_path):
    limited, killed, cancelled = folders = make(tmp_path, 3, seconds=1, held=range(3))
    first: list[str] = []

    def interrupt() -> None:
        if not first and all(epochs_of(folder) for folder in folders):
            first.extend(map(job, folders))
            command("scancel", "--signal=USR2", first[0])  # as Slurm does before the time limit
            os.kill(process_of(killed), signal.SIGKILL)
            command("scancel", first[2])
            wait_for(lambda: all(state(folder) == "interrupted" for folder in folders))
            release(folders)

    drive(SlurmEngine(signal_seconds=30), folders, interrupt)
    for folder in folders:
        assert epochs_of(folder) == list(range(EPOCHS)), "continued, not repeated"
        assert process(folder)["attempts"] == 2
    assert job(limited) == first[0], "the same job, requeued"
    assert job(killed) != first[1]
    assert job(cancelled) != first[2]


@pytest.mark.usefixtures("cluster")
def test_a_preempted_job_waits_and_continues(tmp_path):
    folders = make(tmp_path, 2, seconds=1, held=range(2))
    first: list[str] = []

    def preempt() -> None:
        if not first and all(epochs_of(folder) for folder in folders):
            first.extend(map(job, folders))
            command("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap", "true")
            wait_for(lambda: all(state(folder) == "interrupted" for folder in folders))
            release(folders)

    drive(SlurmEngine(), folders, preempt)
    assert [job(folder) for folder in folders] == first
    assert [process(folder)["attempts"] for folder in folders] == [2, 2]
    assert [epochs_of(folder) for folder in folders] == [list(range(EPOCHS))] * 2


@pytest.mark.usefixtures("cluster")
def test_the_next_driver_takes_over_the_jobs_of_a_killed_one(tmp_path):
    folders = make(tmp_path, 6, seconds=1)  # more than cores
    killed = SlurmEngine()
    for folder in folders:
        killed.start(folder)
    killed.finished()
    jobs = [job(folder) for folder in folders]
    drive(SlurmEngine(), folders)
    assert [job(folder) for folder in folders] == jobs
    assert [process(folder)["attempts"] for folder in folders] == [1] * 6


@pytest.mark.usefixtures("cluster")
def test_closing_cancels_jobs_so_that_trials_continue(tmp_path):
    running, waiting = folders = make(tmp_path, 2, seconds=1, held=range(2))
    engine = SlurmEngine(cpus_per_trial=4)
    for folder in folders:
        engine.start(folder)
    engine.finished()
    wait_for(lambda: epochs_of(running) or epochs_of(waiting))
    engine.close()
    engine.close()
    wait_for(lambda: not command("squeue", "--noheader"))
    assert sorted(state(folder) for folder in folders) == ["interrupted", "waiting"]
    release(folders)
    drive(SlurmEngine(), folders)
    assert [epochs_of(folder) for folder in folders] == [list(range(EPOCHS))] * 2


@pytest.mark.usefixtures("cluster")
def test_a_node_that_cannot_run_trials_ends_the_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(SlurmEngine, "command", ("-m", "no_such_module"))
    engine = SlurmEngine()
    (folder,) = make(tmp_path, 1, seconds=0)
    engine.start(folder)
    with pytest.raises(
        RuntimeError, match=r"ended with status 1: .*No module named no_such_module.* See .*\.out"
    ):
        wait_for(engine.finished)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"gpus_per_trial": 3}, "--gpus-per-node=3.*node configuration is not available"),
        ({"partition": "night"}, "--partition=night.*invalid partition"),
        ({"cpus_per_trial": 5}, "--cpus-per-task=5"),
        ({"options": "--no-such-option"}, "no-such-option"),
    ],
)
@pytest.mark.usefixtures("cluster")
def test_slurm_is_asked_before_anything_starts(arguments, reason):
    with pytest.raises(ValueError, match=f"Slurm refuses (?s:.*){reason}"):
        SlurmEngine(**arguments)


@pytest.mark.usefixtures("cluster")
def test_a_controller_that_is_silent_ends_the_driver_late(monkeypatch, tmp_path):
    engine = SlurmEngine()
    (folder,) = make(tmp_path, 1, seconds=0)
    engine.start(folder)
    engine.finished()
    wait_for(lambda: state(folder) == "done")
    with monkeypatch.context() as patch:
        (tmp_path / "squeue").write_text("#!/bin/sh\necho Unable to contact controller >&2\nexit 1\n")
        (tmp_path / "squeue").chmod(0o755)
        patch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        assert engine.finished() == []
        patch.setattr(slurm_engine, "_SILENCE", 0.0)
        with pytest.raises(RuntimeError, match=r"Slurm has not answered .* Unable to contact controller"):
            wait_for(engine.finished)
    assert wait_for(engine.finished) is None


def test_a_job_saves_and_is_requeued(tmp_path):
    submitit = pytest.importorskip("submitit")
    (folder,) = make(tmp_path, 1, seconds=0, held=(0,))
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=60)
    job = executor.submit(SlurmTrial(30, COMMAND), str(folder))
    os.kill(parent_of(process_of(folder)), signal.SIGUSR2)
    wait_for(lambda: state(folder) == "interrupted")
    release([folder])
    assert job.result() == 0
    assert epochs_of(folder) == list(range(EPOCHS))
    assert process(folder)["attempts"] == 2


def test_a_job_that_is_told_to_end_saves_and_leaves_the_rest_to_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    (folder,) = make(tmp_path, 1, seconds=0, held=(0,))
    job = start(SlurmTrial(30, COMMAND), str(folder))
    process_of(folder)
    os.kill(job.pid, signal.SIGTERM)
    wait_for(lambda: state(folder) == "interrupted")
    job.join(1)
    assert job.exitcode is None, "Slurm requeues a preempted job in its grace time only if it runs"
    job.kill()
    job.join()


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (30, 30),
        ("30", 30),
        ("90:01", 91),
        ("1:30:00", 90),
        ("2-0", 2880),
        ("1-12:30", 2190),
        ("1-12:30:01", 2191),
    ],
)
def test_time_limits_as_sbatch_reads_them(limit, expected):
    assert minutes(limit) == expected


@pytest.mark.parametrize("limit", [0, "0:00", True, -5, 1.5, "1h", "1-", "1:2:3:4", None])
def test_other_time_limits_are_refused(limit):
    with pytest.raises(ValueError, match="`time` must be"):
        minutes(limit)


@pytest.mark.parametrize("options", ["account=vision", "--account vision", "--Account=1", "-A vision"])
def test_options_are_long_options(options):
    with pytest.raises(ValueError, match="`options` must be options of sbatch"):
        SlurmEngine(options=options)


def test_without_slurm_the_error_says_where_to_start(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs `sbatch` on this machine"):
        make_engine("slurm", None, (), {})


def test_without_submitit_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r'pip install "mmseol\[slurm\]"'):
        make_engine("slurm", None, (), {})
