"""Train on toy road scenes with cross entropy and with outlying MSE, and show both beside a baseline.

Makes the data, runs tools/train.py and tools/test.py once per loss, and prints the test IoU of each class
beside a logistic regression on colour and position of pixels. The checkpoint is the best on validation data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console
from rich.table import Table

TOOLS = Path(__file__).parent
CONFIG = TOOLS.parent / "configs" / "quickstart" / "toy_camvid.py"
LOSSES = {"ce": "cross entropy", "outlying_mse": "outlying MSE"}
console = Console()


def start(*arguments: str, log: Path, threads: int) -> subprocess.Popen:
    """Start one of the tools with its output in ``log``."""
    console.print("$ python " + " ".join(arguments), style="dim", soft_wrap=True, highlight=False)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT, env=environment
        )


def wait(processes: dict[str, subprocess.Popen], work_dir: Path, stage: str) -> None:
    """Wait for all, and leave with the end of the log of the first that fails."""
    for loss, process in processes.items():
        if process.wait():
            log = work_dir / loss / f"{stage}.log"
            sys.exit(
                "\n".join([*log.read_text().splitlines()[-30:], f"{stage} with {loss} failed; see {log}"])
            )


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

    # Both losses at once, each on half of the cores: the same work in less time than one after the other.
    threads = max(1, (os.cpu_count() or 2) // len(LOSSES))
    shared = ("--data-root", str(data_root))
    running = {}
    for loss in LOSSES:
        folder = work_dir / loss
        command = (str(TOOLS / "train.py"), str(CONFIG), "--loss", loss, "--seed", str(args.seed), *shared)
        running[loss] = start(*command, "--work-dir", str(folder), log=folder / "train.log", threads=threads)
    wait(running, work_dir, "train")
    for loss in LOSSES:
        folder = work_dir / loss
        (checkpoint,) = folder.glob("best_mIoU_*.pth")
        command = (
            str(TOOLS / "test.py"),
            str(CONFIG),
            str(checkpoint),
            "--split",
            "test",
            "--loss",
            loss,
            *shared,
        )
        outputs = ("--work-dir", str(folder / "test"), "--out", str(folder / "predictions"))
        running[loss] = start(*command, *outputs, log=folder / "test.log", threads=threads)
    wait(running, work_dir, "test")

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
