"""Train on toy road scenes with cross entropy and with outlying MSE, and show both beside a baseline.

Makes the data, runs tools/train.py and tools/test.py once per loss, and prints the test IoU of each class
beside a logistic regression on colour and position of pixels. The checkpoint is the best on validation data.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmseol.utils.processes import run_side_by_side

TOOLS = Path(__file__).parent
CONFIG = TOOLS.parent / "configs" / "quickstart" / "toy_camvid.py"
LOSSES = {"ce": "cross entropy", "outlying_mse": "outlying MSE"}
console = Console()


def show(record: dict) -> None:
    """Print IoU in per cent, a row a class."""
    table = Table(title=f"{record['title']}: IoU in per cent")
    for heading in ("class", *record["iou"]):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name in next(iter(record["iou"].values())):
        cells = (row[name] for row in record["iou"].values())
        table.add_row(name, *("" if cell is None else f"{cell:.1f}" for cell in cells))
    table.add_section()
    table.add_row("mean", *(f"{mean:.1f}" for mean in record["mean_iou"].values()))
    console.print(table)


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root", type=Path, default=Path("data/toy_camvid"), help="made if missing")
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quickstart"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.work_dir.exists():
        parser.error(f"`--work-dir` {str(args.work_dir)!r} exists; remove it or give another.")
    began = time.perf_counter()
    data_root, work_dir = args.data_root, args.work_dir
    if not data_root.exists():
        maker = str(TOOLS / "dataset_converters" / "make_toy_camvid.py")
        subprocess.run([sys.executable, maker, "--out", str(data_root)], check=True)

    shared = ("--data-root", str(data_root))
    commands = {}
    for loss in LOSSES:
        folder = work_dir / loss
        command = (str(TOOLS / "train.py"), str(CONFIG), "--loss", loss, "--seed", str(args.seed), *shared)
        commands[folder / "train.log"] = (*command, "--work-dir", str(folder))
    run_side_by_side(commands)
    commands = {}
    for loss in LOSSES:
        folder = work_dir / loss
        (checkpoint,) = folder.glob("best_mIoU_*.pth")
        command = (str(TOOLS / "test.py"), str(CONFIG), str(checkpoint), "--split", "test", "--loss", loss)
        outputs = ("--work-dir", str(folder / "test"), "--out", str(folder / "predictions"))
        commands[folder / "test.log"] = (*command, *shared, *outputs)
    run_side_by_side(commands)

    maps = [f"{title}={work_dir / loss / 'predictions'}" for loss, title in LOSSES.items()]
    picture, record = work_dir / "predictions.png", work_dir / "record.json"
    compare = (
        str(TOOLS / "analysis_tools" / "compare_predictions.py"),
        *shared,
        "--split",
        "test",
        "--baseline",
    )
    names = ("--title", "Toy road scenes, test split", "--commands", "bash tools/quickstart.sh")
    outputs = ("--out", str(record), "--picture", str(picture))
    subprocess.run(
        [sys.executable, *compare, "--maps", *maps, *names, *outputs], check=True, stdout=subprocess.DEVNULL
    )
    show(json.loads(record.read_text()))
    console.print(
        f"Picture: {picture}. Logs and checkpoints: {work_dir}. {time.perf_counter() - began:.0f} s in all."
    )


if __name__ == "__main__":
    main()
