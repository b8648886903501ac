"""Time to count the classes of label maps against the time of only decoding them.

Both sides read the same files, which the system has in memory, by the same decoder (mmseg's: Pillow), once
in this process and once in two worker processes. Counting includes the walk through the data set.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmcv
from mmengine import fileio
from mmengine.registry import DefaultScope

from mmseol.camvid.toy import make_toy
from mmseol.counting import count_label_maps
from mmseol.counting.parallel import run as work
from mmseol.segmentation import CamVidDataset
from tools.benchmarks._measure import alternate
from tools.benchmarks._report import row, table

NAME = "count_labels"
SIZE = (360, 480)


class Decode:
    """Decode a label map as mmseg does, and drop it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> int:
        return mmcv.imfrombytes(fileio.get(self.path), flag="unchanged", backend="pillow").size


def run(
    repeats: int = 15, data_root: str | None = None, maps: int = 96, size: tuple[int, int] = SIZE
) -> dict[str, Any]:
    """Return the table of CamVid's training label maps in ``data_root``, or of toys of their size."""
    with TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope("mmseg"):
        if data_root is None:
            make_toy(Path(folder) / "toy", maps, 1, 1, size=size)
        dataset = CamVidDataset(
            data_root=data_root or str(Path(folder) / "toy"),
            data_prefix={"img_path": "train", "seg_map_path": "trainannot"},
            pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        )
        seconds = _seconds(dataset, Path(folder), repeats)
    sizes = f"{len(dataset)} maps" + ("" if data_root else f" (toys) of {size[0]}x{size[1]}")
    rows = [
        row("counting", sizes, seconds["count"], seconds["decode"], limits={"time_ratio": 1.3}),
        row("counting, and writing the cache", sizes, seconds["count and cache"], seconds["decode"]),
        row("counting in 2 processes", sizes, seconds["count, 2"], seconds["decode, 2"]),
        row("second start, from the cache", sizes, seconds["second start"], seconds["decode"]),
    ]
    return table(
        NAME,
        "Counting the classes of label maps",
        rows,
        "Reference: only decoding the maps, on the same workers.",
    )


def _seconds(dataset: Any, folder: Path, repeats: int) -> dict[str, list[float]]:
    jobs = [Decode(dataset.get_data_info(i)["seg_map_path"]) for i in range(len(dataset))]
    count_label_maps(dataset, 11, cache_dir=folder / "known", progress=False)
    firsts = iter(range(10**6))

    def count(workers: int | None) -> None:
        count_label_maps(dataset, 11, workers=workers, cache=False, progress=False)

    def decode(workers: int | None) -> None:
        for _ in work(jobs, workers, False, ""):
            pass

    def known(name: str) -> None:
        count_label_maps(dataset, 11, cache_dir=folder / name, progress=False)

    sides = {
        "decode": lambda: decode(None),
        "count": lambda: count(None),
        "count and cache": lambda: known(str(next(firsts))),
        "second start": lambda: known("known"),
        "decode, 2": lambda: decode(2),
        "count, 2": lambda: count(2),
    }
    return alternate(sides, repeats, warmup=1)
