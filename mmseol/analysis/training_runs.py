"""Train and score a config once per loss and seed, and gather what each run reached and cost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mmseol.analysis.records import written_scores
from mmseol.utils.files import replacing

__all__ = ["TrainingRun", "run_all"]

_POLL = 0.2  # seconds between looks at a process's memory


@dataclass
class TrainingRun:
    """One training and one test of it, in a folder of its own.

    Attributes:
        folder: Where everything of the run goes; ``run.json`` there has its result.
        train: Arguments of ``tools/train.py`` but the work directory.
        test: Arguments of ``tools/test.py`` but the checkpoint and the work directory.
    """

    folder: Path
    train: Sequence[str]
    test: Sequence[str] = field(default_factory=tuple)

    def result(self, tools: Path, threads: int) -> dict[str, Any]:
        """Return scores in per cent, ``seconds`` an iteration (median), peak ``memory`` in GB; or ``failed``.

        The last checkpoint is scored: no epoch is chosen. A finished run is read, one that was cut off is
        started again.

        Raises:
            FileExistsError: If the folder holds something else.
        """
        began, done = self.folder / "arguments.json", self.folder / "run.json"
        arguments = {"train": list(self.train), "test": list(self.test)}
        if self.folder.exists():
            if not began.is_file() or json.loads(began.read_text()) != arguments:
                raise FileExistsError(
                    f"{str(self.folder)!r} holds something else than this run. Remove it, or give another "
                    "--work-dir."
                )
            if not done.is_file():
                shutil.rmtree(self.folder)
        if not done.is_file():
            with replacing(began, "w") as file:
                json.dump(arguments, file)
            result = self._run(tools, threads)
            with replacing(done, "w") as file:
                file.write(json.dumps(result, indent=1) + "\n")
        return json.loads(done.read_text())

    def _run(self, tools: Path, threads: int) -> dict[str, Any]:
        work_dir = self.folder / "train"
        log = self.folder / "train.log"
        command = [str(tools / "train.py"), *self.train, "--work-dir", str(work_dir)]
        status, memory = _watched(command, log, threads)
        if status:
            return {"failed": _reason(log)}
        checkpoint = (work_dir / "last_checkpoint").read_text().strip()
        log = self.folder / "test.log"
        command = [str(tools / "test.py"), *self.test, "--work-dir", str(self.folder / "test")]
        command.insert(2, checkpoint)
        status, _ = _watched(command, log, threads)
        if status:
            return {"failed": _reason(log)}
        scores = written_scores(self.folder / "test")
        return {**scores, "seconds": _seconds(work_dir), "memory": memory}


def run_all(runs: Sequence[TrainingRun], tools: Path, jobs: int) -> list[dict[str, Any]]:
    """Return the result of every run, ``jobs`` at a time, each on its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda run: run.result(tools, threads), runs))


def _watched(command: Sequence[str], log: Path, threads: int) -> tuple[int, float | None]:
    """Run Python with these arguments; return its exit status and peak resident memory in GB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = None
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        while process.poll() is None:
            peak = _peak(process.pid) or peak
            time.sleep(_POLL)
    return process.returncode, peak


def _peak(pid: int) -> float | None:
    """Return the process's own peak so far: ``ru_maxrss`` would start at its parent's."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e9 if found else None


def _seconds(work_dir: Path) -> float:
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return median(line["time"] for line in lines if "time" in line and "loss" in line)


def _reason(log: Path) -> str:
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
