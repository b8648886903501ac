"""The shipped configs on tiny data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config, ConfigDict
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES, CIFAR100_CATEGORIES, FOOD101_CATEGORIES
from PIL import Image

from mmseol import experiment
from mmseol.experiment.data import leaf_datasets

CONFIGS = Path(__file__).parents[2] / "configs"
# Templates name data of the user; test_templates.py trains them. Sweeps are no configs.
LEAVES = sorted(path for path in CONFIGS.glob("[!_]*/*.py") if path.parent.name not in ("template", "sweeps"))
SCOPES = {leaf: Config.fromfile(leaf).default_scope for leaf in LEAVES}
SEG, CLS = ([leaf for leaf in LEAVES if SCOPES[leaf] == host] for host in ("mmseg", "mmpretrain"))


def small(leaf: Path, toy: Path) -> Config:
    """Return the config on toy data, without weights to download, at a crop that a test can afford."""
    cfg = Config.fromfile(leaf)
    experiment.set_data_root(cfg, str(toy))
    cfg.model.pretrained = None
    cfg.model.data_preprocessor.size = (64, 64)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == "RandomCrop":
            step.crop_size = (64, 64)
    return cfg


def write_shipped_images(root: Path) -> dict[str, Path]:
    """Write CIFAR-10, CIFAR-100 and Food-101 with four training images a class, and return their folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "one.png")
    for name, classes in (("cifar10", CIFAR10_CATEGORIES), ("cifar100", CIFAR100_CATEGORIES)):
        for split, number in (("train", 4), ("test", 1)):
            for category in classes:
                folder = root / name / split / category
                folder.mkdir(parents=True)
                for i in range(number):
                    (folder / f"{i}.png").symlink_to(root / "one.png")
    (root / "food101" / "meta").mkdir(parents=True)
    for split, number in (("train", 4), ("test", 1)):
        lines = [f"{category}/{split}{i}" for category in FOOD101_CATEGORIES for i in range(number)]
        (root / "food101" / "meta" / f"{split}.txt").write_text("\n".join(lines))
        for line in lines:
            path = root / "food101" / "images" / f"{line}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(root / "one.png")
    return {name: root / name for name in ("cifar10", "cifar100", "food101")}


def hold_out(dataset: ConfigDict) -> ConfigDict:
    """Return the HoldOut among nested wrappers."""
    return dataset if dataset.type == "mmseol.HoldOut" else hold_out(dataset.dataset)


def small_images(leaf: Path, images: dict[str, Path]) -> Config:
    """Return the config on tiny data, without weights to download, at images of at most 64 pixels."""
    cfg = Config.fromfile(leaf)
    name = leaf.parent.name if leaf.parent.name == "food101" else leaf.stem.rpartition("_")[2]
    if name in images:
        experiment.set_data_root(cfg, str(images[name]))
        experiment.set_imbalance(cfg, "long_tailed:3")
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            hold_out(loader.dataset).per_class = 1
    for step in cfg.get("train_pipeline", []) + cfg.get("test_pipeline", []):
        for key, value in (
            ("RandomResizedCrop", "scale"),
            ("ResizeEdge", "scale"),
            ("CenterCrop", "crop_size"),
        ):
            if step.type == key:
                step[value] = 64
    for loader, pipeline in (("train", "train_pipeline"), ("val", "test_pipeline")):
        if pipeline in cfg:
            for dataset in leaf_datasets(cfg[f"{loader}_dataloader"].dataset):
                dataset.pipeline = cfg[pipeline]
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor = cfg.data_preprocessor
    return cfg
