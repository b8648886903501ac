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

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmseol.analysis.color_position import color_position_baseline, iou_per_class
from mmseol.analysis.pictures import comparison_grid
from mmseol.camvid.files import CLASSES, PALETTE, find_pairs
from mmseol.files import replacing
from mmseol.processes import run_side_by_side

TOOLS = Path(__file__).parent
CONFIG = TOOLS.parent / "configs" / "quickstart" / "toy_camvid.py"
LOSSES = {"ce": "cross entropy", "outlying_mse": "outlying MSE"}
console = Console()


def pairs(data_root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the image and label map files of a split."""
    return [(pair.image, pair.label) for pair in find_pairs(data_root / split, data_root / f"{split}annot")]


def score(samples: list[tuple[Path, Path]], folder: Path) -> np.ndarray:
    """Return IoU per class, within 0..1, of the label maps in ``folder``, (K,)."""
    classes = len(CLASSES)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for _, annotation in samples:
        truth, predicted = (np.asarray(Image.open(path)) for path in (annotation, folder / annotation.name))
        valid = truth < classes
        index = truth[valid].astype(np.int64) * classes + predicted[valid]
        confusion += np.bincount(index, minlength=classes**2).reshape(classes, classes)
    return iou_per_class(confusion)


def show(scores: dict[str, np.ndarray]) -> None:
    """Print IoU in per cent, a row a class."""
    table = Table(title="Toy road scenes, test split: IoU in per cent")
    for heading in ("class", *scores):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for k, name in enumerate(CLASSES):
        table.add_row(name, *(f"{100 * iou[k]:.1f}" for iou in scores.values()))
    table.add_section()
    table.add_row("mean", *(f"{100 * np.nanmean(iou):.1f}" for iou in scores.values()))
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

    test = pairs(data_root, "test")
    baseline = color_position_baseline(pairs(data_root, "train"), test, len(CLASSES), seed=args.seed)
    scores = {"colour and position": baseline.iou}
    scores |= {title: score(test, work_dir / loss / "predictions") for loss, title in LOSSES.items()}
    show(scores)
    rows = {name: dict(zip(CLASSES, iou.tolist(), strict=True)) for name, iou in scores.items()}
    with replacing(work_dir / "iou.json", "w") as file:
        json.dump(rows, file, indent=1)
    chosen = test[:4]
    picture = comparison_grid(
        work_dir / "predictions.png",
        [np.asarray(Image.open(image)) for image, _ in chosen],
        [np.asarray(Image.open(annotation)) for _, annotation in chosen],
        {
            title: [
                np.asarray(Image.open(work_dir / loss / "predictions" / image.name)) for image, _ in chosen
            ]
            for loss, title in LOSSES.items()
        },
        CLASSES,
        PALETTE,
    )
    console.print(
        f"Picture: {picture}. Logs and checkpoints: {work_dir}. {time.perf_counter() - began:.0f} s in all."
    )


if __name__ == "__main__":
    main()
