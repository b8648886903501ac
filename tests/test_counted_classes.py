"""The command ``count``: tables, files, stock configs, file backends."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.small_data import write_class_folders, write_images, write_maps
from mmengine.config import Config
from mmengine.fileio import LocalBackend, register_backend
from PIL import Image

from mmseol.__main__ import main
from mmseol.analysis.figures import distributions, style
from mmseol.counting.counts import ClassCounts, class_weights, load_counts
from mmseol.counting.skew import gini, imbalance_ratio
from mmseol.experiment import counted_classes, stock_config
from mmseol.experiment.counted_classes import _draw, count_split, named_weights, skew_text

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


def test_splits_of_the_same_classes_are_drawn(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(distributions, "distribution_figure", lambda *given: drawn.append(given) or "figure")
    monkeypatch.setattr(style, "save_figure", lambda *given: drawn.append(given))
    images, pixels = (ClassCounts([9, 1], [k, 1], [9, 9]) for k in (9, 2))
    counted = dict(train=(["a", "b"], images), val=(["a", "b"], pixels), test=(["a", "c"], pixels))
    assert _draw(tmp_path, counted) == ["class_counts.png"]
    assert drawn == [
        ({"train": images, "val": pixels}, ["a", "b"], "images"),
        ("figure", tmp_path / "class_counts.png"),
    ]
    drawn.clear()
    _draw(tmp_path, dict(val=(["a", "b"], pixels)))
    assert drawn[0][1:] == (["a", "b"], "pixels")


def test_classes_and_ignored_labels_are_those_of_the_heads(monkeypatch):
    given = []
    monkeypatch.setattr(
        counted_classes, "count_dataset", lambda *args, **kwargs: given.append((*args, kwargs)) or "counts"
    )
    heads = dict(decode_head=dict(num_classes=3, ignore_index=7), auxiliary_head=dict(num_classes=4))
    nameless, named = SimpleNamespace(metainfo=None), SimpleNamespace(metainfo=dict(classes=("a", 1)))
    cfg = Config(dict(model=heads, val_dataloader=dict(dataset=nameless)))
    assert count_split(cfg, "val", nameless, workers=2) == (["0", "1", "2"], "counts")
    assert count_split(cfg, dataset=named) == (["a", "1"], "counts")
    assert count_split(Config({}), dataset=named) == (["a", "1"], "counts")
    assert given == [(nameless, 3, 7, dict(workers=2)), (named, 2, 7, {}), (named, 2, None, {})]
    with pytest.raises(ValueError, match=r"`config` must tell the classes, got a data set without"):
        count_split(Config({}), dataset=nameless)


def test_the_skew_in_words():
    equal = np.array([6, 3, 0])
    text = skew_text(["a", "b", "c"], ClassCounts(equal, equal, equal))
    assert text == "Imbalance ratio inf (a : c); Gini coefficient 0.444 by image. Without a sample: c."
    for empty, end in ((20, "k19, k20."), (21, "k19, k20, .. (21 in all).")):
        many = np.array([5, *[0] * empty])
        text = skew_text([f"k{k}" for k in range(empty + 1)], ClassCounts(many, many, many))
        assert text.endswith(end)


def test_weights_follow_the_totals_of_label_maps(recwarn):
    counts = ClassCounts([90, 10, 0], [2, 1, 0], [100, 50, 0])
    found = named_weights(counts)
    assert not recwarn.list  # the sentence names the classes without a sample
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, totals in (("median_frequency", counts.totals), ("enet", counts.totals)):
            np.testing.assert_allclose(found[name], class_weights(name, counts.samples, totals), rtol=1e-5)
            assert (
                found[name] != pytest.approx(class_weights(name, counts.samples, None), rel=1e-3)
                or name == "enet"
            )
    assert all(len(f"{value:g}".replace(".", "").lstrip("0")) <= 6 for value in found["inverse_frequency"])
    images = np.array([3, 2, 1])
    plain = named_weights(ClassCounts(images, images, images))["median_frequency"]
    np.testing.assert_allclose(plain, class_weights("median_frequency", images, None), rtol=1e-5)
