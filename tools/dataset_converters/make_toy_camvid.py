"""Make a toy data set of road scenes in CamVid's layout, with its classes and imbalance."""

from __future__ import annotations

import argparse
import sys

from mmseol.camvid.toy import make_toy, share_table


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder to make; must not exist, or be empty")
    parser.add_argument("--num-train", type=int, default=160)
    parser.add_argument("--num-val", type=int, default=32)
    parser.add_argument("--num-test", type=int, default=32)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(120, 160), metavar=("H", "W"), help="(default: 120 160)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        pixels = make_toy(args.out, args.num_train, args.num_val, args.num_test, tuple(args.size), args.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"Wrote {args.out}. Shares of the labelled pixels in per cent:")
    print(share_table(pixels))


if __name__ == "__main__":
    main()
