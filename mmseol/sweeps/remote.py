"""A trial as a child of a worker process on another machine.

Imports the standard library alone, so that an engine can send this module to workers by value.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["TRIAL", "TrialProcess", "run_as_child", "settings_of_trials"]

TRIAL = ("-m", "mmseol.sweeps.trial")
"""Arguments of ``python`` that run a trial; its folder follows."""

_POLL = 0.1  # seconds


def settings_of_trials(threads: int) -> dict[str, str]:
    """Return the environment variables that trials get from the driver.

    >>> settings_of_trials(threads=4)["OMP_NUM_THREADS"]
    '4'
    """
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path)}
    if cache := os.environ.get("MMSEOL_CACHE"):
        settings["MMSEOL_CACHE"] = cache
    return settings


class TrialProcess:
    """A process that runs one trial, with its output at the end of ``trial.log`` in the folder.

    It gets ``--parent`` with the number of this process, and stops with a checkpoint when this process ends.

    >>> import tempfile
    >>> process = TrialProcess(tempfile.mkdtemp(), command=("-c", "raise SystemExit(75)"))
    >>> process.wait()
    75

    Args:
        folder: Folder of the trial.
        settings: Environment variables besides those of this process.
        command: Arguments of ``python`` before the folder.
        workdir: Working directory, for relative paths; ``None``: that of this process.

    Raises:
        FileNotFoundError: If this machine does not see the folder or the working directory.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = TRIAL,
        workdir: str | None = None,
    ) -> None:
        for path in (folder, workdir or folder):
            if not os.path.isdir(path):
                raise FileNotFoundError(
                    f"{os.uname().nodename} has no folder {str(path)!r}. Work directory and data must be on "
                    "a file system that all machines share, at the same path."
                )
        # A scheduler sends these to all processes of a job when its end is near; the trial inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
        try:
            with open(os.path.join(folder, "trial.log"), "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, *command, str(folder), "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(settings or {})},
                    cwd=workdir,
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def wait(self) -> int:
        """Return the exit status when the process has ended; it is negative for a signal."""
        while (status := self._process.poll()) is None:  # so that signal handlers and exceptions come through
            time.sleep(_POLL)
        return status

    def stop(self, patience: float) -> None:
        """Ask the trial to save a checkpoint and end; kill it after ``patience`` seconds.

        A signal handler may call it in the middle of :meth:`wait`, as it takes no lock.
        """
        deadline = time.monotonic() + patience
        self._send(signal.SIGTERM)
        while self._runs() and time.monotonic() < deadline:
            time.sleep(_POLL)
        self._send(signal.SIGKILL)

    def _runs(self) -> bool:
        if self._process.returncode is not None:
            return False
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False

    def _send(self, number: int) -> None:
        if self._runs():
            os.kill(self._process.pid, number)


def run_as_child(
    folder: str, settings: Mapping[str, str], command: Sequence[str], workdir: str, patience: float
) -> int:
    """Run a trial to its end and return its exit status; stop it when this process is interrupted.

    >>> import tempfile
    >>> run_as_child(tempfile.mkdtemp(), {}, ("-c", "print('trained')"), ".", patience=10.0)
    0
    """
    process = TrialProcess(folder, settings, command, workdir)
    try:
        return process.wait()
    except BaseException:  # cancelled
        process.stop(patience)
        raise
