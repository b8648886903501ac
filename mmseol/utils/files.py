"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["disk_is_full", "read_json", "replacing", "write_json"]


@contextmanager
def replacing(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write to a temporary file next to ``path`` and rename it to ``path`` when the block succeeds.

    Missing folders are made. The data are on the disk before the name is, so that neither a killed process
    nor a power failure leaves a partial file. If the block raises, ``path`` is as it was before.

    >>> path = Path(tempfile.mkdtemp()) / "counts.txt"
    >>> with replacing(path, "w") as file:
    ...     written = file.write("7 3")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('7 3', 1)

    Raises:
        OSError: If the data cannot be written, as on a full disk; names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    raw = _Recording(handle, "wb")
    try:
        with io.BufferedWriter(raw) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are their owner's alone
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        failure = raw.failure or error  # torch.save raises another error, which does not say why
        if not isinstance(failure, OSError) or not isinstance(error, Exception):
            raise
        if failure.errno is None or failure.filename is not None:
            raise
        raise OSError(failure.errno, failure.strerror, str(path)) from error
    _sync_folder(path.parent)


class _Recording(io.FileIO):
    """A file that keeps the error of a failed write."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, or ``None`` if there is none.

    >>> read_json("no_such.json") is None
    True
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        return None


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file, whole or not at all.

    >>> write_json(path := Path(tempfile.mkdtemp()) / "a.json", {"epoch": 1})
    >>> read_json(path)
    {'epoch': 1}
    """
    with replacing(path, "w") as file:
        file.write(json.dumps(content, indent=1) + "\n")


def disk_is_full(error: BaseException) -> bool:
    """Whether an error means that there is no space for a file, on the disk or in the user's quota.

    >>> disk_is_full(OSError(errno.ENOSPC, "No space left on device")), disk_is_full(OSError("truncated"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _sync_folder(folder: Path) -> None:
    """Write the folder's list of names to the disk, where the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not sync folders
        pass
    finally:
        os.close(handle)
