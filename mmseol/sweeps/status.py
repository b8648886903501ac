"""The state of a sweep as a table: done, running, failed, waiting, time left."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from mmseol.sweeps.claims import live_holder
from mmseol.sweeps.costs import duration
from mmseol.sweeps.trial import state
from mmseol.sweeps.work_folder import WorkFolder, reason_of
from mmseol.utils.files import read_json

__all__ = ["show", "status"]

_STATES = ("done", "running", "interrupted", "waiting", "failed")
_REFRESH = 5.0  # seconds


def status(path: str | Path) -> dict[str, Any]:
    """Return the numbers of trials by loss and state, what runs, what failed, and the plan of the driver.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> WorkFolder(folder).claim("digits")
    >>> status(folder)["sweep"], status(folder)["running"]
    ('digits', [])

    Raises:
        ValueError: If the folder is not that of a sweep.
    """
    folder = WorkFolder(path)
    sweep = read_json(folder.path / "sweep.json")
    if sweep is None:
        raise ValueError(f"`folder` must be the work directory of a sweep, got {str(path)!r}.")
    plan = read_json(folder.path / "plan.json") or {}
    version = plan.get("version")
    rows: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_STATES, 0))
    running, failed, other = [], [], 0
    for path_of, request in folder.trials():
        if version is not None and request["version"] != version:
            other += 1
            continue
        found = state(path_of)
        rows[(request["config"], request["imbalance"], request["loss"])][found] += 1
        if found == "running":
            holder = live_holder(path_of) or {}
            running.append((path_of.name, f"{holder.get('host')}:{holder.get('pid')}", request))
        elif found == "failed":
            failed.append((path_of.name, reason_of(path_of), request))
    return {
        "sweep": sweep["sweep"],
        "rows": dict(rows),
        "running": running,
        "failed": failed,
        "other_versions": other,
        "version": version,
        "left": plan.get("left"),
        "seconds_left": plan.get("seconds_left"),
        "slots": plan.get("slots"),
    }


def show(path: str | Path, watch: bool = False) -> None:
    """Print the state of a sweep, once or again and again until Ctrl-C.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> WorkFolder(folder).claim("digits")
    >>> show(folder)  # doctest: +ELLIPSIS
    <BLANKLINE>
    ...
    """
    console = Console()
    if not watch:
        console.print(_table(status(path)))
        return
    with Live(_table(status(path)), console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_REFRESH)
                live.update(_table(status(path)), refresh=True)
        except KeyboardInterrupt:
            return


def _table(found: dict[str, Any]) -> Group:
    table = Table(title=f"Sweep {found['sweep']}", title_justify="left")
    several = [len({key[i] for key in found["rows"]}) > 1 for i in range(3)]
    headings = [name for name, shown in zip(("config", "imbalance"), several, strict=False) if shown]
    totals = {name: sum(numbers[name] for numbers in found["rows"].values()) for name in _STATES}
    names = [name for name in _STATES if totals[name] or name == "done"]
    for heading in [*headings, "loss"]:
        table.add_column(heading, overflow="fold")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for key, numbers in sorted(found["rows"].items(), key=lambda row: [str(part) for part in row[0]]):
        shown = [str(part) for part, one in zip(key[:2], several, strict=False) if one]
        table.add_row(*shown, key[2], *(str(numbers[name] or "") for name in names))
    table.add_section()
    table.add_row(*[""] * len(headings), "all", *(str(totals[name]) for name in names))
    lines: list[Any] = ["", table]
    if found["left"] is not None:
        lines.append(f"{found['left']} trials left, about {duration(found['seconds_left'])}.")
    for name, where, request in found["running"]:
        lines.append(
            f"running {name} on {where}: {request['stage']} {request['loss']} seed {request['seed']}"
        )
    if found["failed"]:
        lines.append(f"{len(found['failed'])} failed; --retry-failed runs them again:")
        lines += [f"  {name} ({request['loss']}): {reason}" for name, reason, request in found["failed"][:10]]
    if found["other_versions"]:
        lines.append(
            f"{found['other_versions']} trials are of other versions of the code than {found['version']}; "
            "they are not mixed with these. --any-version takes the finished ones."
        )
    return Group(*lines)
