"""Run command-line tools side by side, each with its output in a log."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__all__ = ["run_side_by_side", "warm_yapf"]


def warm_yapf() -> None:
    """Import yapf once: mmengine formats configs with it, and first imports ever, two at once, break it."""
    if find_spec("yapf") is not None:
        import_module("yapf")


def run_side_by_side(commands: Mapping[Path, tuple[str, ...]]) -> None:
    """Run Python command lines at once, each on its share of the cores: less time than one after the other.

    Args:
        commands: Arguments of ``python`` by the log that the output goes to.

    Raises:
        SystemExit: If one fails, with the end of its log; the others are stopped.
    """
    warm_yapf()
    threads = max(1, (os.cpu_count() or 2) // max(1, len(commands)))
    running = {}
    for log, arguments in commands.items():
        print("$ python " + " ".join(arguments), flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            running[log] = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
    try:
        for log, process in running.items():
            if process.wait():
                raise SystemExit("\n".join([*log.read_text().splitlines()[-30:], f"failed; see {log}"]))
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
