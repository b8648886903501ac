"""Train on long-tailed digits with cross entropy, MSE and outlying MSE, and show the scores side by side.

Runs tools/train.py and tools/test.py once per loss. The checkpoint is the best on validation data; the scores
are those of the test split.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmseol.analysis.records import SCORES, scores_record, written_scores
from mmseol.utils.files import replacing
from mmseol.utils.processes import run_side_by_side

TOOLS = Path(__file__).parent
CONFIG = TOOLS.parent / "configs" / "quickstart" / "digits.py"
LOSSES = {"ce": "cross entropy", "mse": "MSE", "outlying_mse": "outlying MSE"}


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the scores, a column a loss."""
    table = Table(title="Long-tailed digits, test split: per cent")
    for heading in ("", *rows):
        table.add_column(heading, justify="right" if heading else "left")
    for key, name in SCORES.items():
        table.add_row(name, *(f"{row[key]:.1f}" for row in rows.values()))
    Console().print(table)


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/quickstart_digits"))
    parser.add_argument("--imbalance", default="long_tailed:20", metavar="PROFILE:RATIO")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.work_dir.exists():
        parser.error(f"`--work-dir` {str(args.work_dir)!r} exists; remove it or give another.")
    began = time.perf_counter()
    commands = {}
    for loss in LOSSES:
        folder = args.work_dir / loss
        command = (str(TOOLS / "train.py"), str(CONFIG), "--loss", loss, "--imbalance", args.imbalance)
        further = ("--seed", str(args.seed), "--work-dir", str(folder))
        commands[folder / "train.log"] = (*command, *further)
    run_side_by_side(commands)
    commands = {}
    for loss in LOSSES:
        folder = args.work_dir / loss
        (checkpoint,) = folder.glob("best_accuracy_*.pth")
        command = (str(TOOLS / "test.py"), str(CONFIG), str(checkpoint), "--split", "test", "--loss", loss)
        commands[folder / "test.log"] = (*command, "--work-dir", str(folder / "test"))
    run_side_by_side(commands)
    rows = {title: written_scores(args.work_dir / loss / "test") for loss, title in LOSSES.items()}
    show(rows)
    title = f"Digits cut by {args.imbalance}, test split, seed {args.seed}"
    record = scores_record(
        title, ["bash tools/quickstart_digits.sh"], {name: [row] for name, row in rows.items()}
    )
    with replacing(args.work_dir / "record.json", "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    print(f"Logs and checkpoints: {args.work_dir}. {time.perf_counter() - began:.0f} s in all.")


if __name__ == "__main__":
    main()
