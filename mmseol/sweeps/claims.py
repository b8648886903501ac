"""Claims on folders: one process at a time works on a trial, on whatever machine it runs.

A claim is a file ``claim-NUMBER.json``, made with ``O_EXCL``; of several, that of the highest number counts.
Its owner touches it as a heartbeat. Whoever finds it stale makes the next number, which only one can.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

__all__ = ["STALE_AFTER", "Claim", "live_holder"]

STALE_AFTER = 600.0
"""Seconds without a heartbeat after which a claim of another host may be taken over."""

_NAME = re.compile(r"claim-(\d+)\.json")


class Claim:
    """A claim of this process on a folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> claim = Claim.take(folder)
    >>> Claim.take(folder) is None, live_holder(folder)["pid"] == os.getpid()
    (True, True)
    >>> claim.release()
    >>> live_holder(folder) is None
    True

    Attributes:
        path: File of the claim.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def take(cls, folder: str | Path, stale_after: float = STALE_AFTER) -> Claim | None:
        """Claim the folder; return ``None`` if another process holds it.

        Args:
            folder: Existing folder.
            stale_after: Seconds without a heartbeat after which a claim may be taken over.
        """
        newest = _newest(Path(folder))
        if newest is not None and _is_live(newest, stale_after):
            return None
        number = 1 if newest is None else _number(newest) + 1
        path = Path(folder, f"claim-{number:04}.json")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return None
        try:
            with os.fdopen(handle, "w") as file:
                holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
                json.dump(holder, file)
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            raise
        for older in Path(folder).glob("claim-*.json"):
            if _number(older) < number - 1:  # the last one stays: its number must not be given again
                older.unlink(missing_ok=True)
        return cls(path)

    def renew(self) -> bool:
        """Give a heartbeat; return whether this process still holds the folder."""
        if _newest(self.path.parent) != self.path:
            return False
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Give the folder back."""
        self.path.unlink(missing_ok=True)


def live_holder(folder: str | Path, stale_after: float = STALE_AFTER) -> dict[str, Any] | None:
    """Return ``host`` and ``pid`` of the process that works on the folder, or ``None``.

    >>> live_holder("new_folder") is None
    True
    """
    newest = _newest(Path(folder))
    return _content(newest) if newest is not None and _is_live(newest, stale_after) else None


def _newest(folder: Path) -> Path | None:
    return max((path for path in folder.glob("claim-*.json") if _NAME.fullmatch(path.name)), default=None)


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def _content(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):  # just being written
        return {"host": None, "pid": None}


def _is_live(path: Path, stale_after: float) -> bool:
    try:
        silent = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # released
        return False
    holder = _content(path)
    if holder["host"] == socket.gethostname() and not _runs(holder["pid"], holder.get("started")):
        return False
    return silent < stale_after


def _runs(pid: int, started: str | None) -> bool:
    """Whether the process runs; its number may have been given to another one, which began later."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return started is None or started == _started(pid)


def _started(pid: int) -> str | None:
    """Return when a process began, in clock ticks since the machine began; ``None`` without ``/proc``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
