"""Try values of one parameter of a loss on validation data: a sweep, its curve as a picture, and its numbers.

    python tools/select_alpha.py configs/camvid/fastfcn_r18.py --values 1 2 4 6 8 --lr 0.003 0.01 0.03 \
        --seeds 1 2 3 --epochs 16 --work-dir work_dirs/alpha --data-root data/camvid

Every value gets a learning rate of its own from ``--lr``, because the gradient of outlying MSE grows with
alpha; then the seeds are trained and scored on the validation split. ``curve.png`` and ``curve.json`` are
written into the work directory. The sweep continues where it was interrupted; the test split stays closed.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config

from mmseol.__main__ import main as run_command
from mmseol.analysis.figures.parameter_curve import draw_curve, parameter_curve, value_sweep
from mmseol.analysis.records.sweep_record import sweep_record
from mmseol.analysis.records.trial_records import read_trials
from mmseol.experiment.config_files import find_config
from mmseol.utils.files import replacing


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="config file, or a config of mmseol such as camvid/fastfcn_r18.py")
    parser.add_argument("--loss", default="outlying_mse", metavar="NAME[:key=value,...]")
    parser.add_argument("--parameter", default="alpha", help="argument of the loss (default: alpha)")
    parser.add_argument("--values", nargs="+", type=float, required=True)
    parser.add_argument("--lr", nargs="+", type=float, help="learning rates that each value tries")
    parser.add_argument("--imbalance", nargs="+", metavar="PROFILE:RATIO", help="a curve for each")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=int)
    length.add_argument("--iterations", type=int, help="where the config trains by iterations")
    parser.add_argument("--metric", help="validation score (default: the one that saves best checkpoints)")
    parser.add_argument("--checkpoint", choices=["last", "best_on_validation"], default="last")
    parser.add_argument("--cfg-options", nargs="+", metavar="KEY=VALUE")
    parser.add_argument("--data-root", metavar="DIR")
    parser.add_argument("--slots", type=int, help="trainings at a time")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--title", default="")
    parser.add_argument("--draw-only", action="store_true", help="train nothing, draw what has finished")
    args = parser.parse_args()
    try:
        if args.metric is None:
            hooks = Config.fromfile(find_config(args.config)).get("default_hooks") or {}
            args.metric = (hooks.get("checkpoint") or {}).get("save_best")
        if not isinstance(args.metric, str):
            raise ValueError("`--metric` must be given: the config saves no best checkpoint by one score.")
        if not args.draw_only:
            run_command("sweep", sweep_arguments(args))
        record = sweep_record(read_trials([args.work_dir]), checkpoint=args.checkpoint, resamples=1)
        curves = parameter_curve(record, args.parameter, args.metric)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    with replacing(args.work_dir / "curve.json", "w") as file:
        file.write(json.dumps(curves, indent=1, allow_nan=False) + "\n")
    draw_curve(args.work_dir / "curve.png", curves, args.title)
    for curve in curves["curves"]:
        cut = f", {curve['imbalance']}" if curve["imbalance"] else ""
        print(f"{curve['loss']}{cut}: {args.parameter} {curve['best']:g} has the highest {args.metric}.")


def sweep_arguments(args: Namespace) -> list[str]:
    """Write the sweep file; return the arguments of ``tools/sweep.py``."""
    text = value_sweep(
        args.config,
        args.loss,
        args.parameter,
        args.values,
        f"Which {args.parameter} of {args.loss} scores best on validation data?",
        imbalances=args.imbalance,
        tune={"lr": args.lr} if args.lr else None,
        epochs=args.epochs,
        iterations=args.iterations,
        seeds=args.seeds,
        metric=args.metric,
        options=args.cfg_options,
    )
    path = args.work_dir.parent / f"{args.work_dir.name}_sweep.py"
    with replacing(path, "w") as file:
        file.write(text)
    arguments = [str(path), "--work-dir", str(args.work_dir)]
    arguments += ["--data-root", args.data_root] if args.data_root else []
    return arguments + (["--slots", str(args.slots)] if args.slots else [])


if __name__ == "__main__":
    main()
