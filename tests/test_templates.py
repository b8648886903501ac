"""The templates for own data train one iteration and score, on data as their docstrings describe it."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tool_runs import call
from mmengine.config import Config
from PIL import Image

from mmseol.__main__ import main
from mmseol.experiment.config_files import read_config

TEMPLATES = Path(__file__).parents[1] / "configs" / "template"


def write_label_maps(root: Path, classes: int) -> dict[str, list[int]]:
    """Write images and palette label maps in nested folders, and return the pixels of each class by split."""
    rng = np.random.default_rng(0)
    pixels = {}
    for split, number in (("train", 4), ("val", 2)):
        total = np.zeros(256, dtype=int)
        for i in range(number):
            size = (rng.integers(64, 90), rng.integers(64, 90))  # images differ in size
            labels = rng.choice([*range(classes - (split == "val")), 255], size=size).astype(np.uint8)
            total += np.bincount(labels.ravel(), minlength=256)
            label_map = Image.fromarray(labels)
            label_map.putpalette(rng.integers(0, 256, 768).astype(np.uint8).tobytes())
            image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
            for kind, name, file in (("images", f"{i}.jpg", image), ("labels", f"{i}.png", label_map)):
                path = root / kind / split / ("north", "south/old")[i % 2] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                file.save(path)
        pixels[split] = total[:classes].tolist()
    return pixels


def write_class_folders(root: Path, classes: tuple[str, ...]) -> None:
    """Write images into folders of classes, some in subfolders; rarer ones of later classes."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for c, name in enumerate(classes):
            for i in range(len(classes) - c):
                path = root / split / name / ("", "more")[i % 2] / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)


def run(
    monkeypatch: pytest.MonkeyPatch, template: Path, root: Path, work_dir: Path, *options: str
) -> dict[str, Any]:
    """Train by the tool, and return the counts and the scores of the validation."""
    arguments = ("--data-root", root, "--work-dir", work_dir, "--seed", 1, "--loss", "outlying_mse:alpha=1")
    call(monkeypatch, "train.py", template, *arguments, "--cfg-options", *options)
    (scores,) = work_dir.glob("*/class_scores_val_*.json")
    return {
        "counts": json.loads((work_dir / "class_counts.json").read_text()),
        "classes": [row["class"] for row in json.loads(scores.read_text())["classes"]],
        "hooks": [hook["type"] for hook in Config.fromfile(template).custom_hooks],
    }


def test_segmentation_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = TEMPLATES / "my_dataset.py"
    classes = Config.fromfile(template).classes
    pixels = write_label_maps(tmp_path / "data", len(classes))
    result = run(
        monkeypatch, template, tmp_path / "data", tmp_path / "work",
        "model.pretrained=None", "model.data_preprocessor.size=(64,64)",
        "model.decode_head.jpu_channels=16", "model.decode_head.channels=16",
        "train_dataloader.dataset.pipeline.2.crop_size=(64,64)",
        "train_cfg.max_epochs=1", "train_dataloader.batch_size=4", "train_dataloader.num_workers=0",
        "val_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
        "val_dataloader.persistent_workers=False",
    )  # fmt: skip
    assert len(classes) == 7
    assert result["counts"]["samples"] == pixels["train"]
    assert tuple(result["classes"]) == tuple(classes)
    assert {"mmseol.ClassCountHook", "mmseol.NonFiniteLossHook"} <= set(result["hooks"])


def test_classification_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = TEMPLATES / "my_classes.py"
    classes = Config.fromfile(template).classes
    write_class_folders(tmp_path / "data", classes)
    result = run(
        monkeypatch, template, tmp_path / "data", tmp_path / "work",
        "model.backbone.init_cfg=None", "train_dataloader.dataset.pipeline.1.scale=32",
        "val_dataloader.dataset.pipeline.1.scale=32", "val_dataloader.dataset.pipeline.2.crop_size=32",
        "train_cfg.max_epochs=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=6",
        "train_dataloader.num_workers=0", "val_dataloader.num_workers=0",
    )  # fmt: skip
    assert sorted(classes) == list(classes)
    assert result["counts"]["samples"] == [3, 2, 1]
    assert tuple(result["classes"]) == tuple(classes)
    assert {"mmseol.ClassCountHook", "mmseol.NonFiniteLossHook"} <= set(result["hooks"])


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.py")), ids=lambda path: path.stem)
def test_the_doctor_passes(template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = Config.fromfile(template).classes
    if template.stem == "my_classes":
        write_class_folders(tmp_path, classes)
    else:
        write_label_maps(tmp_path, len(classes))
    main("doctor", [str(template), "--data-root", str(tmp_path), "--no-model"])
    assert ", 0 fault, 0 skipped" in capsys.readouterr().out


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.py")), ids=lambda path: path.stem)
def test_a_copy_may_lie_anywhere(template: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.py"
    copy.write_text(template.read_text())
    cfg, expected = read_config(str(copy)), Config.fromfile(template)
    assert cfg.to_dict() == expected.to_dict()
    assert cfg.filename == str(copy)
    cfg.dump(tmp_path / "dumped.py")
    assert Config.fromfile(tmp_path / "dumped.py").to_dict() == expected.to_dict()
    copy.write_text('_base_ = "../_base_/models/no_model.py"\n')
    with pytest.raises(
        FileNotFoundError, match=r"`_base_` '\.\./_base_/models/no_model.py' in .*mine.py' must be"
    ):
        read_config(str(copy))


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.py")), ids=lambda path: path.stem)
def test_lines_to_edit_come_first(template: Path) -> None:
    """Between the rules stand only plain values, and nothing below repeats them."""
    text = template.read_text()
    before, edit, after = text.split("\n# ------")
    body = ast.parse(edit[edit.index("\n") :]).body
    assert len(body) >= 3
    for line in body:
        assert isinstance(line, ast.Assign)
    assert "_base_ = [" in before
    assert "data/" not in after
