"""Training runs of the command line that are killed at random moments and resumed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.forked_runs import start, status_of

from mmseol.__main__ import main

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart" / "digits.py"
EPOCHS = 3
LAST = f"epoch_{EPOCHS}.pth"
OPTIONS = [f"train_cfg.max_epochs={EPOCHS}", "train_cfg.val_interval=1", "default_hooks.logger.interval=5"]


def train(work_dir: Path, *arguments: str) -> None:
    """Run the command in this process, without its output."""
    os.environ["LOCAL_RANK"] = "0"
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.argv = [
        "mmseol",
        "train",
        str(CONFIG),
        "--loss",
        "cdb_ce",
        "--seed",
        "3",
        "--work-dir",
        str(work_dir),
    ]
    sys.argv += [*arguments, "--cfg-options", *OPTIONS, f"experiment_name={work_dir.name}_{time.time_ns()}"]
    main()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Return the work directory of a run that nothing interrupted, and its seconds."""
    work_dir = tmp_path_factory.mktemp("whole") / "run"
    begin = time.monotonic()
    assert status_of(start(train, work_dir)) == 0
    return work_dir, time.monotonic() - begin


def state_of(path: Path) -> dict[str, Any]:
    """Return what a run continues with: weights, losses, optimizer, schedules, position."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    position = {name: checkpoint["meta"][name] for name in ("epoch", "iter", "seed")}
    kept = ("state_dict", "optimizer", "param_schedulers")
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


def test_runs_killed_ten_times_end_with_the_digits_of_one_that_was_not(
    whole: tuple[Path, float], tmp_path: Path
) -> None:
    finished, seconds = whole
    expected = state_of(finished / LAST)
    rng, number, compared = random.Random(0), 0, 0
    for kill in range(11):
        work_dir = tmp_path / str(number)
        resume = ["--resume"] if list(work_dir.glob("epoch_*.pth")) else []
        process = start(train, work_dir, *resume)
        process.join(rng.uniform(0.2, 0.8) * seconds if kill < 10 else None)
        process.kill()
        status = status_of(process)
        assert status in (-signal.SIGKILL, 0)
        check_files(work_dir)
        if status == 0:  # it was faster than the random moment, or is the last one
            assert state_of(work_dir / LAST) == expected
            compared += 1
        if status == 0 or not list(work_dir.glob("epoch_*.pth")):  # nothing to continue
            number += 1
    assert compared
