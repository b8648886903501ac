"""Score logistic regression on the colour and position of pixels, the baseline that a network must beat.

The data set is in CamVid's layout. The model is fitted on pixels of the training images and scored on all
labelled pixels of the validation images.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmseol.analysis.color_position import BaselineScore, color_position_baseline
from mmseol.camvid.layout import CLASSES, find_pairs
from mmseol.utils.files import replacing


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data-root", type=Path, required=True, help="folder with train, trainannot, val, valannot"
    )
    parser.add_argument(
        "--split", default="val", choices=("val", "test"), help="split to score on (default: val)"
    )
    parser.add_argument("--pixels-per-image", type=int, default=200, help="of each image (default: 200)")
    parser.add_argument(
        "--crop", type=int, nargs=2, metavar=("H", "W"), help="draw them from a randomly placed window"
    )
    parser.add_argument(
        "--degree", type=int, default=2, choices=(1, 2), help="2 adds squares and products (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write; must not exist")
    return parser.parse_args()


def record(score: BaselineScore, args: argparse.Namespace) -> dict[str, object]:
    """Return settings and scores; IoU within 0..1, null for a class absent from truth and prediction."""
    iou = {
        name: None if value != value else float(value) for name, value in zip(CLASSES, score.iou, strict=True)
    }
    return {
        "method": "logistic regression on colour and position",
        "split": args.split,
        "degree": args.degree,
        "pixels_per_image": args.pixels_per_image,
        "crop": args.crop,
        "seed": args.seed,
        "mIoU": score.mean_iou,
        "accuracy": score.accuracy,
        "iou": iou,
        "train_pixels": score.train_pixels.tolist(),
        "confusion": score.confusion.tolist(),
    }


def main() -> None:
    """Run the command line."""
    args = parse_args()
    if args.out is not None and args.out.exists():
        sys.exit(f"error: --out {args.out} exists; name another file or remove it first.")
    try:
        train, val = (
            [
                (pair.image, pair.label)
                for pair in find_pairs(args.data_root / split, args.data_root / f"{split}annot")
            ]
            for split in ("train", args.split)
        )
        crop = tuple(args.crop) if args.crop else None
        score = color_position_baseline(
            train, val, len(CLASSES), args.pixels_per_image, args.seed, crop, args.degree
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{'class':<12}{'IoU %':>8}{'fitted on':>12}")
    for name, iou, pixels in zip(CLASSES, score.iou, score.train_pixels, strict=True):
        print(f"{name:<12}{100 * iou:>8.2f}{pixels:>12}")
    print(f"{'mIoU':<12}{100 * score.mean_iou:>8.2f}{score.train_pixels.sum():>12}")
    print(f"{'accuracy':<12}{100 * score.accuracy:>8.2f}")
    if args.out is not None:
        with replacing(args.out, "w") as file:
            file.write(json.dumps(record(score, args), indent=1) + "\n")


if __name__ == "__main__":
    main()
