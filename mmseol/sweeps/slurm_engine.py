"""Trials as jobs of a Slurm cluster."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from mmseol.sweeps.engines import Engine, check_trial_began
from mmseol.sweeps.remote import TRIAL, TrialProcess, settings_of_trials
from mmseol.sweeps.trial import INTERRUPTED
from mmseol.utils.checks import number, whole_number
from mmseol.utils.files import read_json, write_json

__all__ = ["SlurmEngine", "SlurmTrial", "minutes"]

_REQUEUES = 1000  # at time limits
_GRACE = 600.0  # seconds
_SILENCE = 600.0  # seconds without an answer of the controller after which the driver ends


class SlurmEngine(Engine):
    """Trials as jobs of a Slurm cluster; those that start together are one job array.

    Needs ``pip install "mmseol[slurm]"`` and ``sbatch`` on this machine. The nodes share the file system of
    the work directory and the data. Before its time limit, and when it is preempted, a job saves a checkpoint
    and waits in the queue again, and then continues. A driver that is stopped cancels its jobs; those of a
    driver that is killed go on, and the next one takes them over. Their output is in ``WORK_DIR/slurm``.

    >>> SlurmEngine(time="until tomorrow")
    Traceback (most recent call last):
    ValueError: `time` must be minutes, H:M:S or D-H:M:S, got 'until tomorrow'.

    Args:
        slots: Jobs in the queue at a time; ``None``: 64.
        preload: Not used: every trial is a fresh process.
        partition: Partition; ``None``: that of the cluster.
        time: Time limit of a job in minutes, or as ``sbatch`` takes it; trials may need longer.
        cpus_per_trial: Cores of a trial, and its threads.
        gpus_per_trial: GPUs of a trial.
        memory: GB of a trial; ``None``: as the cluster gives.
        signal_seconds: Seconds before the time limit at which a job saves its checkpoint.
        options: Further options of ``sbatch``, as ``"--account=vision --constraint=a100"``.

    Raises:
        ImportError: If submitit is not installed.
        ValueError: If there is no ``sbatch``, or Slurm refuses jobs with these options.
    """

    command: ClassVar[Sequence[str]] = TRIAL
    """Arguments of ``python`` before the folder of a trial."""

    poll: ClassVar[float] = 10.0
    """Seconds between two questions to Slurm."""

    def __init__(
        self,
        slots: int | None = None,
        preload: Sequence[str] = (),
        partition: str | None = None,
        time: int | str = 24 * 60,
        cpus_per_trial: int = 1,
        gpus_per_trial: int = 0,
        memory: float | None = None,
        signal_seconds: int = 120,
        options: str = "",
    ) -> None:
        self.slots = whole_number("--slots", 64 if slots is None else slots, at_least=1)
        self._cpus = whole_number("cpus_per_trial", cpus_per_trial, at_least=1)
        self._signal_seconds = whole_number("signal_seconds", signal_seconds, at_least=1)
        gpus = whole_number("gpus_per_trial", gpus_per_trial, at_least=0)
        self._options: dict[str, Any] = {
            "time": minutes(time),
            "cpus_per_task": self._cpus,
            "ntasks": 1,
            "nodes": 1,
        }
        if partition is not None:
            self._options["partition"] = _text(partition)
        if gpus:
            self._options["gpus_per_node"] = gpus
        if memory is not None:
            self._options["mem"] = f"{round(1024 * number('memory', memory, above=0))}M"
        self._options |= {"requeue": True, **_further_options(_text(options))}
        self._submitit = _import_submitit()
        _check_options(self._options)
        self._waiting: list[Path] = []
        self._jobs: dict[Path, str] = {}
        self._queue = _Queue()

    def start(self, folder: Path) -> None:
        """Put the trial into the next job array, which the next call of :meth:`finished` submits.

        The job of an earlier driver that is still in the queue is taken over.
        """
        folder = Path(folder)
        job = (read_json(folder / "slurm.json") or {}).get("job")
        if job is not None and job in (self._queue.jobs(self.poll) or ()):
            self._jobs[folder] = job
        else:
            self._waiting.append(folder)

    def finished(self) -> list[Path]:
        """Submit what was started, and return the folders whose job has left the queue.

        Raises:
            RuntimeError: If Slurm refuses the jobs, no longer answers, or a node cannot run trials.
        """
        if self._waiting:
            self._submit()
        if not self._jobs:
            return []
        queued = self._queue.jobs(self.poll)
        if queued is None:
            return []
        ended = [folder for folder, job in self._jobs.items() if job not in queued]
        for folder in ended:
            self._check_outcome(folder, self._jobs.pop(folder))
        return ended

    def close(self) -> None:
        """Cancel the jobs: they save a checkpoint within Slurm's ``KillWait`` seconds."""
        if self._jobs:
            subprocess.run(["scancel", *self._jobs.values()], capture_output=True, check=False)
        self._waiting.clear()
        self._jobs.clear()

    def _submit(self) -> None:
        from submitit.core.utils import FailedJobError

        folders, self._waiting = self._waiting, []
        executor = self._submitit.SlurmExecutor(_logs(folders[0]), max_num_timeout=_REQUEUES)
        settings = settings_of_trials(self._cpus)
        executor.update_parameters(
            job_name="mmseol",
            time=self._options["time"],
            signal_delay_s=self._signal_seconds,
            array_parallelism=self.slots,
            stderr_to_stdout=True,
            setup=[f"export {name}={shlex.quote(value)}" for name, value in settings.items()],
            srun_args=[f"--cpus-per-task={self._cpus}"],  # which srun does not take over from sbatch
            additional_parameters=self._options,
        )
        try:
            trial = SlurmTrial(self._signal_seconds, self.command)
            jobs = executor.map_array(trial, [str(folder.absolute()) for folder in folders])
        except FailedJobError as error:
            raise RuntimeError(f"Slurm does not take the jobs: {error}") from error
        for folder, job in zip(folders, jobs, strict=True):
            self._jobs[folder] = job.job_id
            write_json(folder / "slurm.json", {"job": job.job_id})
        self._queue.forget()

    def _check_outcome(self, folder: Path, number: str) -> None:
        """Raise if the job could not begin its trial."""
        job = self._submitit.SlurmJob(_logs(folder), number)
        if job.paths.result_pickle.is_file() and (error := job.exception()) is not None:
            errors = re.findall(r"^\w+Error: .+", str(error), re.MULTILINE)
            raise RuntimeError(
                f"Job {number} failed: {errors[-1] if errors else error} See {job.paths.stdout}."
            )


class SlurmTrial:
    """The function of a job: run a trial as a child, and end as Slurm asks.

    At the signal before the time limit, the trial saves a checkpoint and the job is requeued. At SIGTERM,
    which announces preemption and cancellation, the trial saves a checkpoint and Slurm does the rest.

    >>> import tempfile
    >>> SlurmTrial(signal_seconds=30, command=("-c", "raise SystemExit(0)"))(tempfile.mkdtemp())
    0

    Args:
        signal_seconds: Seconds between the signal and the end of the job.
        command: Arguments of ``python`` before the folder.
    """

    def __init__(self, signal_seconds: int, command: Sequence[str] = TRIAL) -> None:
        self.signal_seconds, self.command = signal_seconds, tuple(command)
        self._process: TrialProcess | None = None

    def __call__(self, folder: str) -> int:
        """Return the exit status of the trial.

        Raises:
            FileNotFoundError: If this node does not see the folder.
            RuntimeError: If the process failed before the trial began.
        """
        stopped: list[int] = []

        def stop(number: int, _: object) -> None:
            stopped.append(number)
            self._stop()

        handler = signal.signal(signal.SIGTERM, stop)
        try:
            self._process = TrialProcess(folder, command=self.command)
            status = self._process.wait()
            if stopped and status == INTERRUPTED and "SLURM_JOB_ID" in os.environ:
                time.sleep(_GRACE)  # a preempted job that ends by itself would not be requeued
        finally:
            signal.signal(signal.SIGTERM, handler)
        check_trial_began(Path(folder), status)
        return status

    def checkpoint(self, folder: str) -> Any:
        """Stop the trial with a checkpoint; return the submission that continues it."""
        self._stop()
        return _import_submitit().helpers.DelayedSubmission(
            SlurmTrial(self.signal_seconds, self.command), folder
        )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop(0.9 * self.signal_seconds)


class _Queue:
    """The jobs of this user that wait or run."""

    def __init__(self) -> None:
        self._jobs: set[str] | None = None
        self._asked, self._answered = -inf, time.monotonic()

    def jobs(self, age: float) -> set[str] | None:
        """Return the jobs of an answer of at most ``age`` seconds ago, ``None`` if Slurm does not answer.

        Raises:
            RuntimeError: If it has not answered for long.
        """
        now = time.monotonic()
        if now - self._asked < age:
            return self._jobs
        command = ["squeue", f"--user={os.getuid()}", "--noheader", "--array", "--format=%i"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        self._asked = now
        if answer.returncode == 0:
            self._jobs, self._answered = set(answer.stdout.split()), now
        elif now - self._answered > _SILENCE:
            raise RuntimeError(f"Slurm has not answered for {_SILENCE:.0f} seconds: {answer.stderr.strip()}")
        return self._jobs

    def forget(self) -> None:
        """Forget the last answer: jobs were submitted since."""
        self._jobs, self._asked = None, -inf


def minutes(limit: int | str) -> int:
    """Return a time limit of ``sbatch`` in minutes.

    >>> minutes(90), minutes("90"), minutes("90:30"), minutes("12:00:00"), minutes("2-12")
    (90, 90, 91, 720, 3600)

    Args:
        limit: Minutes, or text as ``MINUTES:SECONDS``, ``HOURS:MINUTES:SECONDS`` or
            ``DAYS-HOURS[:MINUTES[:SECONDS]]``.

    Raises:
        ValueError: If it is something else, or 0.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if found is None or isinstance(limit, bool):
        raise ValueError(f"`time` must be minutes, H:M:S or D-H:M:S, got {limit!r}.")
    days, *parts = [int(part) if part else None for part in found.groups()]
    first, second, third = parts
    if days is not None or third is not None:
        hours, mins, seconds = first, second, third
    else:
        hours, mins, seconds = 0, first, second
    total = 24 * 60 * (days or 0) + 60 * (hours or 0) + (mins or 0) + -(-(seconds or 0) // 60)
    return whole_number("time", total, at_least=1)


def _logs(folder: Path) -> Path:
    return Path(folder).absolute().parents[1] / "slurm"


def _text(value: Any) -> str:
    """Return an option as it was typed: the command line splits values at commas."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _further_options(text: str) -> dict[str, Any]:
    options = [re.fullmatch(r"--([a-z][a-z-]*)(?:=(.+))?", option) for option in shlex.split(text)]
    if not all(options):
        raise ValueError(f"`options` must be options of sbatch as '--NAME=VALUE --FLAG', got {text!r}.")
    return {option[1].replace("-", "_"): option[2] or True for option in options if option}


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ImportError('The engine `slurm` needs submitit: pip install "mmseol[slurm]".') from error
    return submitit


def _check_options(options: Mapping[str, Any]) -> None:
    """Ask Slurm whether it would take a job with these options."""
    if shutil.which("sbatch") is None:
        raise ValueError("`--engine slurm` needs `sbatch` on this machine: start the sweep on a login node.")
    flags = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
    ]
    check = subprocess.run(
        ["sbatch", "--test-only", *flags, "--wrap", "true"], capture_output=True, text=True, check=False
    )
    if check.returncode:
        raise ValueError(f"Slurm refuses {' '.join(flags)}: {check.stderr.strip() or 'no reason given'}")
