"""Run the benchmarks and write one page and one record of them.

python -m tools.benchmarks.run --out results/benchmarks
python -m tools.benchmarks.run --only upsampled_loss same_size_loss
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser
from importlib import import_module

from tools.benchmarks._report import markdown, write

# Modules beside this one with `run(repeats=...)`, which returns `report.table(...)`.
BENCHMARKS = (
    "upsampled_loss",
    "same_size_loss",
    "all_losses",
    "training_step",
    "psp_step",
    "gpu_step",
    "validation_pass",
    "decision_pass",
    "count_labels",
    "loader",
)
WITH_DATA = ("count_labels", "loader")


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Measure times and memory beside those of torch and the hosts.")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, metavar="NAME")
    parser.add_argument("--repeats", type=int, help="steps of each side; each benchmark has its own number")
    parser.add_argument("--out", help="folder of record.json and README.md; other benchmarks in it stay")
    parser.add_argument(
        "--data-root",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="real data in place of made: count_labels=CAMVID loader=CIFAR10",
    )
    args = parser.parse_args()
    roots = dict(item.partition("=")[::2] for item in args.data_root)
    if unknown := roots.keys() - set(WITH_DATA):
        parser.error(f"`--data-root` must name {' or '.join(WITH_DATA)}, got {', '.join(sorted(unknown))}.")
    warnings.simplefilter("ignore")
    for name in args.only:
        repeats = {} if args.repeats is None else {"repeats": args.repeats}
        root = {"data_root": roots[name]} if name in roots else {}
        made = import_module(f"tools.benchmarks.{name}").run(**repeats, **root)
        print(markdown([made]).partition("\n## ")[2], flush=True)
        if args.out:
            write(args.out, [made])


if __name__ == "__main__":
    main()
