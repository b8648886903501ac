"""The toy data set: layout, reproducibility, imbalance, and that colour and position do not solve it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmseol.analysis.color_position import color_position_baseline
from mmseol.camvid.layout import (
    CAMVID_PIXELS,
    CLASSES,
    check_label,
    check_pair_headers,
    find_pairs,
    read_label,
)
from mmseol.camvid.toy import make_scene, make_toy, share_table

TOOL = Path(__file__).parents[1] / "tools/dataset_converters/make_toy_camvid.py"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy") / "data"
    return root, make_toy(root, 24, 12, 2, size=(60, 80), seed=3)


def test_layout_and_returned_counts(toy):
    root, pixels = toy
    for split, number in (("train", 24), ("val", 12), ("test", 2)):
        pairs = find_pairs(root / split, root / f"{split}annot")
        assert len(pairs) == number
        check_pair_headers(pairs)
        labels = [read_label(pair.label) for pair in pairs]
        for pair, label in zip(pairs, labels, strict=True):
            check_label(label, pair.label)
            assert label.shape == (60, 80)
        np.testing.assert_array_equal(pixels[split], np.bincount(np.ravel(labels), minlength=12))
    assert not [path for path in root.parent.iterdir() if path != root]  # no temporary folder stays


def test_every_class_and_void_occur_in_train_and_val(toy):
    _, pixels = toy
    assert (pixels["train"] > 0).all()
    assert (pixels["val"] > 0).all()


def test_imbalance_resembles_camvid(toy):
    _, pixels = toy
    share, camvid = (np.array(n[:11]) / sum(n[:11]) for n in (pixels["train"], CAMVID_PIXELS))
    assert np.corrcoef(np.log(share), np.log(camvid))[0, 1] > 0.9
    assert share.max() / share.min() > 20
    assert 0.005 < pixels["train"][11] / pixels["train"].sum() < 0.08
    table = share_table(pixels)
    assert all(name in table for name in CLASSES)
    assert f"{100 * share[3]:.2f}" in table


def test_same_seed_same_bytes_and_images_do_not_depend_on_their_number(toy, tmp_path):
    root, _ = toy
    make_toy(tmp_path / "again", 3, 1, 0, size=(60, 80), seed=3)
    again, first = contents(tmp_path / "again"), contents(root)
    assert len(again) == 8
    assert all(first[name] == content for name, content in again.items())
    make_toy(tmp_path / "other", 3, 1, 0, size=(60, 80), seed=4)
    other = contents(tmp_path / "other")
    assert all(other[name] != content for name, content in again.items())


def test_images_differ_and_every_second_has_a_bicyclist():
    scenes = [make_scene(np.random.default_rng([7, i]), 120, 160, rider=i % 2 == 0) for i in range(8)]
    assert len({image.tobytes() for image, _ in scenes}) == 8
    riders = [(label == CLASSES.index("bicyclist")).any() for _, label in scenes]
    assert sum(riders[::2]) >= 3
    assert not any(riders[1::2])
    assert (
        {image.dtype for image, _ in scenes} == {label.dtype for _, label in scenes} == {np.dtype(np.uint8)}
    )


def test_colour_and_position_are_not_enough(toy):
    """Colour and position tell the common classes but not the rare ones."""
    root, _ = toy
    train, val = (
        [(pair.image, pair.label) for pair in find_pairs(root / split, root / f"{split}annot")]
        for split in ("train", "val")
    )
    iou = color_position_baseline(train, val, 11, pixels_per_image=150).iou
    assert iou[CLASSES.index("road")] > 0.5
    assert (
        iou[[CLASSES.index(name) for name in ("pole", "sign", "fence", "pedestrian", "bicyclist")]].max()
        < 0.15
    )


def test_refuses_to_overwrite_and_bad_arguments(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        make_toy(tmp_path, 1, 0, 0, size=(40, 40))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    for wrong, message in (
        ({"size": (8, 40)}, "`size`"),
        ({"num_train": -1}, "must not be negative"),
        ({"num_train": 0, "num_val": 0, "num_test": 0}, "all zero"),
        ({"seed": -1}, "`seed`"),
    ):
        with pytest.raises(ValueError, match=message):
            make_toy(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_toy(tmp_path / "out", 1, 0, 0, size=(40, 40))
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path):
    command = [sys.executable, str(TOOL), "--out", str(tmp_path / "toy"), "--num-train", "2"]
    command += ["--num-val", "1", "--num-test", "0", "--size", "40", "60", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bicyclist" in done.stdout
    assert "CamVid" in done.stdout
    with Image.open(tmp_path / "toy/train/toy_00000.png") as image:
        assert image.size == (60, 40)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "nothing is overwritten" in again.stderr
    assert "Traceback" not in again.stderr
