"""Trials for tests of engines: as ``mmseol.sweeps.trial``, but training counts to ten and imports no host.

python quick_trials.py FOLDER [--parent PID]       run a trial
python quick_trials.py drive ADDRESS FOLDER ..     run trials on the Ray cluster at an address
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mmseol.sweeps.claims import live_holder
from mmseol.sweeps.engines import Engine
from mmseol.sweeps.trial import main, state
from mmseol.utils.files import read_json, write_json

EPOCHS = 10
COMMAND = (__file__,)


def make(root: Path, number: int, seconds: float, held: Sequence[int] = ()) -> list[Path]:
    """Return the folders of new trials; the held ones wait after their first epoch for :func:`release`."""
    folders = [root / "trials" / f"{seed}" for seed in range(number)]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        write_json(folder / "trial.json", {"seed": seed, "seconds": seconds})
        if seed in held:
            (folder / "held").touch()
    return folders


def release(folders: Sequence[Path]) -> None:
    """Let held trials go on."""
    for folder in folders:
        (folder / "held").unlink(missing_ok=True)


def drive(
    engine: Engine,
    folders: Sequence[Path],
    meanwhile: Callable[[], None] = lambda: None,
    patience: float = 60.0,
) -> None:
    """Run all trials to their end, as the driver of a sweep does."""
    deadline = time.monotonic() + patience
    running: set[Path] = set()
    try:
        while any(state(folder) not in ("done", "failed") for folder in folders) or running:
            assert time.monotonic() < deadline, {folder.name: state(folder) for folder in folders}
            for folder in folders:
                free = folder not in running and state(folder) in ("waiting", "interrupted")
                if free and len(running) < engine.slots:
                    engine.start(folder)
                    running.add(folder)
            running -= set(engine.finished())
            meanwhile()
            time.sleep(0.1)
    finally:
        engine.close()


def wait_for(condition: Callable[[], Any], patience: float = 30.0) -> None:
    """Return when the condition holds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def epochs_of(folder: Path) -> list[int]:
    """Return the epochs that a trial has trained, in their order."""
    lines = folder / "epochs.txt"
    return [int(line) for line in lines.read_text().split()] if lines.is_file() else []


def record_of(folder: Path) -> dict[str, Any]:
    """Return a record without what differs from run to run."""
    return {key: value for key, value in read_json(folder / "record.json").items() if key != "process"}


def records_on_this_machine(root: Path, number: int) -> list[dict[str, Any]]:
    """Return the records of such trials, run one after another without an engine."""
    folders = make(root, number, seconds=0)
    for folder in folders:
        subprocess.run([sys.executable, *COMMAND, str(folder)], check=True)
    return [record_of(folder) for folder in folders]


def process_of(folder: Path) -> int:
    """Return the number of the process that works on a trial, which has trained an epoch."""
    wait_for(lambda: epochs_of(folder) and live_holder(folder))
    return (live_holder(folder) or {})["pid"]


def parent_of(pid: int) -> int:
    """Return the number of the process that started a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    """Return the numbers of all processes that descend from a process."""
    children = [
        int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent_or_none(int(path.name)) == pid
    ]
    return [one for child in children for one in (*children_of(child), child)]


def _parent_or_none(pid: int) -> int | None:
    try:
        return parent_of(pid)
    except (OSError, IndexError):  # it has ended
        return None


def train(folder: Path, trial: Mapping[str, Any]) -> None:
    """Add a line to ``epochs.txt`` for each epoch."""
    for epoch in range(len(epochs_of(folder)), EPOCHS):
        while epoch and (folder / "held").exists():
            time.sleep(0.05)
        time.sleep(trial["seconds"] / EPOCHS)
        with (folder / "epochs.txt").open("a") as file:
            file.write(f"{epoch}\n")
    write_json(folder / "train.json", {"sum": trial["seed"] * EPOCHS})


def score(folder: Path, trial: Mapping[str, Any]) -> None:
    """Write a score that depends on the seed."""
    write_json(folder / "score.json", {"score": read_json(folder / "train.json")["sum"] + 0.5})


def trial_record(folder: Path, attempts: Any) -> dict[str, Any]:
    """Return score and epochs, and of the process its settings and attempts."""
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_RAYLET_PID", "SLURM_CPUS_PER_TASK")
    settings = {name: os.environ.get(name) for name in names}
    process = {"settings": settings, "attempts": len(attempts), "workdir": os.getcwd()}
    return {**read_json(folder / "score.json"), "epochs": epochs_of(folder), "process": process}


if __name__ == "__main__" and sys.argv[1] == "drive":
    from mmseol.sweeps.ray_engine import RayEngine

    RayEngine.command = COMMAND
    drive(RayEngine(address=sys.argv[2]), [Path(name) for name in sys.argv[3:]])
elif __name__ == "__main__":
    for name, functions in (("runs", (train, score)), ("trial_record", (trial_record,))):
        module = sys.modules[f"mmseol.sweeps.{name}"] = ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
    main()
