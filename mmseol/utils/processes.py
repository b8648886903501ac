"""Run Python command lines in processes of their own, each with its output in a log file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__all__ = ["LoggedProcess", "end_of_log", "peak_memory", "run_side_by_side", "warm_yapf"]

_POLL = 0.1  # seconds between two checks of a process
_PATIENCE = 10.0  # seconds that a stopped process has to end by itself


def warm_yapf() -> None:
    """Import yapf once: mmengine formats configs with it, and two first imports at a time fail.

    >>> warm_yapf()
    >>> "yapf" in sys.modules
    True
    """
    if find_spec("yapf") is not None:
        import_module("yapf")


def end_of_log(log: Path, lines: int = 30) -> str:
    r"""Return the last non-empty lines of a log.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "run.log"
    >>> _ = log.write_text("loading\nValueError: no such file\n\n")
    >>> end_of_log(log, lines=1)
    'ValueError: no such file'
    """
    written = [line.rstrip() for line in log.read_text(errors="replace").splitlines()]
    return "\n".join([line for line in written if line][-lines:])


class LoggedProcess:
    """A Python process that writes its output to a log file.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "run.log"
    >>> LoggedProcess(["-c", "print('done')"], log).wait()
    0
    >>> log.read_text().strip()
    'done'

    Args:
        arguments: Arguments of ``python``.
        log: File for standard output and standard error; missing folders are made.
        threads: ``OMP_NUM_THREADS`` of the process.

    Attributes:
        log: The log file.
        memory: Peak resident memory in GB, sampled by :meth:`poll`; ``None`` where ``/proc`` does not tell.
    """

    def __init__(self, arguments: Sequence[str], log: Path, threads: int = 1) -> None:
        self.log = log
        self.memory: float | None = None
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )

    def poll(self) -> int | None:
        """Return the exit status, or ``None`` while the process runs."""
        status = self._process.poll()
        if status is None:
            self.memory = peak_memory(self._process.pid) or self.memory
        return status

    def wait(self) -> int:
        """Return the exit status when the process has ended; stop it if waiting is interrupted."""
        try:
            while (status := self.poll()) is None:
                time.sleep(_POLL)
        finally:
            self.stop()
        return status

    def stop(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def run_side_by_side(commands: Mapping[Path, Sequence[str]]) -> None:
    """Run Python command lines at once, each on an equal part of the cores.

    >>> import tempfile
    >>> log = Path(tempfile.mkdtemp()) / "run.log"
    >>> run_side_by_side({log: ["-c", "print('done')"]})
    $ python -c print('done')
    >>> log.read_text().strip()
    'done'

    Args:
        commands: Arguments of ``python``, by log file.

    Raises:
        SystemExit: As soon as one fails, with the end of its log; the others are stopped.
    """
    warm_yapf()
    threads = max(1, (os.cpu_count() or 1) // max(1, len(commands)))
    running: list[LoggedProcess] = []
    try:
        for log, arguments in commands.items():
            print("$ python " + " ".join(arguments), flush=True)
            running.append(LoggedProcess(arguments, log, threads))
        waiting = running
        while waiting:
            time.sleep(_POLL)
            statuses = [process.poll() for process in waiting]
            for process, status in zip(waiting, statuses, strict=True):
                if status:
                    raise SystemExit(f"{end_of_log(process.log)}\nerror: failed; see {process.log}")
            waiting = [process for process, status in zip(waiting, statuses, strict=True) if status is None]
    finally:
        for process in running:
            process.stop()


def peak_memory(pid: int | None = None) -> float | None:
    """Return the peak resident memory of a process in GB, so far; ``None`` where ``/proc`` does not tell.

    ``ru_maxrss`` would include that of the parent.

    >>> peak_memory(pid=-1) is None
    True

    Args:
        pid: Number of the process; ``None``: this one.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid or os.getpid()}/status").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 / 1e9 if found else None
