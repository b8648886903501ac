"""Train a small config with several losses on the CPU, each at its own learning rate, and compare them.

    python tools/quickstart.py --config toy       # road scenes: test IoU of each class, and a picture
    python tools/quickstart.py --config digits    # long-tailed digits: test accuracy, F-measure, worst class

Runs tools/train.py and tools/test.py once per loss. The checkpoint is the best on validation data; the scores
are those of the test split.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmseol.analysis.records.run_records import SCORES, scores_record, written_scores
from mmseol.utils.files import replacing
from mmseol.utils.processes import run_side_by_side

TOOLS = Path(__file__).parent
CONFIGS = TOOLS.parent / "configs" / "quickstart"


@dataclass(frozen=True)
class Quickstart:
    """A config and the losses to compare on it.

    Attributes:
        config: File in ``configs/quickstart``.
        command: What the user types, for the record; also the name of the default work directory.
        metric: Validation score that chooses the checkpoint.
        losses: Title of each loss by its ``--loss`` name.
        learning_rates: Learning rate of each loss.
    """

    config: str
    command: str
    metric: str
    losses: Mapping[str, str]
    learning_rates: Mapping[str, float]


# Each learning rate is the best of a grid on validation data, seed 1; of equal scores, the lowest. Grids:
# 3e-3, 1e-2, 3e-2, 1e-1, 3e-1 (toy; cross entropy also 1, 3); 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2 (digits;
# outlying MSE also 1e-1). `tuning` in results/quickstart*/record.json has the score of every grid point.
QUICKSTARTS = {
    "toy": Quickstart(
        "toy_camvid.py",
        "quickstart",
        "mIoU",
        {"ce": "cross entropy", "outlying_mse": "outlying MSE"},
        {"ce": 1.0, "outlying_mse": 1e-2},
    ),
    "digits": Quickstart(
        "digits.py",
        "quickstart_digits",
        "accuracy",
        {"ce": "cross entropy", "mse": "MSE", "outlying_mse": "outlying MSE"},
        {"ce": 5e-3, "mse": 5e-3, "outlying_mse": 1e-2},
    ),
}


def train_and_test(chosen: Quickstart, args: Namespace) -> None:
    """Run tools/train.py, then tools/test.py, once per loss; all losses side by side."""
    config = str(CONFIGS / chosen.config)
    toy = args.config == "toy"
    data = ("--data-root", str(args.data_root)) if toy else ()
    cut = () if toy else ("--imbalance", args.imbalance)
    rates = {**chosen.learning_rates, **args.learning_rates}
    training = {}
    for loss in chosen.losses:
        folder = args.work_dir / loss
        command = (str(TOOLS / "train.py"), config, "--loss", loss, *cut, "--seed", str(args.seed), *data)
        options = ("--cfg-options", f"optim_wrapper.optimizer.lr={rates[loss]:g}")
        training[folder / "train.log"] = (*command, "--work-dir", str(folder), *options)
    run_side_by_side(training)
    testing = {}
    for loss in chosen.losses:
        folder = args.work_dir / loss
        (checkpoint,) = folder.glob(f"best_{chosen.metric}_*.pth")
        command = (str(TOOLS / "test.py"), config, str(checkpoint), "--split", "test", "--loss", loss, *data)
        maps = ("--out", str(folder / "predictions")) if toy else ()
        testing[folder / "test.log"] = (*command, "--work-dir", str(folder / "test"), *maps)
    run_side_by_side(testing)


def compare_toy(chosen: Quickstart, args: Namespace) -> dict[str, Any]:
    """Write record.json and predictions.png of the test predictions and a baseline; return the record."""
    record = args.work_dir / "record.json"
    maps = (f"{title}={args.work_dir / loss / 'predictions'}" for loss, title in chosen.losses.items())
    command = [
        *(sys.executable, str(TOOLS / "analysis_tools" / "compare_predictions.py")),
        *("--data-root", str(args.data_root), "--split", "test", "--baseline"),
        *("--maps", *maps),
        *("--title", "Toy road scenes, test split", "--commands", f"bash tools/{chosen.command}.sh"),
        *("--out", str(record), "--picture", str(args.work_dir / "predictions.png")),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(record.read_text())


def compare_digits(chosen: Quickstart, args: Namespace) -> dict[str, Any]:
    """Write record.json of the test scores; return the record."""
    rows = {name: [written_scores(args.work_dir / loss / "test")] for loss, name in chosen.losses.items()}
    title = f"Digits cut by {args.imbalance}, test split, seed {args.seed}"
    record = scores_record(title, [f"bash tools/{chosen.command}.sh"], rows)
    with replacing(args.work_dir / "record.json", "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    return record


def show(record: Mapping[str, Any]) -> None:
    """Print a record: losses in columns, classes or scores in rows."""
    if "iou" in record:
        columns = {name: [*row.values(), record["mean_iou"][name]] for name, row in record["iou"].items()}
        headings = [*next(iter(record["iou"].values())), "mean"]
        unit = "IoU in per cent"
    else:
        columns = {name: [row[key][0] for key in SCORES] for name, row in record["scores"].items()}
        headings, unit = list(SCORES.values()), "per cent"
    table = Table(title=f"{record['title']}: {unit}")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for heading, *values in zip(headings, *columns.values(), strict=True):
        if heading == "mean":
            table.add_section()
        table.add_row(heading, *("" if value is None else f"{value:.1f}" for value in values))
    Console().print(table)


def parse_args() -> Namespace:
    """Return the checked command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=QUICKSTARTS, default="toy")
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/quickstart or _digits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data-root", type=Path, help="toy scenes, made if missing (data/toy_camvid)")
    parser.add_argument("--imbalance", metavar="PROFILE:RATIO", help="of the digits (long_tailed:20)")
    parser.add_argument(
        "--learning-rates", nargs="+", default=[], metavar="LOSS=RATE", help="instead of the tuned ones"
    )
    args = parser.parse_args()
    chosen = QUICKSTARTS[args.config]
    if args.config == "toy" and args.imbalance:
        parser.error("`--imbalance` goes with `--config digits` alone; leave it out.")
    if args.config == "digits" and args.data_root:
        parser.error("`--data-root` goes with `--config toy` alone; leave it out.")
    args.data_root = args.data_root or Path("data/toy_camvid")
    args.imbalance = args.imbalance or "long_tailed:20"
    args.work_dir = args.work_dir or Path("work_dirs") / chosen.command
    try:
        pairs = (item.partition("=") for item in args.learning_rates)
        args.learning_rates = {loss: float(rate) for loss, _, rate in pairs}
    except ValueError:
        parser.error(f"`--learning-rates` must be LOSS=RATE, got {' '.join(args.learning_rates)}.")
    if unknown := args.learning_rates.keys() - chosen.losses.keys():
        parser.error(f"`--learning-rates` must name {', '.join(chosen.losses)}, got {', '.join(unknown)}.")
    if args.work_dir.exists():
        parser.error(f"`--work-dir` {str(args.work_dir)!r} exists; remove it or give another.")
    return args


def main() -> None:
    """Read the arguments and run."""
    args = parse_args()
    chosen = QUICKSTARTS[args.config]
    began = time.perf_counter()
    if args.config == "toy" and not args.data_root.exists():
        maker = str(TOOLS / "dataset_converters" / "make_toy_camvid.py")
        subprocess.run([sys.executable, maker, "--out", str(args.data_root)], check=True)
    train_and_test(chosen, args)
    show(compare_toy(chosen, args) if args.config == "toy" else compare_digits(chosen, args))
    if args.config == "toy":
        print(f"Picture: {args.work_dir / 'predictions.png'}.")
    print(f"Logs and checkpoints: {args.work_dir}. {time.perf_counter() - began:.0f} s in all.")


if __name__ == "__main__":
    main()
