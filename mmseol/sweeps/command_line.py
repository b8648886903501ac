"""The command ``sweep``: arguments -> sweep -> run, dry run or status."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseol.experiment.config_files import find_config
from mmseol.experiment.loss import parse_options
from mmseol.sweeps.costs import duration
from mmseol.sweeps.driver import Driver
from mmseol.sweeps.engines import make_engine
from mmseol.sweeps.planner import later
from mmseol.sweeps.request import Requests
from mmseol.sweeps.status import show, status
from mmseol.sweeps.sweep_file import Sweep, find_sweep, read_sweep
from mmseol.sweeps.work_folder import WorkFolder, preload_of
from mmseol.utils.checks import number

__all__ = ["prepare_sweep", "run_sweep", "shortened"]


def prepare_sweep(args: Namespace) -> Driver | None:
    """Return the driver of the sweep; ``None`` for its status.

    >>> prepare_sweep(Namespace(file="status", folder="no_such_folder"))
    Traceback (most recent call last):
    ValueError: `folder` must be the work directory of a sweep, got 'no_such_folder'.

    Raises:
        ValueError: If the file or an argument is invalid, or the work directory holds something else.
        FileNotFoundError: If there is no such file.
    """
    if args.file == "status":
        if args.folder is None:
            raise ValueError("`status` needs the work directory of a sweep.")
        status(args.folder)
        return None
    if args.folder is not None:
        raise ValueError(f"`{args.folder}` is one argument too many; a folder goes to --work-dir.")
    path = find_sweep(args.file)
    sweep = shortened(read_sweep(path), args.epochs, args.seeds, args.iterations)
    if args.budget is not None:
        number("--budget", args.budget, above=0)
    known = [*sweep.losses, *sweep.configs, *filter(None, sweep.imbalances)]
    for name in args.only or ():
        if name not in known:
            near = "".join(f" Did you mean {one}?" for one in get_close_matches(name, known, n=1))
            raise ValueError(
                f"`--only` must name losses, configs or imbalances of the sweep ({', '.join(known)}), got "
                f"{name!r}.{near}"
            )
    if args.cfg_options:
        sweep = replace(sweep, options=[*sweep.options, *args.cfg_options])
    if args.keep_checkpoints or args.keep_every is not None:
        every = sweep.keep_every if args.keep_every is None else args.keep_every
        sweep = replace(sweep, keep_checkpoints=True, keep_every=every)
    folder = WorkFolder(args.work_dir or Path("work_dirs", "sweeps", sweep.name))
    if not args.dry_run:
        folder.claim(sweep.name)
        folder.save_file(path)
        if args.retry_failed:
            print(f"{folder.retry_failed()} failed trials run again.")
    return Driver(sweep, folder, Requests(sweep, args.data_root), args.only or (), args.any_version)


def shortened(
    sweep: Sweep, epochs: int | None, seeds: Sequence[int] | None, iterations: int | None = None
) -> Sweep:
    """Return the sweep with other epochs or iterations, its rungs in proportion, and other seeds.

    >>> tune = {"lr": [0.1, 1.0]}
    >>> sweep = Sweep("a", ["a.py"], ["ce"], 40, "mIoU", tune=tune, rungs=[{"epochs": 10, "keep": 1}])
    >>> short = shortened(sweep, epochs=8, seeds=[1, 2])
    >>> short.rungs, short.seeds
    ([{'epochs': 2, 'keep': 1}], [1, 2])
    """
    for unit, length in (("epochs", epochs), ("iterations", iterations)):
        if length is None:
            continue
        if unit != sweep.unit:
            raise ValueError(f"`--{unit}`: the sweep trains by {sweep.unit}; give `--{sweep.unit}`.")
        rungs = [{**rung, unit: max(1, round(rung[unit] * length / sweep.length))} for rung in sweep.rungs]
        lengths: dict[str, Any] = {unit: length}
        sweep = replace(sweep, rungs=rungs, **lengths)
    return sweep if seeds is None else replace(sweep, seeds=list(seeds))


def run_sweep(driver: Driver | None, args: Namespace) -> None:
    """Run, or print what would run, or print the state.

    >>> from inspect import signature
    >>> list(signature(run_sweep).parameters)
    ['driver', 'args']

    Raises:
        SystemExit: If trials failed, or the run was interrupted.
    """
    if driver is None:
        show(args.folder, args.watch)
        return
    states = driver.look()
    others = 0 if args.any_version else driver.other_versions()
    if others:
        print(
            f"{others} trials have finished with another version of mmseol's code than this one "
            f"({driver.requests.version}) and run again, so that a table has one version. --any-version "
            "takes them as they are."
        )
    if args.dry_run:
        _print_plan(driver, states)
        return
    scope = Config.fromfile(find_config(driver.sweep.configs[0])).get("default_scope")
    options: dict[str, Any] = parse_options(args.engine_options or ())
    if args.address is not None:
        options["address"] = args.address
    engine = make_engine(args.engine, args.slots, preload_of(scope), options)
    handler = signal.signal(signal.SIGTERM, _end)
    try:
        left = driver.run(engine, args.budget)
    except KeyboardInterrupt:
        raise SystemExit("Interrupted; the same command continues.") from None
    except OSError as error:  # a full disk
        raise SystemExit(f"error: {error}. The same command continues.") from error
    finally:
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
    show(driver.folder.path)
    if driver.failed:
        raise SystemExit(f"error: {len(driver.failed)} trials failed; --retry-failed runs them again.")
    if left:
        print(f"{len(left)} trials are left; the same command continues.")


def _end(*_: object) -> None:
    raise SystemExit("Terminated; the same command continues.")


def _print_plan(driver: Driver, states: dict[Any, str]) -> None:
    for trial, one in states.items():
        print(f"# {driver.requests.of(trial)['id']} {one}, about {duration(driver.estimate(trial))}")
        for command in driver.requests.of(trial)["command"]:
            print(command)
    for group in later(driver.sweep, driver.results):
        seconds = driver.estimate(group)
        print(
            f"# later: {group.number} x {group.stage} {group.loss} {group.imbalance or ''} "
            f"{group.length} {driver.sweep.unit}, about "
            f"{duration(None if seconds is None else seconds * group.number)}"
        )
    left, seconds = driver.remaining(states)
    print(f"# {len(driver.results)} trials done, {left} left: about {duration(seconds)} on one slot")
