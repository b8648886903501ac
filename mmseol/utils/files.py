"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["replacing"]


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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are their owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(path.parent)


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
