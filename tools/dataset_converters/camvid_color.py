"""Convert the original CamVid (720x960, labels in 32 colours) to 360x480 and 11 classes for CamVidDataset."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmseol.camvid.convert import convert_color
from mmseol.camvid.layout import SPLIT_SIZES


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with 701_StillsRaw_full and LabeledApproved_full")
    parser.add_argument("--images", type=Path, help="image folder (default: SOURCE/701_StillsRaw_full)")
    parser.add_argument("--labels", type=Path, help="label folder (default: SOURCE/LabeledApproved_full)")
    parser.add_argument(
        "--splits",
        required=True,
        type=Path,
        help="folder with train.txt, val.txt and test.txt (names, or SegNet's lists)",
    )
    parser.add_argument("--out", required=True, help="folder to make; must not exist, or be empty")
    parser.add_argument("--only", nargs="+", choices=tuple(SPLIT_SIZES), help="splits to take (default: all)")
    parser.add_argument("--any-size", action="store_true", help="do not ask for 367, 101 and 233 images")
    parser.add_argument(
        "--unknown-as-void", action="store_true", help="read colours that are none of the 32 as void"
    )
    args = parser.parse_args()
    try:
        sizes = convert_color(
            args.images or args.source / "701_StillsRaw_full",
            args.labels or args.source / "LabeledApproved_full",
            args.splits,
            args.out,
            args.only or tuple(SPLIT_SIZES),
            None if args.any_size else SPLIT_SIZES,
            args.unknown_as_void,
            progress=True,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {args.out}: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


if __name__ == "__main__":
    main()
