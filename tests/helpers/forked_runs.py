"""Functions that run in a forked process, which may be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any


def start(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """Run the function in a process; fork, because the hosts are imported already."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(function, args))
    process.start()
    return process


def status_of(process: BaseProcess, timeout: float = 60) -> int | None:
    """Return the exit status, negative for a signal."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the process still runs after {timeout} s")
    return process.exitcode


def _run(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.setpgrp()  # a group of its own, for signals to all of its processes
    # A test run in the background ignores Ctrl-C, and its processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*args)
