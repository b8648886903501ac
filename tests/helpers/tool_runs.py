"""Runs of the command-line tools in this process, and their checkpoints."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"


def call(monkeypatch: pytest.MonkeyPatch, tool: str, *arguments: object) -> None:
    """Run a tool in this process, which has the hosts imported."""
    monkeypatch.setattr(sys, "argv", [str(TOOLS / tool), *map(str, arguments)])
    monkeypatch.setenv("LOCAL_RANK", "0")
    runpy.run_path(str(TOOLS / tool), run_name="__main__")


def state_and_difficulty(work_dir: Path) -> tuple[dict[str, Any], list[float]]:
    """Return the weights after two epochs, and 1 - recall in the validation that set their difficulty."""
    checkpoint = torch.load(work_dir / "epoch_2.pth", map_location="cpu", weights_only=False)
    known_at = checkpoint["meta"]["class_difficulty_iter"]
    records = [json.loads(path.read_text()) for path in work_dir.glob("*/class_scores_val_*.json")]
    (rows,) = [record["classes"] for record in records if record["iter"] == known_at]
    difficulty = [1 if row["recall"] is None else 1 - row["recall"] / 100 for row in rows]
    return checkpoint["state_dict"], difficulty
