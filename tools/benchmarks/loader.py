"""CIFAR images a second: held in memory and augmented by the batch, against mmpretrain's stock pipeline.

    OMP_NUM_THREADS=1 python tools/benchmarks/loader.py [--data-root DIR] [--out FILE]

The data loader alone, batches of 128, random crops padded by 4 and flips, on the same data set. A turn is
one epoch; workers are started before the first and kept.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from alternating import alternate, arguments, compare, write
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from torch.utils.data import DataLoader

from mmseol.classification import CIFAR10
from mmseol.datasets import InMemoryDataset

PIPELINE = (
    {"type": "RandomCrop", "crop_size": 32, "padding": 4},
    {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "PackInputs"},
)


class MadeImages(BaseDataset):
    """Random images of CIFAR's shape."""

    METAINFO = CIFAR10.METAINFO

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return image and label of every sample."""
        images = np.random.default_rng(0).integers(0, 256, (5000, 32, 32, 3)).astype(np.uint8)
        return [{"img": image, "gt_label": i % 10} for i, image in enumerate(images)]


def run(data_root: str | None = None, repeats: int = 15) -> dict[str, Any]:
    """Return the record: CIFAR-10's training images, or made ones."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        if data_root is None:
            dataset = MadeImages(ann_file="", pipeline=PIPELINE)
        else:
            dataset = CIFAR10(data_root=data_root, pipeline=PIPELINE)
        stock = "mmpretrain's pipeline"
        loaders = {
            "in memory": _loader(InMemoryDataset(dataset), "mmseol.whole_batch", 0),
            stock: _loader(dataset, "default_collate", 0),
            f"{stock}, 2 workers": _loader(dataset, "default_collate", 2),
        }
        sides = {name: lambda loader=loader: _epoch(loader) for name, loader in loaders.items()}
        seconds = alternate(sides, repeats)
    ratios = {
        f"{stock} / in memory": (stock, "in memory"),
        f"{stock}, 2 workers / in memory": (f"{stock}, 2 workers", "in memory"),
    }
    compared = compare(seconds, ratios)
    speed = {name: round(len(dataset) / value) for name, value in compared["seconds"].items()}
    data = "made" if data_root is None else "CIFAR-10"
    return {
        "benchmark": "loader",
        "data": data,
        "images": len(dataset),
        "batch_size": 128,
        "repeats": repeats,
        "images_per_second": speed,
        **compared,
    }


def _loader(dataset: Any, collate: str, workers: int) -> DataLoader:
    return Runner.build_dataloader(
        {
            "dataset": dataset,
            "batch_size": 128,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": collate},
        }
    )


def _epoch(loader: DataLoader) -> None:
    for _ in loader:
        pass


def main() -> None:
    """Read the arguments and run."""
    args = arguments("Images a second of two data loaders.", "CIFAR-10", 15)
    warnings.simplefilter("ignore")
    record = run(args.data_root, args.repeats)
    write(record, args.out)
    for name, speed in record["images_per_second"].items():
        print(f"{name:<48} {speed:10} images/s")


if __name__ == "__main__":
    main()
