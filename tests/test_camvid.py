"""CamVidDataset and CheckLabelSize, against mmseg's own pipeline, metric and sampler."""

import re

import numpy as np
import pytest
from mmengine.dataset import ClassBalancedDataset
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.evaluation import IoUMetric
from mmseg.registry import TRANSFORMS
from PIL import Image
from sklearn.metrics import jaccard_score

from mmseol.camvid.layout import CLASSES, PALETTE
from mmseol.registry import DATASETS
from mmseol.segmentation.camvid_dataset import CamVidDataset
from mmseol.segmentation.transforms import CheckLabelSize

PREFIX = {"img_path": "train", "seg_map_path": "trainannot"}
LOAD = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
PACK = {"type": "PackSegInputs"}


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmseg")


@pytest.fixture
def root(tmp_path):
    """Three 8x12 images; labels cycle through 0..11, 255 in one corner; image c holds sky and void only."""
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for name in "cab":
        Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(tmp_path / f"train/{name}.png")
        label = np.tile(np.arange(12, dtype=np.uint8), (8, 1))
        label[0, 0] = 255
        if name == "c":
            label = np.where(label == 11, 11, 0).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / f"trainannot/{name}.png")
    return tmp_path


def labels_of(dataset, index):
    return dataset[index]["data_samples"].gt_sem_seg.data.numpy()[0]


def test_built_by_name_and_sorted(root):
    dataset = DATASETS.build({"type": "mmseol.CamVidDataset", "data_root": str(root), "data_prefix": PREFIX})
    assert isinstance(dataset, CamVidDataset)
    assert [info["img_path"][-5:] for info in map(dataset.get_data_info, range(3))] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    assert dataset.metainfo["classes"] == CLASSES
    assert dataset.metainfo["palette"] == [list(color) for color in PALETTE]


def test_void_becomes_255_and_255_stays(root):
    dataset = CamVidDataset(data_root=str(root), data_prefix=PREFIX, pipeline=[*LOAD, PACK])
    expected = np.tile(np.r_[np.arange(11), 255], (8, 1))
    expected[0, 0] = 255
    np.testing.assert_array_equal(labels_of(dataset, 0), expected)
    np.testing.assert_array_equal(labels_of(dataset, 0), expected)  # a second read maps nothing twice


def test_padding_agrees_with_void(root):
    pad = [{"type": "Pad", "size": (16, 16)}, PACK]
    label = labels_of(CamVidDataset(data_root=str(root), data_prefix=PREFIX, pipeline=[*LOAD, *pad]), 0)
    assert set(np.unique(label)) == {*range(11), 255}
    assert (label[8:] == 255).all()
    assert (label[:, 11:] == 255).all()


def test_subset_of_classes_keeps_void(root):
    dataset = CamVidDataset(
        data_root=str(root), data_prefix=PREFIX, pipeline=[*LOAD, PACK], metainfo={"classes": ("car", "sky")}
    )
    expected = np.full((8, 12), 255)
    expected[:, 8], expected[1:, 0] = 0, 1
    np.testing.assert_array_equal(labels_of(dataset, 0), expected)
    assert dataset.metainfo["palette"] == [list(PALETTE[8]), list(PALETTE[0])]
    assert dataset.get_cat_ids(2) == [1]


def test_all_classes_in_another_order_take_their_colours_along(root):
    dataset = CamVidDataset(
        data_root=str(root), data_prefix=PREFIX, pipeline=[*LOAD, PACK], metainfo={"classes": CLASSES[::-1]}
    )
    assert dataset.metainfo["palette"] == [list(color) for color in PALETTE[::-1]]
    np.testing.assert_array_equal(labels_of(dataset, 0)[1], np.r_[np.arange(10, -1, -1), 255])


def test_a_palette_of_ones_own_is_kept(root):
    palette = [[i, i, i] for i in range(11)]
    dataset = CamVidDataset(data_root=str(root), data_prefix=PREFIX, metainfo={"palette": palette})
    assert dataset.metainfo["palette"] == palette


def test_get_cat_ids_serves_class_balanced_dataset(root):
    dataset = CamVidDataset(data_root=str(root), data_prefix=PREFIX)
    assert dataset.get_cat_ids(0) == list(range(11))
    assert dataset.get_cat_ids(2) == [0]
    # classes 1..10 lie in 2 of 3 images: repeat factor sqrt(3 / (2/3)) = 2.1 -> 3; sky in all: sqrt(3) -> 2
    assert ClassBalancedDataset(dataset, oversample_thr=3.0).repeat_indices == [0, 0, 0, 1, 1, 1, 2, 2]


def test_iou_metric_ignores_void(root):
    """mmseg's IoUMetric with its defaults equals scikit-learn on the labelled pixels."""
    import torch

    dataset = CamVidDataset(data_root=str(root), data_prefix=PREFIX, pipeline=[*LOAD, PACK])
    truth = labels_of(dataset, 0)
    predicted = np.random.default_rng(1).integers(0, 11, truth.shape)
    predicted[1:5] = np.where(truth[1:5] == 255, 3, truth[1:5])
    metric = IoUMetric()
    metric.dataset_meta = dataset.metainfo
    sample = {
        "pred_sem_seg": {"data": torch.from_numpy(predicted[None])},
        "gt_sem_seg": {"data": torch.from_numpy(truth[None].astype(np.int64))},
    }
    metric.process({}, [sample])
    valid = truth != 255
    expected = jaccard_score(truth[valid], predicted[valid], average=None, labels=range(11), zero_division=0)
    assert float(metric.compute_metrics(metric.results)["mIoU"]) == pytest.approx(
        100 * expected.mean(), abs=0.01
    )


def test_missing_folder_names_it_and_the_converter(root):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{root}/nowhere/train") + ".*camvid_segnet.py"):
        CamVidDataset(data_root=str(root / "nowhere"), data_prefix=PREFIX)
    with pytest.raises(FileNotFoundError, match=r"label folder .*valannot.* does not exist"):
        CamVidDataset(data_root=str(root), data_prefix={"img_path": "train", "seg_map_path": "valannot"})


def test_empty_folder_is_named(root):
    (root / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"image folder .*empty.* holds no"):
        CamVidDataset(data_root=str(root), data_prefix={"img_path": "empty", "seg_map_path": "trainannot"})
    with pytest.raises(FileNotFoundError, match=r"label folder .*empty.* holds no"):
        CamVidDataset(data_root=str(root), data_prefix={"img_path": "train", "seg_map_path": "empty"})
    with pytest.raises(FileNotFoundError, match=r"image folder .*empty.* holds no"):
        CamVidDataset(data_root=str(root), data_prefix={"img_path": "empty"})


@pytest.mark.parametrize(("gone", "lacking"), [("trainannot/b.png", "label map"), ("train/b.png", "image")])
def test_missing_partner_is_named(root, gone, lacking):
    (root / gone).unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks the {lacking} of 1 name.*'b'"):
        CamVidDataset(data_root=str(root), data_prefix=PREFIX)


def test_list_of_names(root):
    (root / "few.txt").write_text("c\na\n")
    dataset = CamVidDataset("few.txt", data_root=str(root), data_prefix=PREFIX)
    assert [dataset.get_data_info(i)["seg_map_path"][-5:] for i in range(len(dataset))] == ["c.png", "a.png"]
    (root / "few.txt").write_text("a\nz\n")
    with pytest.raises(FileNotFoundError, match=r"lacks the image of 1 name.*'z'"):
        CamVidDataset("few.txt", data_root=str(root), data_prefix=PREFIX)


def test_images_without_labels_can_be_tested(root):
    dataset = CamVidDataset(data_root=str(root), data_prefix={"img_path": "train"}, test_mode=True)
    assert len(dataset) == 3
    with pytest.raises(ValueError, match="seg_map_path"):
        dataset.get_cat_ids(0)


def test_wrong_size_and_colours_stop_before_training(root):
    Image.fromarray(np.zeros((8, 11), np.uint8)).save(root / "trainannot/b.png")
    with pytest.raises(ValueError, match=r"trainannot/b.png' is 8x11 .*train/b.png' is 8x12"):
        CamVidDataset(data_root=str(root), data_prefix=PREFIX)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "trainannot/b.png")
    with pytest.raises(ValueError, match=r"trainannot/b.png' must have one channel.*camvid_color.py"):
        CamVidDataset(data_root=str(root), data_prefix=PREFIX)


def test_arguments_that_cannot_be_meant(root):
    with pytest.raises(ValueError, match="`reduce_zero_label` must be False"):
        CamVidDataset(data_root=str(root), data_prefix=PREFIX, reduce_zero_label=True)
    with pytest.raises(ValueError, match="`data_prefix` must name"):
        CamVidDataset(data_root=str(root))


def test_check_label_size(root):
    """Accept label maps that fit, also where a test pipeline resized the image alone, and name the others."""
    resize = {"type": "Resize", "scale": (6, 4)}
    check = {"type": "mmseol.CheckLabelSize"}
    for pipeline in ([*LOAD, check, PACK], [LOAD[0], resize, LOAD[1], check, PACK]):
        dataset = CamVidDataset(data_root=str(root), data_prefix=PREFIX, pipeline=pipeline)
        assert labels_of(dataset, 0).shape == (8, 12)
    assert isinstance(TRANSFORMS.build(check), CheckLabelSize)
    Image.fromarray(np.zeros((8, 11), np.uint8)).save(root / "trainannot/a.png")  # after the list was read
    with pytest.raises(
        ValueError, match=r"trainannot/a.png' is of shape \(8, 11\).*train/a.png' .*\(8, 12\)"
    ):
        dataset[0]
    with pytest.raises(ValueError, match="must stand after"):
        CheckLabelSize()({"img": np.zeros((2, 2, 3))})


@pytest.mark.parametrize(
    ("backend", "folder"), [(None, "s3://bucket/train"), ({"backend": "petrel"}, "train"), (None, "train")]
)
def test_only_local_folders_are_looked_for(monkeypatch, backend, folder):
    monkeypatch.setattr(BaseSegDataset, "load_data_list", lambda self: ["theirs"])
    dataset = object.__new__(CamVidDataset)
    dataset.backend_args, dataset.data_prefix = backend, dict(img_path=folder, seg_map_path="labels")
    if folder == "train" and backend is None:
        with pytest.raises(FileNotFoundError, match="The image folder 'train' does not exist"):
            dataset.load_data_list()
    else:
        assert dataset.load_data_list() == ["theirs"]
