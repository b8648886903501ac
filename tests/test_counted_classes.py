"""The command ``count``: tables, files, stock configs, file backends."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.small_data import write_class_folders, write_images, write_maps
from mmengine.fileio import LocalBackend, register_backend
from PIL import Image

from mmseol.__main__ import main
from mmseol.counting.counts import ClassCounts, class_weights, load_counts
from mmseol.counting.skew import gini, imbalance_ratio
from mmseol.experiment import stock_config

SEGMENTATION = """
default_scope = "mmseg"
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
loader = dict(dataset=dict(
    type="BaseSegDataset", metainfo=dict(classes=("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")),
    data_root={root!r}, data_prefix=dict(img_path="img", seg_map_path="ann"), img_suffix=".png",
    pipeline=pipeline, {further}
))
train_dataloader = val_dataloader = loader
"""


def pixels_of(root: Path) -> np.ndarray:
    """Return the pixels of each label of :func:`write_maps`."""
    maps = [np.asarray(Image.open(path)) for path in sorted((root / "ann").iterdir())]
    return sum(np.bincount(labels.ravel(), minlength=256) for labels in maps)


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the cells behind the first one of each row of a table, by the first."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize("counts", [[1, 1], [9, 0, 0], [5, 3, 20, 1], [7, 7, 7, 1000]])
def test_gini_is_the_mean_difference(counts):
    pairs = sum(abs(a - b) for a in counts for b in counts)
    assert gini(counts) == pytest.approx(pairs / (2 * len(counts) * sum(counts)))
    assert imbalance_ratio(counts) == (max(counts) / min(counts) if min(counts) else float("inf"))


def test_tables_and_files_of_label_maps(tmp_path, capsys):
    root = write_maps(tmp_path / "data")
    (tmp_path / "mine.py").write_text(SEGMENTATION.format(root=str(root), further=""))
    arguments = [str(tmp_path / "mine.py"), "--split", "train", "val", "--out", str(tmp_path / "out")]
    main("count", arguments)
    pixels = pixels_of(root)[:10]
    counts = load_counts(tmp_path / "out" / "class_counts.json")
    assert counts.tolist() == pixels.tolist()
    assert ClassCounts.load(tmp_path / "out" / "class_counts_val.json").samples.tolist() == pixels.tolist()
    weights = json.loads((tmp_path / "out" / "class_weights.json").read_text())
    assert weights.pop("classes") == list("abcdefghij")
    saved = ClassCounts.load(tmp_path / "out" / "class_counts.json")
    assert len(weights) == 5
    for name, values in weights.items():
        kind = 0.5 if name == "power_0.5" else name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes without a sample
            expected = class_weights(kind, saved.samples, saved.totals)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "class_counts.json",
        "class_counts.png",
        "class_counts_val.json",
        "class_weights.json",
    }
    assert Image.open(tmp_path / "out" / "class_counts.png").format == "PNG"
    text = capsys.readouterr().out
    train, val = text.split("Val data")
    assert rows_of(train)["a"][0] == rows_of(val)["a"][0] == f"{pixels[0]:,}"
    assert len(rows_of(train)["a"]) == len(rows_of(val)["a"]) + 5
    assert "Imbalance ratio inf" in train
    assert "Without a sample: e, f, g, h, i" in train
    with pytest.raises(SystemExit):
        main("count", arguments)  # the folder holds files
    assert "`--out` must be a new or empty folder" in capsys.readouterr().err


def test_without_matplotlib_the_counts_are_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmseol.experiment.counted_classes.find_spec", lambda name: None)
    main("count", ["quickstart/digits.py", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"class_counts.json", "class_weights.json"}
    assert "pip install 'mmseol[analysis]'" in capsys.readouterr().out


class FarBackend(LocalBackend):
    """Files below ``far://``."""

    root = ""

    def get(self, filepath):
        return super().get(str(filepath).replace("far:/", self.root))

    def list_dir_or_file(self, dir_path, *args, **kwargs):
        return super().list_dir_or_file(str(dir_path).replace("far:/", self.root), *args, **kwargs)

    def isfile(self, filepath):
        return super().isfile(str(filepath).replace("far:/", self.root))


def test_label_maps_are_read_through_the_backend_of_the_data_set(tmp_path, capsys, monkeypatch):
    root = write_maps(tmp_path / "data", number=3)
    register_backend("far", FarBackend, force=True, prefixes="far")
    monkeypatch.setattr(FarBackend, "root", str(tmp_path))
    (tmp_path / "mine.py").write_text(
        SEGMENTATION.format(root="far://data", further="").replace(
            'type="LoadAnnotations"', 'type="LoadAnnotations", backend_args=dict(backend="far")'
        )
    )
    main("count", [str(tmp_path / "mine.py")])
    rows = rows_of(capsys.readouterr().out)
    assert [int(rows[name][0].replace(",", "")) for name in "abcd"] == pixels_of(root)[:4].tolist()


def test_a_host_is_a_package_with_configs():
    for host in ("this", "no_such_package"):  # a module; nothing
        with pytest.raises(FileNotFoundError, match=f"`host` must be an installed package .*, got '{host}'"):
            stock_config(host, "fcn.py")


def test_stock_config_of_mmseg(tmp_path, capsys):
    city = write_maps(tmp_path / "city", number=4)
    write_images(city, number=4)
    for folder, suffix in (("img", "_leftImg8bit.png"), ("ann", "_gtFine_labelTrainIds.png")):
        for path in (city / folder).iterdir():
            path.rename(path.with_name(path.stem + suffix))
    prefix = "train_dataloader.dataset.data_prefix"
    config = stock_config("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py")
    options = [f"{prefix}.img_path=img", f"{prefix}.seg_map_path=ann"]
    main("count", [config, "--data-root", str(city), "--cfg-options", *options])
    rows = rows_of(capsys.readouterr().out)
    assert rows["road"][0] == str(pixels_of(city)[0])
    assert rows["bicycle"][0] == "0"


def test_stock_config_of_mmpretrain(tmp_path, capsys):
    for split in ("train", "val"):
        write_class_folders(tmp_path / split, classes=3, number=2)
    (tmp_path / "mine.py").write_text(
        f"_base_ = [{stock_config('mmpretrain', 'resnet/resnet18_8xb32_in1k.py')!r}]\n"
        "train_dataloader = dict(dataset=dict("
        "_delete_=True, type='CustomDataset', data_prefix='train', pipeline=[]))\n"
    )
    main("count", [str(tmp_path / "mine.py"), "--data-root", str(tmp_path)])
    rows = rows_of(capsys.readouterr().out)
    assert {name: cells[0] for name, cells in rows.items()} == {f"class0{k}": "2" for k in range(3)}


def test_nothing_is_downloaded(tmp_path, capsys):
    config = stock_config("mmpretrain", "resnet/resnet18_8xb16_cifar10.py")
    with pytest.raises((SystemExit, RuntimeError), match="download"):
        main("count", [config, "--data-root", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_in_memory_images_are_not_decoded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmseol.datasets.InMemoryDataset._load", None)
    main("count", ["quickstart/digits.py"])
    rows = rows_of(capsys.readouterr().out)
    assert rows["0"][0] == "99"
    assert rows["9"][0] == "4"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such.py"], "`config` must be a config file or a config of mmseol"),
        (["quickstart/toy_camvid.py", "--data-root", "/no/such"], "`--data-root` must be an existing folder"),
        (["quickstart/digits.py", "--imbalance", "steep:3"], "`--imbalance` must be PROFILE:RATIO"),
        (["quickstart/digits.py", "--split", "all"], "invalid choice: 'all'"),
    ],
)
def test_wrong_arguments_end_with_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main("count", arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_label_out_of_range_names_the_file(tmp_path):
    root = write_maps(tmp_path / "data", number=2)
    text = SEGMENTATION.format(root=str(root), further="").replace(', "j"', "")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(SystemExit, match=r"error: The label map .*ann/00\d.png .* holds the label 9"):
        main("count", [str(tmp_path / "mine.py")])
