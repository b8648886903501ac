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

from mmengine.config import Config

from mmseol.analysis.records import written_scores
from mmseol.utils.files import replacing
from mmseol.utils.processes import LoggedProcess, end_of_log

__all__ = ["TrainingRun", "best_validation", "run_all", "tuning_rows"]


@dataclass
class TrainingRun:
    """One training and its test, in a folder of their own.

    >>> run = TrainingRun(Path("work_dirs/ce"), ["config.py", "--loss", "ce"], ["config.py"])
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
        """Return scores in per cent, median ``seconds`` an iteration, peak ``memory`` in GB; or ``failed``.

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


def best_validation(work_dir: Path) -> dict[str, Any]:
    """Return learning rate ``lr``, ``metric`` and its best validation ``score`` of a training run.

    >>> import tempfile
    >>> work_dir = Path(tempfile.mkdtemp())
    >>> checkpoint = "default_hooks = dict(checkpoint=dict(save_best='mIoU'))"
    >>> _ = (work_dir / "toy.py").write_text(f"optim_wrapper = dict(optimizer=dict(lr=0.1))\\n{checkpoint}")
    >>> (work_dir / "now" / "vis_data").mkdir(parents=True)
    >>> _ = (work_dir / "now" / "vis_data" / "scalars.json").write_text('{"mIoU": 3.0}\\n{"mIoU": 2.0}')
    >>> best_validation(work_dir)
    {'lr': 0.1, 'metric': 'mIoU', 'score': 3.0}

    Args:
        work_dir: Work directory of ``tools/train.py``.

    Raises:
        ValueError: If the folder is not the work directory of one run.
    """
    configs = list(work_dir.glob("*.py"))
    if len(configs) != 1:
        raise ValueError(f"`work_dir` must be that of one training run, got {str(work_dir)!r}.")
    cfg = Config.fromfile(configs[0])
    metric = cfg.default_hooks.checkpoint.save_best
    scores = [line[metric] for line in _scalars(work_dir) if metric in line]
    score = round(max(scores), 2) if scores else None
    return {"lr": cfg.optim_wrapper.optimizer.lr, "metric": metric, "score": score}


def tuning_rows(runs: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row of :func:`best_validation` for each run, with its ``loss``, by loss and learning rate.

    >>> import tempfile
    >>> work_dir = Path(tempfile.mkdtemp())
    >>> checkpoint = "default_hooks = dict(checkpoint=dict(save_best='mIoU'))"
    >>> _ = (work_dir / "toy.py").write_text(f"optim_wrapper = dict(optimizer=dict(lr=0.1))\\n{checkpoint}")
    >>> (work_dir / "now" / "vis_data").mkdir(parents=True)
    >>> _ = (work_dir / "now" / "vis_data" / "scalars.json").write_text('{"mIoU": 3.0}')
    >>> tuning_rows([f"ce={work_dir}"])
    [{'loss': 'ce', 'lr': 0.1, 'metric': 'mIoU', 'score': 3.0}]

    Args:
        runs: ``LOSS=DIR,DIR,...`` with the work directories of a loss.

    Raises:
        ValueError: If an item has another form or a folder is not the work directory of one run.
    """
    rows = []
    for item in runs:
        loss, _, folders = item.partition("=")
        if not (loss and folders):
            raise ValueError(f"`runs` must be LOSS=DIR,DIR,..., got {item!r}.")
        of_loss = [{"loss": loss, **best_validation(Path(folder))} for folder in folders.split(",")]
        rows += sorted(of_loss, key=lambda row: row["lr"])
    return rows


def _scalars(work_dir: Path) -> list[dict[str, Any]]:
    logs = list(work_dir.glob("*/vis_data/scalars.json"))
    if len(logs) != 1:
        raise ValueError(f"`work_dir` must be that of one training run, got {str(work_dir)!r}.")
    return [json.loads(line) for line in logs[0].read_text().splitlines()]


def _seconds(work_dir: Path) -> float:
    return median(line["time"] for line in _scalars(work_dir) if "time" in line and "loss" in line)


def _reason(log: Path) -> str:
    return end_of_log(log, lines=1).strip() or "no output"
