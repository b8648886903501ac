"""CIFAR from both layouts, the digits, and the small ResNet."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

from mmpretrain.registry import MODELS
from PIL import Image

from mmseol.classification import CIFAR10, CIFAR100, DigitsDataset, SmallResNet
from mmseol.counting import count_dataset


def write_folders(root: Path, classes: tuple[str, ...], number: int = 2) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def test_cifar_from_folders(tmp_path):
    root = write_folders(tmp_path, CIFAR10.METAINFO["classes"])
    dataset = CIFAR10(data_root=str(root))
    assert dataset.get_gt_labels().tolist() == [k for k in range(10) for _ in range(2)]
    assert count_dataset(dataset, 10, cache=False).samples.tolist() == [2] * 10
    expected = np.asarray(Image.open(root / "train" / "bird" / "1.png"))
    assert np.array_equal(dataset[5]["img"], expected)  # RGB, as the archive
    assert len(CIFAR10(data_root=str(root), split="test", test_mode=True)) == 20


def test_cifar_from_the_archive(tmp_path, monkeypatch):
    """The host's reader and the folders of the same images give the same samples."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    batch = {"data": images.transpose(0, 3, 1, 2).reshape(4, -1), "labels": [3, 0, 9, 3]}
    (folder / "some").write_bytes(pickle.dumps(batch))
    monkeypatch.setattr(CIFAR10, "train_list", [["some", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [])
    dataset = CIFAR10(data_root=str(tmp_path))
    assert dataset.get_gt_labels().tolist() == [3, 0, 9, 3]
    assert np.array_equal(dataset[2]["img"], images[2])


def test_cifar_errors_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`data_root` must hold cifar-10-batches-py/.*train/<class>"):
        CIFAR10(data_root=str(tmp_path))
    root = write_folders(tmp_path / "ten", CIFAR10.METAINFO["classes"], 1)
    with pytest.raises(
        ValueError, match="must be the 100 classes of CIFAR100, got 10 folders; missing: apple"
    ):
        CIFAR100(data_root=str(root))
    image = root / "train" / "cat" / "0.png"
    Image.new("RGB", (40, 32)).save(image)
    with pytest.raises(ValueError, match=r"cat/0\.png must be an image of 32x32, got 40x32"):
        CIFAR10(data_root=str(root))
    image.unlink()
    with pytest.raises(ValueError, match=r"cat must hold images .*got none"):
        CIFAR10(data_root=str(root))


def test_digits_are_split_alike_everywhere():
    train, test = DigitsDataset(), DigitsDataset(split="test")
    assert (len(train), len(test)) == (1198, 599)
    assert np.bincount(train.get_gt_labels()).tolist() == [119, 121, 118, 122, 121, 121, 121, 119, 116, 120]
    assert train[0]["img"].shape == (32, 32, 3)
    assert train[0]["img"].dtype == np.uint8
    # The order of the images must not depend on platform or version.
    assert sum(int(item["img"].sum()) for item in test) == 143138640
    block = test[0]["img"][..., 0].reshape(8, 4, 8, 4)
    assert (block == block[:, :1, :, :1]).all()  # enlarged by repetition
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'test', got 'val'"):
        DigitsDataset(split="val")


def test_resnet_32_is_the_one_of_he_et_al():
    net = MODELS.build(dict(type="mmseol.SmallResNet", depth=32))
    assert sum(p.numel() for p in net.parameters()) + 64 * 10 + 10 == 464154
    (out,) = net(torch.zeros(2, 3, 32, 32))
    assert out.shape == (2, 64, 8, 8)
    shortcut = net.layer2[0].downsample
    x = torch.randn(1, 16, 32, 32)
    assert torch.equal(shortcut(x)[:, 8:24], x[:, :, ::2, ::2])
    assert shortcut(x)[:, [*range(8), *range(24, 32)]].eq(0).all()
    with pytest.raises(ValueError, match="`depth` must be one of 8, 14, 20, 32, 44, 56, 110, got 34"):
        SmallResNet(34)
