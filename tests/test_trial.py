"""The process of a trial: records whole or not at all, failures, interruptions, kills."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from helpers.forked_runs import start, status_of
from helpers.quick_trials import children_of, wait_for

from mmseol.sweeps import trial as trial_module
from mmseol.sweeps.claims import Claim, live_holder
from mmseol.sweeps.request import code_version
from mmseol.sweeps.trial import CLAIMED, DONE, FAILED, INTERRUPTED, run_trial, state
from mmseol.sweeps.work_folder import WorkFolder
from mmseol.utils.files import read_json, write_json


def train(folder, trial):
    """Count epochs in a file, which a continued training reads; do what the request says."""
    for epoch in range(len(epochs(folder)), trial.get("epochs", 1)):
        with (folder / "epochs.txt").open("a") as file:
            file.write(f"{epoch}\n")
        time.sleep(trial.get("seconds", 0))
        if trial.get("raises"):
            raise ValueError(trial["raises"])
        if trial.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
    write_json(folder / "train.json", {})


def score(folder, trial):
    write_json(folder / "score.json", {})


def epochs(folder: Path) -> list[str]:
    path = folder / "epochs.txt"
    return path.read_text().split() if path.is_file() else []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return the folder of a trial; its training takes no time."""
    monkeypatch.setattr("mmseol.sweeps.runs.train", train)
    monkeypatch.setattr("mmseol.sweeps.runs.score", score)
    monkeypatch.setattr(
        "mmseol.sweeps.trial_record.trial_record", lambda folder, attempts: {"attempts": len(attempts)}
    )
    path = tmp_path / "trials" / "a"
    write_json(path / "trial.json", {"key": "a"})
    return path


def test_a_finished_trial_never_runs_again(folder):
    assert run_trial(folder) == DONE
    assert (state(folder), epochs(folder)) == ("done", ["0"])
    assert live_holder(folder) is None
    written = (folder / "record.json").stat().st_mtime_ns
    (folder / "epochs.txt").unlink()
    assert run_trial(folder) == DONE
    assert (folder / "record.json").stat().st_mtime_ns == written
    assert not (folder / "epochs.txt").exists()


def test_a_failed_trial_names_its_reason_and_runs_again_on_request_alone(folder, tmp_path):
    write_json(folder / "trial.json", {"key": "a", "raises": "`alpha` must be above 0, got -1."})
    assert run_trial(folder) == FAILED
    assert state(folder) == "failed"
    assert "`alpha` must be above 0, got -1." in read_json(folder / "failed.json")["reason"]
    assert WorkFolder(tmp_path).retry_failed() == 1
    assert state(folder) == "interrupted"
    assert WorkFolder(tmp_path).retry_failed() == 0


def test_a_trial_of_another_process_is_left_alone(folder):
    claim = Claim.take(folder)
    assert run_trial(folder) == CLAIMED
    assert epochs(folder) == []
    claim.release()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_interrupts_and_the_next_process_continues(folder, name):
    write_json(folder / "trial.json", {"key": "a", "epochs": 4, "seconds": 0.5})
    process = start(run_and_exit, folder)
    wait_for(lambda: len(epochs(folder)) == 2)
    os.kill(process.pid, getattr(signal, name))
    assert status_of(process) == INTERRUPTED
    assert state(folder) == "interrupted"
    assert run_trial(folder) == DONE
    assert epochs(folder) == ["0", "1", "2", "3"]
    assert read_json(folder / "record.json") == {"attempts": 2}


def run_and_exit(folder: Path) -> None:
    raise SystemExit(run_trial(folder))


def test_a_killed_trial_leaves_no_process_and_is_taken_over(folder):
    write_json(folder / "trial.json", {"key": "a", "epochs": 3, "seconds": 0.5})
    process = start(run_and_exit, folder)
    wait_for(lambda: len(epochs(folder)) == 1)
    children = children_of(process.pid)
    assert children
    os.kill(process.pid, signal.SIGKILL)
    assert status_of(process) == -signal.SIGKILL
    wait_for(lambda: not [pid for pid in children if Path(f"/proc/{pid}/stat").exists()])
    assert state(folder) == "interrupted"
    assert run_trial(folder) == DONE
    assert epochs(folder) == ["0", "1", "2"]


def test_a_trial_stops_when_whoever_started_it_is_gone(folder):
    write_json(folder / "trial.json", {"key": "a", "epochs": 100, "seconds": 0.1})
    assert run_trial(folder, abandoned=lambda: len(epochs(folder)) > 1) == INTERRUPTED
    assert len(epochs(folder)) < 100


def test_a_training_that_is_killed_again_and_again_fails(folder):
    write_json(folder / "trial.json", {"key": "a", "epochs": 9, "killed": True})
    assert [run_trial(folder) for _ in range(3)] == [INTERRUPTED, INTERRUPTED, FAILED]
    assert "killed 3 times, last by SIGKILL" in read_json(folder / "failed.json")["reason"]


def test_a_trial_that_was_taken_over_ends_without_a_record(folder, monkeypatch):
    monkeypatch.setattr(trial_module, "_HEARTBEAT", 0.0)
    write_json(folder / "trial.json", {"key": "a", "epochs": 100, "seconds": 0.1})

    def take_over() -> bool:
        if len(epochs(folder)) == 2:
            write_json(folder / "claim-0002.json", {"host": "elsewhere", "pid": 1})
        return False

    assert run_trial(folder, abandoned=take_over) == INTERRUPTED
    assert not (folder / "record.json").exists()
    assert live_holder(folder)["host"] == "elsewhere"


def test_a_full_disk_leaves_no_record_rather_than_half_of_one(folder, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_json(folder / "train.json", {})
    write_json(folder / "score.json", {})
    with monkeypatch.context() as context:
        context.setattr("mmseol.utils.files.json.dumps", lambda *_, **__: "{" + "0" * 100)
        context.setattr("mmseol.utils.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run_trial(folder)
    assert state(folder) == "waiting"
    assert not [path for path in folder.iterdir() if "record" in path.name or path.suffix == ".tmp"]
    assert run_trial(folder) == DONE


def test_a_process_with_other_code_refuses_a_planned_trial(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["trial", str(folder)])
    write_json(folder / "trial.json", {"key": "a", "version": "0+other"})
    with pytest.raises(SystemExit, match=r"planned with mmseol 0\+other, but this is"):
        trial_module.main()
    assert state(folder) == "waiting"
    write_json(folder / "trial.json", {"key": "a", "version": code_version()})
    with pytest.raises(SystemExit) as caught:
        trial_module.main()
    assert caught.value.code == DONE
