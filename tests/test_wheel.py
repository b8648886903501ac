"""The wheel, installed without the checkout: losses by name on configs of the hosts, and our own configs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers.small_data import write_class_folders, write_images, write_maps

pytest.importorskip("mmpretrain")

ROOT = Path(__file__).parents[1]
SCRIPT = """
import runpy, shutil, sys
import mmseol
assert mmseol.__file__.startswith(sys.argv[1]), mmseol.__file__
from mmseol.experiment.config_files import find_config, read_config
for name in ("my_dataset.py", "my_classes.py"):  # copied as their docstrings say
    assert read_config(shutil.copy(find_config("template/" + name), name)).classes
for line in open(sys.argv[2]).read().splitlines():
    sys.argv = ["mmseol", *line.split()]
    runpy.run_module("mmseol", run_name="__main__")
"""


def run(*command: object, folder: Path) -> str:
    """Run a command outside of the checkout; what Python imports lies in ``folder`` or is installed."""
    environ = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, *map(str, command))
    result = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return result.stdout + result.stderr


def stock(host: str, config: str) -> Path:
    """Return a config that the host has installed."""
    (folder,) = find_spec(host).submodule_search_locations
    path = Path(folder, ".mim", "configs", config)
    assert path.is_file()
    return path


def test_losses_and_configs_are_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("mmseol", "configs", "tools", "results"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run("-m", "pip", "wheel", *options, "--no-build-isolation", "-w", "wheels", "./source", folder=tmp_path)
    shutil.rmtree(source)
    (wheel,) = (tmp_path / "wheels").iterdir()
    run("-m", "pip", "install", *options, "--target", "site", wheel, folder=tmp_path)
    assert (tmp_path / "site" / "mmseol" / "py.typed").is_file()
    assert (tmp_path / "site" / "mmseol" / "analysis" / "records" / "paper_tables.json").is_file()
    shipped = {path.parent.name for path in (tmp_path / "site/mmseol/.mim/results").glob("*/record.json")}
    assert shipped == {path.parent.name for path in (ROOT / "results").glob("*/record.json")}

    city = write_maps(tmp_path / "city", number=4)
    write_images(city, number=4)
    for folder, suffix in (("img", "_leftImg8bit.png"), ("ann", "_gtFine_labelTrainIds.png")):
        for path in (city / folder).iterdir():
            path.rename(path.with_name(path.stem + suffix))
    prefix = "train_dataloader.dataset."
    crop = ("2.scale=(64,64)", "3.crop_size=(64,64)")
    segmentation = (
        *(f"{prefix}pipeline.{step}" for step in crop),
        "model.data_preprocessor.size=(64,64)",
        f"{prefix}data_prefix.img_path=img",
        f"{prefix}data_prefix.seg_map_path=ann",
        "model.pretrained=None",
        "train_dataloader.batch_size=2",
        "train_dataloader.num_workers=0",
        "train_cfg.max_iters=1",
        *(f"val_{part}=None" for part in ("dataloader", "evaluator", "cfg")),
    )
    images = write_class_folders(tmp_path / "images", 10)
    (tmp_path / "mine.py").write_text(
        f"_base_ = [{str(stock('mmpretrain', 'resnet/resnet18_8xb16_cifar10.py'))!r}]\n"
        f"train_dataloader = dict(batch_size=20, num_workers=0, dataset=dict(_delete_=True, "
        f"type='CustomDataset', data_root={str(images)!r}, "
        "pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))\n"
        "train_cfg = dict(max_epochs=1)\n"
        "val_dataloader = val_evaluator = val_cfg = None\n"
    )
    city_config = stock("mmseg", "fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py")
    ours = ("train_dataloader.batch_size=2000", "train_cfg.max_epochs=1", "train_cfg.val_interval=10")
    loss = ("--loss", "outlying_mse:alpha=2", "--work-dir")
    lines = (
        ("mine.py", *loss, "cls"),
        (city_config, *loss, "seg", "--data-root", city, "--cfg-options", *segmentation),
        ("configs/quickstart/digits.py", *loss, "digits", "--cfg-options", *ours),
    )
    text = "\n".join(" ".join(map(str, ("train", *line))) for line in lines)
    (tmp_path / "commands.txt").write_text(text)
    log = run("-c", SCRIPT, tmp_path / "site", "commands.txt", folder=tmp_path)
    for name in ("cls", "seg", "digits"):
        assert list((tmp_path / name).glob("*_1.pth")), log[-3000:]
        assert (tmp_path / name / "class_counts.json").is_file()
