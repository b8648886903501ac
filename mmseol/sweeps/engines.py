"""Engines start trials somewhere; the driver is the same for all of them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from mmseol.sweeps.trial import CLAIMED, DONE, INTERRUPTED, run_trial, state
from mmseol.utils.checks import check_keywords, choice, whole_number
from mmseol.utils.processes import end_of_log

__all__ = ["ENGINES", "Engine", "LocalEngine", "check_trial_began", "make_engine"]

ENGINES = {
    "local": "mmseol.sweeps.engines.LocalEngine",
    "ray": "mmseol.sweeps.ray_engine.RayEngine",
    "slurm": "mmseol.sweeps.slurm_engine.SlurmEngine",
}
"""Class of every engine that ``--engine`` names."""


class Engine:
    """Where trials run. A subclass starts ``python -m mmseol.sweeps.trial FOLDER`` or the same function.

    >>> class Serial(Engine):
    ...     slots = 1
    ...     def start(self, folder):
    ...         run_trial(folder)
    ...         self.ended = [Path(folder)]
    ...     def finished(self):
    ...         ended, self.ended = self.ended, []
    ...         return ended
    >>> Serial().slots
    1

    Attributes:
        slots: Trials that it runs at a time; the driver starts no more.
    """

    slots: int = 1

    def start(self, folder: Path) -> None:
        """Start the trial of a folder, and return at once. The folder is on a file system that all share.

        Raises:
            RuntimeError: If no trial can be started, as on a cluster that is gone; the driver ends.
        """
        raise NotImplementedError

    def finished(self) -> list[Path]:
        """Return the folders of the trials that ended since the last call, in whatever way.

        ``mmseol.sweeps.trial.state`` tells how: a trial that is neither done nor failed runs again.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop what runs, so that it can continue later, and free everything. May be called twice."""


def make_engine(name: str, slots: int | None, preload: Sequence[str], options: Mapping[str, Any]) -> Engine:
    """Return the engine that ``--engine`` names.

    >>> make_engine("local", slots=2, preload=(), options={}).slots
    2
    >>> make_engine("condor", slots=None, preload=(), options={})
    Traceback (most recent call last):
    ValueError: `--engine` must be one of 'local', 'ray', 'slurm', got 'condor'.

    Args:
        name: Key of :data:`ENGINES`.
        slots: Trials at a time; ``None``: as many as the engine chooses.
        preload: Modules that every trial imports.
        options: Further arguments of the engine's class.

    Raises:
        ValueError: If the name or an option is unknown.
        ImportError: If the engine needs a package that is not installed.
    """
    choice("--engine", name, ENGINES)
    module, _, attribute = ENGINES[name].rpartition(".")
    cls = getattr(import_module(module), attribute)
    try:
        check_keywords(cls, options, "engine")
    except TypeError as error:
        raise ValueError(f"`--engine-options`: {error}") from error
    return cls(slots=slots, preload=preload, **options)


def check_trial_began(folder: Path, status: int) -> None:
    """Raise if a trial's process failed before the trial began, so that starting it again cannot help.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "trial.log").write_text("ModuleNotFoundError: No module named 'mmseol'")
    >>> check_trial_began(folder, status=1)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    RuntimeError: The process of ... ended with status 1: ModuleNotFoundError: No module named 'mmseol'

    Args:
        folder: Folder of the trial.
        status: Exit status of its process.
    """
    if status in (DONE, CLAIMED, INTERRUPTED) or status < 0 or state(folder) == "failed":
        return
    log = folder / "trial.log"
    reason = end_of_log(log, lines=1) if log.is_file() else ""
    raise RuntimeError(f"The process of {folder} ended with status {status}: {reason or 'no output'}")


class LocalEngine(Engine):
    """Trials on this machine, forked from a server process that has the packages imported already.

    A trial forks from the server within milliseconds; a fresh process would spend seconds on imports. Each
    slot has an equal part of the cores, and its GPUs in turn.

    >>> engine = LocalEngine(slots=2, threads=1)
    >>> engine.finished()
    []
    >>> engine.close()

    Args:
        slots: Trials at a time; ``None``: as many as the GPUs suffice for, or one per core up to 8. If there
            are more, trials share GPUs.
        preload: Modules that the server imports.
        threads: Threads of each trial; ``None``: its part of the cores.
        gpus_per_trial: GPUs of each trial, where there are any.

    Raises:
        ValueError: If a trial needs more GPUs than there are.
    """

    patience: ClassVar[float] = 60.0
    """Seconds that stopped trials have to save a checkpoint."""

    def __init__(
        self,
        slots: int | None = None,
        preload: Sequence[str] = (),
        threads: int | None = None,
        gpus_per_trial: int = 1,
    ) -> None:
        cores = os.cpu_count() or 1
        self.gpus = _gpus()
        self.gpus_per_trial = whole_number("gpus_per_trial", gpus_per_trial, at_least=1)
        if self.gpus_per_trial > max(1, len(self.gpus)):
            raise ValueError(
                f"`gpus_per_trial` must be at most {len(self.gpus)}, the GPUs of this machine, got "
                f"{gpus_per_trial}."
            )
        if slots is None:
            slots = len(self.gpus) // self.gpus_per_trial or min(cores, 8)
        self.slots = whole_number("--slots", slots, at_least=1)
        self.threads = whole_number(
            "threads", max(1, cores // self.slots) if threads is None else threads, at_least=1
        )
        self.preload = ["torch", "mmengine.runner", "mmseol.sweeps.trial", "mmseol.sweeps.runs", *preload]
        self._running: dict[Path, tuple[Any, int]] = {}

    def start(self, folder: Path) -> None:
        """Fork a process for the trial."""
        self._start_server()
        used = {slot for _, slot in self._running.values()}
        slot = next(slot for slot in range(len(used) + 1) if slot not in used)
        process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(str(folder), self.threads, self._gpus_of(slot))
        )
        process.start()
        self._running[Path(folder)] = (process, slot)

    def finished(self) -> list[Path]:
        """Return the folders whose process has ended."""
        ended = [folder for folder, (process, _) in self._running.items() if process.exitcode is not None]
        for folder in ended:
            self._running.pop(folder)[0].join()
        return ended

    def close(self) -> None:
        """Ask all trials to save a checkpoint and end; kill them when they do not."""
        processes = [process for process, _ in self._running.values()]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self.patience
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        self._running.clear()

    def _gpus_of(self, slot: int) -> str | None:
        """Return the GPUs of a slot as ``CUDA_VISIBLE_DEVICES``."""
        if not self.gpus:
            return None
        first = slot * self.gpus_per_trial
        numbers = range(first, first + self.gpus_per_trial)
        return ",".join(self.gpus[number % len(self.gpus)] for number in numbers)

    def _start_server(self) -> None:
        """Start the server, if it does not run, with the threads and the import path of the trials."""
        from multiprocessing import forkserver

        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        settings = {
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONPATH": os.pathsep.join(path),
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # as in run_trial, for what imports ask
        }
        before = {key: os.environ.get(key) for key in settings}
        os.environ.update(settings)
        try:
            multiprocessing.set_forkserver_preload(self.preload)
            forkserver.ensure_running()
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


def _gpus() -> list[str]:
    """Return the GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _run(folder: str, threads: int, gpus: str | None) -> None:
    """Run a trial in this process, which ends when the driver is gone."""
    import torch

    os.setpgrp()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    with Path(folder, "trial.log").open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    driver = multiprocessing.parent_process()
    sys.exit(run_trial(folder, lambda: driver is not None and not driver.is_alive()))
