"""Times of several ways to do one thing, taken in turns, and what is said of them."""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mmseol.files import replacing

__all__ = ["alternate", "arguments", "compare", "write"]


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each side, which take turns; a first turn is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compare(seconds: Mapping[str, list[float]], ratios: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return median seconds, and by name the median and range of the ratio of two sides' turns."""
    quotients = {
        name: [a / b for a, b in zip(seconds[upper], seconds[lower], strict=True)]
        for name, (upper, lower) in ratios.items()
    }
    return {
        "seconds": {name: round(median(values), 5) for name, values in seconds.items()},
        "ratios": {
            name: {
                "median": round(median(values), 3),
                "range": [round(min(values), 3), round(max(values), 3)],
            }
            for name, values in quotients.items()
        },
    }


def arguments(description: str, data: str, repeats: int) -> Namespace:
    """Return the arguments that these benchmarks share."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--data-root", metavar="DIR", help=f"{data}; made up without")
    parser.add_argument(
        "--repeats", type=int, default=repeats, help="turns of each side (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file for the record (JSON)")
    return parser.parse_args()


def write(record: Mapping[str, Any], out: Path | None) -> None:
    """Print a record, and write it with the machine that it comes from."""
    for name, value in record["seconds"].items():
        print(f"{name:<48} {1e3 * value:10.1f} ms")
    for name, value in record["ratios"].items():
        print(f"{name:<48} {value['median']:10.2f}   ({value['range'][0]:.2f} to {value['range'][1]:.2f})")
    if out is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        machine = {
            "cores": cores,
            "torch": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "python": platform.python_version(),
        }
        with replacing(out, "w") as file:
            json.dump({**record, "machine": machine}, file, indent=2)
