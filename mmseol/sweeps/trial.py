"""One trial: train, score and write one record, in a folder and processes of its own.

    python -m mmseol.sweeps.trial FOLDER

The folder holds ``trial.json``, the request. This process claims the folder, forks one process that trains
and one that scores (a process has one Runner at most), and writes ``record.json``, or ``failed.json``. An
interrupted trial continues from its last checkpoint when the same command runs again.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmseol.sweeps.claims import Claim, live_holder
from mmseol.utils.files import read_json, write_json

__all__ = [
    "CLAIMED",
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "fail",
    "run_trial",
    "state",
]

DONE, FAILED, CLAIMED, INTERRUPTED = 0, 1, 73, 75
"""Exit statuses of a trial: record written, failed, another process works on it, run it again."""

_HEARTBEAT = 15.0  # seconds
_POLL = 0.2
_STOPPED = (
    128 + signal.SIGTERM,
    128 + signal.SIGINT,
)  # StopSignalHook's: the signal came to the child itself
_KILLS = 3  # deaths by signals, as by the out-of-memory killer, that make a failure


def state(folder: str | Path) -> str:
    """Return ``'done'``, ``'failed'``, ``'running'``, ``'interrupted'`` or ``'waiting'``.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> state(folder)
    'waiting'
    >>> fail(folder, "no space left")
    >>> state(folder)
    'failed'
    """
    folder = Path(folder)
    if (folder / "record.json").is_file():
        return "done"
    if (folder / "failed.json").is_file():
        return "failed"
    if live_holder(folder) is not None:
        return "running"
    return "interrupted" if (folder / "attempts.json").is_file() else "waiting"


def fail(folder: str | Path, reason: str) -> None:
    """Mark the trial as failed; it runs again only when ``--retry-failed`` asks for it.

    >>> import tempfile
    >>> fail(folder := tempfile.mkdtemp(), "CUDA out of memory")
    >>> read_json(Path(folder) / "failed.json")["reason"]
    'CUDA out of memory'
    """
    write_json(Path(folder, "failed.json"), {"reason": reason, "time": time.time()})


def run_trial(folder: str | Path, abandoned: Callable[[], bool] = lambda: False) -> int:
    """Run the trial of a folder to its end; return one of the exit statuses of this module.

    SIGTERM and SIGINT save a checkpoint and interrupt it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_json(folder / "record.json", {})
    >>> run_trial(folder) == DONE
    True

    Args:
        folder: Folder with ``trial.json``.
        abandoned: Whether whoever started this process is gone, so that it should stop.
    """
    folder = Path(folder)
    if (folder / "record.json").is_file():
        return DONE
    # Asks for GPUs without a CUDA context, which would not survive the fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    claim = Claim.take(folder)
    if claim is None:
        return CLAIMED
    with _Signals() as received:
        try:
            if (folder / "record.json").is_file():  # written while the claim was taken
                return DONE
            (folder / "failed.json").unlink(missing_ok=True)
            return _Supervisor(folder, claim, lambda: bool(received) or abandoned()).run()
        finally:
            claim.release()


class _Signals:
    """The signals that ask this process to end, collected instead of obeyed."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> list[int]:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, lambda number, _: self.received.append(number))
        return self.received

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


class _Supervisor:
    """Fork training and scoring, keep the claim alive, and write down how it ended."""

    def __init__(self, folder: Path, claim: Claim, stop: Callable[[], bool]) -> None:
        self.folder, self.claim, self.stop = folder, claim, stop
        self.trial = read_json(folder / "trial.json")
        if self.trial is None:
            raise FileNotFoundError(f"`folder` must hold trial.json, got {str(folder)!r}.")

    def run(self) -> int:
        from mmseol.sweeps.runs import score, train
        from mmseol.sweeps.trial_record import trial_record

        attempts = read_json(self.folder / "attempts.json") or []
        if attempts and attempts[-1]["end"] is None:
            attempts[-1]["end"] = _last_sign_of_life(self.folder, attempts[-1]["begin"])
        attempts.append({"begin": time.time(), "end": None, "kills": 0})
        write_json(self.folder / "attempts.json", attempts)
        for name, work in (("train", train), ("score", score)):
            if (self.folder / f"{name}.json").is_file():
                continue
            status = self._in_child(work, self.folder / f"{name}.log")
            if status == INTERRUPTED:
                return self._end(attempts, INTERRUPTED)
            if status < 0:
                attempts[-1]["kills"] = 1
                kills = sum(attempt["kills"] for attempt in attempts)
                if kills < _KILLS:
                    return self._end(attempts, INTERRUPTED)
                reason = (
                    f"killed {kills} times, last by {signal.Signals(-status).name}; perhaps out of memory"
                )
            elif status > 0 or not (self.folder / f"{name}.json").is_file():
                reason = self._reason(name)
            else:
                continue
            fail(self.folder, f"{name}: {reason}")
            return self._end(attempts, FAILED)
        attempts[-1]["end"] = time.time()
        write_json(self.folder / "record.json", trial_record(self.folder, attempts))
        if not self.trial.get("keep_checkpoints"):
            for path in self.folder.glob("train/*.pth"):
                path.unlink()
        return self._end(attempts, DONE)

    def _reason(self, name: str) -> str:
        """Return the error of a process that has ended, or the last line of its log."""
        path = self.folder / "error.json"
        error = read_json(path)
        path.unlink(missing_ok=True)
        return str(error["reason"]) if error is not None else _last_line(self.folder / f"{name}.log")

    def _end(self, attempts: list[dict[str, Any]], status: int) -> int:
        attempts[-1]["end"] = time.time()
        write_json(self.folder / "attempts.json", attempts)
        return status

    def _in_child(self, work: Callable[[Path, Mapping[str, Any]], None], log: Path) -> int:
        """Return the exit status of ``work`` in a forked process, negative for a signal."""
        read, write = os.pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_child, args=(work, self.folder, self.trial, log, read, write)
        )
        process.start()
        os.close(read)
        try:
            return self._watch(process, write)
        finally:
            os.close(write)  # ends the child
            process.join()

    def _watch(self, process: Any, write: int) -> int:
        beat, asked = time.monotonic(), False
        while process.exitcode is None:
            process.join(_POLL)
            if time.monotonic() - beat > _HEARTBEAT:
                beat = time.monotonic()
                if not self.claim.renew():
                    process.kill()  # another process has taken over
                    process.join()
                    return INTERRUPTED
            if not asked and self.stop():
                asked = True
                _ask(write)
        stopped = process.exitcode in _STOPPED or (asked and process.exitcode != 0)
        return INTERRUPTED if stopped else process.exitcode


def _ask(write: int) -> None:
    with suppress(BrokenPipeError):  # it has ended
        os.write(write, b"stop")


def _child(
    work: Callable[[Path, Mapping[str, Any]], None],
    folder: Path,
    trial: Mapping[str, Any],
    log: Path,
    read: int,
    write: int,
) -> None:
    """Run ``work`` in a process group of its own, with its output in a log; end with the parent."""
    os.close(write)
    gc.freeze()  # the data sets of mmengine collect garbage, which need not look at what was forked
    os.setpgrp()  # signals to the terminal's or the job's group reach it through its parent alone
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    threading.Thread(target=_obey, args=(read,), daemon=True).start()
    try:
        work(folder, trial)
    except Exception as error:
        os.write(2, traceback.format_exc().encode())
        write_json(folder / "error.json", {"reason": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def _obey(read: int) -> None:
    """Pass the parent's wish to stop on as a signal, once; end when the parent ends."""
    while os.read(read, 16):
        handler = signal.getsignal(signal.SIGTERM)
        if not getattr(getattr(handler, "__self__", None), "_received", 0):  # StopSignalHook's
            os.kill(os.getpid(), signal.SIGTERM)
    os._exit(128 + signal.SIGHUP)


def _last_sign_of_life(folder: Path, begin: float) -> float:
    """Return when a killed attempt was last known to run."""
    logs = [path.stat().st_mtime for path in folder.glob("*.log")]
    return max([begin, *logs])


def _last_line(log: Path) -> str:
    from mmseol.utils.processes import end_of_log

    return (end_of_log(log, lines=1).strip() if log.is_file() else "") or "no output"


def main() -> None:
    """Run one trial.

    >>> main()
    Traceback (most recent call last):
    SystemExit: 2
    """
    parser = ArgumentParser(prog="python -m mmseol.sweeps.trial", description="Run one trial of a sweep.")
    parser.add_argument("folder", type=Path, help="folder with trial.json")
    parser.add_argument("--parent", type=int, metavar="PID", help="stop when this parent process is gone")
    args = parser.parse_args()
    trial = read_json(args.folder / "trial.json")
    if trial is None:
        raise SystemExit(f"error: `folder` must hold trial.json, got {str(args.folder)!r}.")
    if "version" in trial:
        from mmseol.sweeps.request import code_version

        if trial["version"] != code_version():
            raise SystemExit(
                f"error: the trial was planned with mmseol {trial['version']}, but this is {code_version()}. "
                "Start the sweep again, so that one table has one version of the code."
            )
    raise SystemExit(run_trial(args.folder, lambda: args.parent not in (None, os.getppid())))


if __name__ == "__main__":
    sys.modules.setdefault("mmseol.sweeps.trial", sys.modules["__main__"])
    main()
