"""What processes of a launcher do in tests, in place of training."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def note_rank(folder: Path, trial: Mapping[str, Any], resume: str | None, launcher: str) -> None:
    """Write the rank and the number of the process, then fail or wait as the trial says."""
    rank = os.environ["RANK"]
    text = f"{os.environ['WORLD_SIZE']} {os.environ['LOCAL_RANK']} {launcher} {os.getpid()}"
    (folder / f"rank{rank}.part").write_text(text)
    (folder / f"rank{rank}.part").rename(folder / f"rank{rank}.txt")
    if trial.get("failing") == int(rank):
        raise ValueError("no such class")
    time.sleep(trial.get("seconds", 0))
