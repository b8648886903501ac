"""Score the label maps of several methods, written by tools/test.py --out, and draw some of them.

    python tools/analysis_tools/compare_predictions.py --data-root DIR --split val --baseline \
        --maps "outlying MSE=DIR" "cross entropy=DIR" --out results/NAME/record.json
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseol.analysis.color_position import color_position_baseline
from mmseol.analysis.figures.side_by_side import comparison_grid
from mmseol.analysis.records.run_records import iou_of_maps, iou_record
from mmseol.analysis.records.training_runs import tuning_rows
from mmseol.analysis.tabulation.markdown import markdown
from mmseol.camvid.layout import CLASSES, PALETTE, find_pairs
from mmseol.utils.files import replacing


def pairs(data_root: Path, split: str) -> list[tuple[Path, Path]]:
    """Return the image and label map file of each image of a split."""
    return [(pair.image, pair.label) for pair in find_pairs(data_root / split, data_root / f"{split}annot")]


def draw(path: Path, samples: list[tuple[Path, Path]], maps: dict[str, Path], rows: int) -> None:
    """Save a picture of ``rows`` images, evenly spaced in the split, with truth and predictions."""
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, rows).round().astype(int)]
    comparison_grid(
        path,
        [np.asarray(Image.open(image).convert("RGB")) for image, _ in chosen],
        [np.asarray(Image.open(label)) for _, label in chosen],
        {
            title: [np.asarray(Image.open(folder / label.name)) for _, label in chosen]
            for title, folder in maps.items()
        },
        CLASSES,
        PALETTE,
    )


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Compare predicted label maps.")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--maps", nargs="+", metavar="TITLE=DIR", required=True)
    parser.add_argument(
        "--baseline", action="store_true", help="add logistic regression on colour and position"
    )
    parser.add_argument(
        "--crop",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="window of the baseline's pixels",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the baseline")
    parser.add_argument("--title", default="")
    parser.add_argument("--commands", nargs="+", default=[], help="command lines of the runs, for the record")
    parser.add_argument("--note", help="further facts for the record")
    parser.add_argument(
        "--tuning",
        nargs="+",
        metavar="LOSS=DIR,DIR,...",
        help="work dirs of tools/train.py whose learning rates and validation scores go into the record",
    )
    parser.add_argument("--out", type=Path, required=True, help="record to write (JSON)")
    parser.add_argument("--picture", type=Path, help="picture to write (PNG)")
    parser.add_argument("--rows", type=int, default=4, help="images in the picture")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"`--out` {str(args.out)!r} exists; name another file or remove it first.")
    maps = {title: Path(folder) for title, _, folder in (item.partition("=") for item in args.maps)}
    samples = pairs(args.data_root, args.split)
    scores = {}
    if args.baseline:
        crop = tuple(args.crop) if args.crop else None
        train = pairs(args.data_root, "train")
        scores["colour and position"] = color_position_baseline(
            train, samples, len(CLASSES), seed=args.seed, crop=crop
        ).iou
    scores |= {title: iou_of_maps(samples, folder, len(CLASSES)) for title, folder in maps.items()}
    extra: dict[str, Any] = {"note": args.note} if args.note else {}
    if args.tuning:
        extra["tuning"] = tuning_rows(args.tuning)
    record = iou_record(args.title, args.commands, CLASSES, scores, **extra)
    if args.picture:
        draw(args.picture, samples, maps, args.rows)
    with replacing(args.out, "w") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    print(markdown(record))


if __name__ == "__main__":
    sys.exit(main())
