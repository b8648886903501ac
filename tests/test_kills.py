"""Training runs of the command line, of two processes, that are killed at random moments and resumed.

``KILLS=10 pytest tests/test_kills.py`` kills ten times.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.forked_runs import start, status_of

from mmseol.__main__ import main

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.py"
EPOCHS = 3
KILLS = int(os.environ.get("KILLS", 3))
LAST = f"epoch_{EPOCHS}.pth"
OPTIONS = [f"train_cfg.max_epochs={EPOCHS}", "train_cfg.val_interval=1", "default_hooks.logger.interval=5"]


def train(rank: int, port: int, work_dir: Path, *arguments: str) -> None:
    """Run the command as one of two processes, without its output."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    command = ["train", str(CONFIG), "--launcher", "pytorch", "--loss", "cdb_ce", "--seed", "3"]
    sys.argv = ["mmseol", *command, "--work-dir", str(work_dir), *arguments]
    sys.argv += ["--cfg-options", *OPTIONS, f"experiment_name={work_dir.name}_{port}"]
    main()
    dist.barrier()
    os._exit(0)  # gloo of torch 2.1 may hang at the exit once the other rank is gone


def start_ranks(work_dir: Path, *arguments: str) -> list[BaseProcess]:
    """Start the command in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(train, rank, port, work_dir, *arguments) for rank in range(2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return the work directory of a run that nothing interrupted, and its seconds."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    begin = time.monotonic()
    assert [status_of(process, 300) for process in start_ranks(work_dir)] == [0, 0]
    return work_dir, time.monotonic() - begin


def state_of(path: Path) -> dict[str, Any]:
    """Return what a run continues with: weights, losses, optimizer, schedules, position."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    position = {name: checkpoint["meta"][name] for name in ("epoch", "iter", "seed")}
    kept = ("state_dict", "optimizer", "param_schedulers", "rank_states")
    return {**position, **{name: plain(checkpoint[name]) for name in kept}}


def plain(value: Any) -> Any:
    """Return nested containers with numbers in place of tensors, which ``==`` compares to the last digit."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def check_files(work_dir: Path) -> None:
    """Assert that every file of a run can be read to its end."""
    for path in work_dir.rglob("*"):
        if path.suffix == ".pth":
            torch.load(path, map_location="cpu", weights_only=False)
        elif path.suffix == ".json" and path.parent.name != "vis_data":
            json.loads(path.read_text())
        elif path.name == "last_checkpoint":
            assert Path(path.read_text()).is_file()


def test_killed_runs_end_with_the_digits_of_one_that_was_not(
    whole: tuple[Path, float], tmp_path: Path
) -> None:
    finished, seconds = whole
    expected = state_of(finished / LAST)
    rng, number, kills, compared = random.Random(0), 0, 0, 0
    while kills < KILLS or not compared:
        work_dir = tmp_path / str(number)
        resume = ["--resume"] if list(work_dir.glob("epoch_*.pth")) else []
        ranks = start_ranks(work_dir, *resume)
        rng.shuffle(ranks)
        ranks[0].join(rng.uniform(0.2, 0.9) * seconds if kills < KILLS else 300)
        for process in ranks:
            process.kill()
        statuses = [status_of(process) for process in ranks]
        assert set(statuses) <= {-signal.SIGKILL, 0}
        check_files(work_dir)
        kills += -signal.SIGKILL in statuses
        if (work_dir / LAST).is_file() and statuses == [0, 0]:
            assert state_of(work_dir / LAST) == expected
            assert best_of(work_dir) == best_of(finished)
            compared += 1
        if statuses == [0, 0] or not list(work_dir.glob("epoch_*.pth")):  # nothing to continue
            number += 1


def best_of(work_dir: Path) -> str:
    """Return the name of the checkpoint that was best in validation."""
    (path,) = work_dir.glob("best_*.pth")
    return path.name
