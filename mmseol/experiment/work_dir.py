"""The work directory of a training run: one run at a time, resumed with the settings that it had."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.table import Table

from mmseol.utils.text import table_text

__all__ = ["check_work_dir", "differences", "lock_work_dir", "resumed_config"]

_RESULTS = ("last_checkpoint", "*.pth", "*/vis_data/scalars.json")
_LOCK = ".run.lock"
_RESUMED = re.compile(r"_resumed_(\d+)$")
_SETTINGS = (
    "model",
    "data_preprocessor",
    "train_dataloader",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "randomness",
    "custom_hooks",
)
# A difference in these settings means another loss, imbalance or data, which is another run.
_OTHER_RUN = ("model", "train_dataloader.dataset")


@contextmanager
def lock_work_dir(work_dir: str | Path) -> Iterator[None]:
    """Hold the work directory for this process; the system releases it when the process ends in any way.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with lock_work_dir(folder), lock_work_dir(folder):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    ValueError: `--work-dir` '...' is in use by process ... since ... Wait, or give another --work-dir.

    Raises:
        ValueError: If another run holds it.
    """
    path = Path(work_dir, _LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(
                f"`--work-dir` {str(work_dir)!r} is in use by {_holder(path)} "
                "Wait, or give another --work-dir."
            ) from error
        holder = {"process": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        with suppress(OSError):  # a full disk; others then read "another process"
            file.truncate(0)
            os.write(file.fileno(), json.dumps(holder).encode())
        try:
            yield
        finally:
            file.truncate(0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['process']} on {holder['host']} since {holder['since']}."
    except (OSError, ValueError, KeyError, TypeError):
        return "another process."


def check_work_dir(cfg: Config, resume: bool, force: bool = False) -> str:
    """Refuse a work directory that holds another run, so that no result is overwritten.

    A run may be resumed in its own work directory.

    >>> check_work_dir(Config(dict(work_dir="new_folder")), resume=False)
    ''

    Args:
        cfg: Resolved config with its ``work_dir``.
        resume: Whether the run of the folder goes on.
        force: Whether it goes on with another model, loss, imbalance or data.

    Returns:
        Table of the settings that differ from those of the run, or ``''``.

    Raises:
        ValueError: If the folder holds a run and ``resume`` is off, or the run has another model, loss,
            imbalance or data and ``force`` is off.
    """
    work_dir = Path(cfg.work_dir)
    found = [path for pattern in _RESULTS for path in sorted(work_dir.glob(pattern)) if path.stat().st_size]
    if found and not resume:
        names = ", ".join(str(path.relative_to(work_dir)) for path in found[:3])
        raise ValueError(
            f"`--work-dir` {str(work_dir)!r} already holds a run ({names}). "
            "Continue it with --resume, or give another --work-dir."
        )
    stored = sorted(work_dir.glob("*.py"), key=_resumptions) if found else []
    if not stored:
        return ""
    changed = differences(Config.fromfile(stored[-1]), cfg)
    table = _difference_table(changed)
    if not force and any(key.startswith(_OTHER_RUN) for key in changed):
        raise ValueError(
            f"`--work-dir` {str(work_dir)!r} holds a run of another model, loss, imbalance or data "
            f"({stored[-1].name}):\n{table}\nResume with the arguments that it was started with, give "
            "another --work-dir, or add --force-resume to go on nevertheless."
        )
    return table


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the training settings that differ, as (old, new) by their dotted key.

    >>> differences(dict(model=dict(type="A")), Config(dict(model=dict(type="B"))))
    {'model.type': ('A', 'B')}
    """
    first, second = dict(_flat(old, _SETTINGS)), dict(_flat(new, _SETTINGS))
    keys = dict.fromkeys([*first, *second])
    pairs = {key: (first.get(key, "-"), second.get(key, "-")) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _flat(node: Any, keys: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in keys:
        try:
            value = node[key]
        except KeyError:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, list(value), f"{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
            yield from _flat(value, range(len(value)), f"{name}.")
        else:
            yield name, list(value) if isinstance(value, tuple) else value


def _difference_table(changed: dict[str, tuple[Any, Any]]) -> str:
    if not changed:
        return ""
    table = Table("setting", "run in the work directory", "now")
    for key, (old, new) in changed.items():
        table.add_row(key, str(old), str(new))
    return table_text(table)


def resumed_config(cfg: Config) -> Config:
    """Return the config under a new file name, so that the run's first config stays in the work directory.

    >>> cfg = Config(dict(work_dir="new_folder"), filename="a.py", cfg_text="a = 1")
    >>> Path(resumed_config(cfg).filename).name
    'a_resumed_1.py'
    """
    stem = _RESUMED.sub("", Path(cfg.filename).stem)
    number = max(map(_resumptions, Path(cfg.work_dir).glob("*.py")), default=0) + 1
    # `Config.to_dict` would resolve the classes of a lazy config.
    return Config(cfg._cfg_dict, filename=f"{stem}_resumed_{number}.py", cfg_text=cfg.text or "#")


def _resumptions(path: Path) -> int:
    """Return how often the run had been resumed when the config was written; times of files may mislead."""
    found = _RESUMED.search(path.stem)
    return int(found[1]) if found else 0
