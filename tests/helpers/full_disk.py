"""Disks without space: a small file system of its own, or a limit on the size of a file."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_PAGE = 4096


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a file system of 1 MB at ``folder``; skip the test where that is not permitted."""
    folder.mkdir()
    mount = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=1m", "none", str(folder))
    if mount is None or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def filled(folder: Path, free: int) -> Iterator[None]:
    """Fill the disk of ``folder`` but for ``free`` pages of 4096 bytes."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(_PAGE))
        except OSError:
            file.truncate(file.tell() // _PAGE * _PAGE - free * _PAGE)
    try:
        yield
    finally:
        (folder / "filler").unlink()


@contextmanager
def limited(free: int) -> Iterator[None]:
    """Let no file of this process grow over ``free`` pages of 4096 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free * _PAGE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
