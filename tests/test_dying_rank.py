"""Two processes that train together by the command, of which one is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from helpers.forked_runs import start, status_of

from mmseol.__main__ import main
from mmseol.hooks import newest_whole_checkpoint

pytest.importorskip("mmpretrain")

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.py"


def train(rank: int, port: int, work_dir: Path, arguments: tuple[str, ...]) -> None:
    """Run the command as one of two processes, without its output."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    main("train", [str(CONFIG), "--launcher", "pytorch", "--work-dir", str(work_dir), *arguments])


def two_ranks(work_dir: Path, *arguments: str) -> list[BaseProcess]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    return [start(train, rank, port, work_dir, arguments) for rank in range(2)]


def iterations(checkpoint: Path) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["meta"]["iter"]


def test_the_other_rank_ends_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    options = ["--loss", "outlying_mse", "--seed", "1", "--cfg-options", "train_cfg.max_epochs=1000"]
    options += ["train_cfg.val_interval=1000", "default_hooks.checkpoint.interval=1"]
    done, epochs = 0, 2
    for dying, resume in ((1, []), (0, ["--resume"])):
        ranks = two_ranks(tmp_path, *resume, *options)
        deadline = time.monotonic() + 120
        while not (tmp_path / f"epoch_{epochs}.pth").exists():
            assert time.monotonic() < deadline
            assert all(rank.is_alive() for rank in ranks)
            time.sleep(0.01)
        ranks[dying].kill()
        assert status_of(ranks[dying]) == -signal.SIGKILL
        assert status_of(ranks[1 - dying], timeout=60) not in (0, None)
        saved = {
            int(path.stem.removeprefix("epoch_")): iterations(path) for path in tmp_path.glob("epoch_*.pth")
        }
        steps = {iteration // epoch for epoch, iteration in saved.items()}
        assert steps == {iteration / epoch for epoch, iteration in saved.items()}
        assert len(steps) == 1
        # a process that is killed while it saves may leave a file that ``last_checkpoint`` does not name yet
        newest = newest_whole_checkpoint(tmp_path)
        assert newest in (tmp_path / f"epoch_{max(saved) - late}.pth" for late in range(2))
        assert done < max(saved)
        done, epochs = max(saved), max(saved) + 2
    logs = [path.read_text() for path in tmp_path.glob("*/*.log")]
    assert sum("Resuming from" in log for log in logs) == 1
