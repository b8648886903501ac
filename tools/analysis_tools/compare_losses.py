"""Train a config once per loss and seed as it is, without tuning, and write a record of scores and costs.

    python tools/analysis_tools/compare_losses.py configs/camvid/fastfcn_r18.py --losses ce dice mse \
        --data-root DIR --work-dir work_dirs/losses --out results/NAME/record.json

The checkpoint of the last epoch is scored, so that no epoch is chosen. Repeat the command to continue an
interrupted comparison: finished runs in the work directory are not repeated. One learning rate serves all
losses unless `--options-of LOSS optim_wrapper.optimizer.lr=RATE` gives a loss its own; tools/sweep.py tunes
the rate of every loss.
"""

from __future__ import annotations

import json
import shlex
import sys
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseol.analysis.records.run_records import SCORES, SEG_SCORES, scores_record
from mmseol.analysis.tabulation.markdown import markdown
from mmseol.experiment.config_files import find_config
from mmseol.experiment.loss import known_losses, parse_options
from mmseol.sweeps import engines
from mmseol.sweeps.driver import Driver
from mmseol.sweeps.planner import Trial
from mmseol.sweeps.request import Requests
from mmseol.sweeps.sweep_file import Sweep
from mmseol.sweeps.work_folder import WorkFolder, preload_of
from mmseol.utils.files import read_json, replacing

LENGTHS = {"epochs": "train_cfg.max_epochs", "iterations": "train_cfg.max_iters"}


def row(folder: Path) -> dict[str, Any]:
    """Return scores, seconds an iteration and peak memory of a finished trial."""
    record = read_json(folder / "record.json")
    costs = {"seconds": record["seconds_per_iteration"], "memory": record["memory"]}
    return {**record["scores"]["last"]["scores"], **costs}


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Compare losses on one config, without tuning.")
    parser.add_argument("config", help="config file")
    parser.add_argument("--losses", nargs="+", metavar="NAME[:key=value,...]", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--split", choices=["val", "test"], default="val", help="split to score")
    parser.add_argument("--imbalance", metavar="PROFILE:RATIO")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--options-of",
        nargs="+",
        action="append",
        default=[],
        metavar=("LOSS", "KEY=VALUE"),
        help="further --cfg-options for one loss: --options-of cdb_ce train_cfg.val_interval=1",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--note", help="further facts for the record")
    parser.add_argument("--out", type=Path, required=True, help="record to write (JSON)")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"`--out` {str(args.out)!r} exists; name another file or remove it first.")
    further = {loss: options for loss, *options in args.options_of}
    try:
        cfg = Config.fromfile(find_config(args.config))
        losses = args.losses or sorted(known_losses(cfg))
        if unknown := further.keys() - set(losses):
            raise ValueError(f"`--options-of` must name losses that are compared, got {min(unknown)!r}.")
        given = parse_options(args.cfg_options)
        lengths = {
            unit: given.get(key, cfg.train_cfg.get(key.rpartition(".")[2])) for unit, key in LENGTHS.items()
        }
        sweep = Sweep(
            name="compare_losses",
            configs=[args.config],
            losses=losses,
            **lengths,
            metric=cfg.default_hooks.checkpoint.save_best,
            seeds=args.seeds,
            imbalances=[args.imbalance],
            split=args.split,
            options=[item for item in args.cfg_options if item.partition("=")[0] not in LENGTHS.values()],
            options_of=further,
        )
        folder = WorkFolder(args.work_dir)
        folder.claim(sweep.name)
        driver = Driver(sweep, folder, Requests(sweep, args.data_root))
        driver.run(engines.make_engine("local", args.jobs, preload_of(cfg.get("default_scope")), {}))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    done: dict[str, list[dict[str, Any]]] = {loss: [] for loss in losses}
    for trial in driver.results:
        done[trial.loss].append(row(driver.path(trial)))
    failed = {f"{trial.loss}, seed {trial.seed}": reason for trial, reason in driver.failed.items()}
    extra: dict[str, Any] = {"note": args.note} if args.note else {}
    extra |= {"seeds": args.seeds, "jobs": args.jobs} | ({"failed": failed} if failed else {})
    headings = SEG_SCORES if cfg.get("default_scope") == "mmseg" else SCORES
    record = scores_record(args.title, commands(driver, losses[0], args.seeds[0]), done, headings, **extra)
    with replacing(args.out, "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


def commands(driver: Driver, loss: str, seed: int) -> list[str]:
    """Return the command lines of a run with the loss and the seed left open, and what single losses add."""
    sweep = driver.sweep
    trial = Trial("final", sweep.configs[0], sweep.imbalances[0], loss, (), sweep.length, seed)
    requests = Requests(replace(sweep, options_of={}), driver.requests.data_root)
    shown = requests.of(trial)["command"]
    given = {"loss": loss, "seed": str(seed), "data-root": requests.data_root}
    for name, value in given.items():
        if value is not None:
            word = "DIR" if name == "data-root" else name.upper()
            shown = [line.replace(shlex.join([f"--{name}", value]), f"--{name} {word}", 1) for line in shown]
    return [*shown, *(f"{one} also with {' '.join(items)}" for one, items in sweep.options_of.items())]


if __name__ == "__main__":
    main()
