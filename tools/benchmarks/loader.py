"""Small images held in memory and augmented by the batch, against mmpretrain's stock pipeline.

The data loader alone, batches of 128, random crops padded by 4 and flips, on the same data set. A turn is
one epoch; workers are started before the first and kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from torch.utils.data import DataLoader

from mmseol.classification import CIFAR10
from mmseol.datasets import InMemoryDataset
from tools.benchmarks._measure import alternate
from tools.benchmarks._report import row, table

NAME = "loader"
PIPELINE = (
    {"type": "RandomCrop", "crop_size": 32, "padding": 4},
    {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"},
    {"type": "PackInputs"},
)


class MadeImages(BaseDataset):
    """Random images of CIFAR's shape.

    Args:
        number: How many.
        **kwargs: Arguments of mmpretrain's ``BaseDataset``.
    """

    METAINFO = CIFAR10.METAINFO

    def __init__(self, number: int, **kwargs: Any) -> None:
        self.number = number
        super().__init__(ann_file="", **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return image and label of every sample."""
        images = np.random.default_rng(0).integers(0, 256, (self.number, 32, 32, 3)).astype(np.uint8)
        return [{"img": image, "gt_label": i % 10} for i, image in enumerate(images)]


def run(repeats: int = 15, data_root: str | None = None, images: int = 5000) -> dict[str, Any]:
    """Return the table of CIFAR-10's training images in ``data_root``, or of made ones."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        if data_root is None:
            dataset = MadeImages(images, pipeline=PIPELINE)
        else:
            dataset = CIFAR10(data_root=data_root, pipeline=PIPELINE)
        loaders = {
            "in memory": _loader(InMemoryDataset(dataset), "mmseol.whole_batch", 0),
            "stock": _loader(dataset, "default_collate", 0),
            "stock, 2": _loader(dataset, "default_collate", 2),
        }
        sides = {name: lambda loader=loader: _epoch(loader) for name, loader in loaders.items()}
        seconds = alternate(sides, repeats, warmup=1)
    sizes = f"{len(dataset)} images{'' if data_root else ' (made)'} of 32x32, batch 128"
    rows = [
        row("in memory", sizes, seconds["in memory"], seconds["stock"], limits={"time_ratio": 0.1}),
        row("in memory, against 2 workers", sizes, seconds["in memory"], seconds["stock, 2"]),
    ]
    return table(
        NAME,
        "Loading an epoch of small images",
        rows,
        "Reference: mmpretrain's pipeline, in the process itself and in 2 workers.",
    )


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
