"""Time to count the classes of label maps against the time of only decoding them.

    OMP_NUM_THREADS=1 python tools/benchmarks/counting.py [--data-root DIR] [--out FILE]

Both sides read the same files, which the system has in memory, by the same decoder (mmseg's: Pillow) and
hand them to the same workers: threads, as counting takes them by itself, and two processes. Counting
includes the walk through the data set.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mmcv
from alternating import alternate, arguments, compare, write
from mmengine import fileio
from mmengine.registry import DefaultScope

from mmseol.camvid.toy import make_toy
from mmseol.counting import count_label_maps
from mmseol.counting.parallel import run as work
from mmseol.segmentation import CamVidDataset

TOY_MAPS = 96


class Decode:
    """Decode a label map as mmseg does, and drop it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self) -> int:
        return mmcv.imfrombytes(fileio.get(self.path), flag="unchanged", backend="pillow").size


def run(data_root: str | None = None, repeats: int = 15) -> dict[str, Any]:
    """Return the record: CamVid's training label maps, or toys of their size."""
    with TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope("mmseg"):
        if data_root is None:
            make_toy(Path(folder) / "toy", TOY_MAPS, 1, 1, size=(360, 480))
        dataset = CamVidDataset(
            data_root=data_root or str(Path(folder) / "toy"),
            data_prefix={"img_path": "train", "seg_map_path": "trainannot"},
            pipeline=[{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}],
        )
        record = _measure(dataset, Path(folder), repeats)
    return {"benchmark": "counting", "data": "toy" if data_root is None else "CamVid", **record}


def _measure(dataset: Any, folder: Path, repeats: int) -> dict[str, Any]:
    jobs = [Decode(dataset.get_data_info(i)["seg_map_path"]) for i in range(len(dataset))]
    count_label_maps(dataset, 11, cache_dir=folder / "known", progress=False)
    firsts = iter(range(repeats + 1))

    def count(workers: int | None) -> None:
        count_label_maps(dataset, 11, workers=workers, cache=False, progress=False)

    def decode(workers: int | None) -> None:
        for _ in work(jobs, workers, False, "", threads=True):
            pass

    seconds = alternate(
        {
            "decode": lambda: decode(None),
            "count": lambda: count(None),
            "count and cache": lambda: count_label_maps(
                dataset, 11, cache_dir=folder / str(next(firsts)), progress=False
            ),
            "second start": lambda: count_label_maps(dataset, 11, cache_dir=folder / "known", progress=False),
            "decode, 2 processes": lambda: decode(2),
            "count, 2 processes": lambda: count(2),
        },
        repeats,
    )
    ratios = {
        "count / decode": ("count", "decode"),
        "count and cache / decode": ("count and cache", "decode"),
        "count / decode, 2 processes": ("count, 2 processes", "decode, 2 processes"),
    }
    return {"maps": len(jobs), "repeats": repeats, **compare(seconds, ratios)}


def main() -> None:
    """Read the arguments and run."""
    args = arguments("Count label maps against only decoding them.", "CamVid", 15)
    warnings.simplefilter("ignore")
    write(run(args.data_root, args.repeats), args.out)


if __name__ == "__main__":
    main()
