"""Train and score a config once per loss and seed, and collect the scores and costs of each run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from mmseol.analysis.records import written_scores
from mmseol.utils.files import replacing
from mmseol.utils.processes import LoggedProcess, end_of_log

__all__ = ["TrainingRun", "run_all"]


@dataclass
class TrainingRun:
    """One training and its test, in a folder of their own.

    >>> run = TrainingRun(Path("work_dirs/ce"), ["config.py", "--loss", "ce"], ["config.py", "--split", "val"])
    >>> run.folder.name
    'ce'

    Attributes:
        folder: Folder for logs, work directories and ``run.json``, the result.
        train: Arguments of ``tools/train.py`` but the work directory.
        test: Arguments of ``tools/test.py`` but the checkpoint and the work directory.
    """

    folder: Path
    train: Sequence[str]
    test: Sequence[str] = field(default_factory=tuple)

    def result(self, tools: Path, threads: int) -> dict[str, Any]:
        """Return scores in per cent, median ``seconds`` per iteration and peak ``memory`` in GB; or ``failed``.

        The last checkpoint is scored: no epoch is chosen. The result of a finished run is read; an
        interrupted run starts again.

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
        command = [str(tools / "train.py"), *self.train, "--work-dir", str(work_dir)]
        training = LoggedProcess(command, self.folder / "train.log", threads)
        if training.wait():
            return {"failed": _reason(training.log)}
        checkpoint = (work_dir / "last_checkpoint").read_text().strip()
        command = [str(tools / "test.py"), *self.test, "--work-dir", str(self.folder / "test")]
        command.insert(2, checkpoint)
        testing = LoggedProcess(command, self.folder / "test.log", threads)
        if testing.wait():
            return {"failed": _reason(testing.log)}
        scores = written_scores(self.folder / "test")
        return {**scores, "seconds": _seconds(work_dir), "memory": training.memory}


def run_all(runs: Sequence[TrainingRun], tools: Path, jobs: int) -> list[dict[str, Any]]:
    """Return the result of every run; ``jobs`` run at a time, each on an equal part of the cores.

    >>> import tempfile
    >>> run = TrainingRun(Path(tempfile.mkdtemp()) / "run", ["config.py"])
    >>> [list(result) for result in run_all([run], Path("folder_without_tools"), jobs=1)]
    [['failed']]
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda run: run.result(tools, threads), runs))


def _seconds(work_dir: Path) -> float:
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return median(line["time"] for line in lines if "time" in line and "loss" in line)


def _reason(log: Path) -> str:
    return end_of_log(log, lines=1).strip() or "no output"
