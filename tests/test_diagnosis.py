"""The command ``doctor``: planted faults are found, and configs without any pass."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.shipped_configs import LEAVES, SEG, small, small_images, write_shipped_images
from helpers.small_data import write_class_folders
from mmengine.config import Config
from PIL import Image

from mmseol.__main__ import main
from mmseol.experiment import resolved_loss, stock_config
from mmseol.experiment.diagnosis import installed
from mmseol.experiment.diagnosis.config_checks import CONFIG
from mmseol.experiment.diagnosis.data_checks import DATA
from mmseol.experiment.diagnosis.findings import Finding, Subject, run_checks
from mmseol.experiment.diagnosis.installed import INSTALLATION
from mmseol.experiment.diagnosis.model_checks import MODEL

ROOT = Path(__file__).parents[1]
SIZE = 32
COUNT_HOOK = [dict(type="mmseol.ClassCountHook")]


def write_scenes(root: Path, number: int = 4, classes: int = 3) -> Path:
    """Write JPEG images and label maps of 32x32 with every class."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("img", "ann"):
            (root / split / folder).mkdir(parents=True)
        for i in range(number):
            labels = rng.integers(0, classes, (SIZE, SIZE)).astype(np.uint8)
            labels[0] = 255
            Image.fromarray(labels).save(root / split / "ann" / f"{i}.png")
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / "img" / f"{i}.jpg")
    return root


def segmentation(root: Path, loss: str = "outlying_mse", **model: Any) -> Config:
    """Return a config of a small FCN."""
    pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]

    def loader(split: str) -> dict[str, Any]:
        prefix = dict(img_path=f"{split}/img", seg_map_path=f"{split}/ann")
        names = dict(classes=("road", "car", "pole"))
        settings = dict(data_root=str(root), data_prefix=prefix, metainfo=names, pipeline=pipeline)
        return dict(batch_size=2, dataset=dict(type="BaseSegDataset", **settings))

    backbone = dict(type="ResNetV1c", depth=18, base_channels=8, norm_cfg=dict(type="BN"))
    head = dict(type="FCNHead", in_channels=64, channels=8, num_convs=1, num_classes=3)
    head |= dict(norm_cfg=dict(type="BN"), loss_decode=resolved_loss(loss))
    size = dict(type="SegDataPreProcessor", size=(SIZE, SIZE))
    whole = dict(type="EncoderDecoder", data_preprocessor=size, backbone=backbone, decode_head=head)
    return Config(
        dict(
            default_scope="mmseg",
            model={**whole, "test_cfg": dict(mode="whole"), **model},
            train_dataloader=loader("train"),
            val_dataloader=loader("val"),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-4, momentum=0.9)),
            custom_hooks=COUNT_HOOK,
        )
    )


def found(cfg: Config, *lists: list[Any], status: str = "fault") -> str:
    """Return the texts of this status that the lists of checks yield, as one."""
    findings = run_checks([check for checks in lists for check in checks], Subject(cfg))
    return "\n".join(f"{one.check}: {one.text}" for one in findings if one.status == status)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "scenes")


def test_a_sound_config_passes(scenes):
    findings = run_checks([*CONFIG, *DATA, *MODEL], Subject(segmentation(scenes)))
    assert {one.check: one.text for one in findings if one.status != "ok"} == {}
    assert len({one.check for one in findings}) == len([*CONFIG, *DATA, *MODEL])
    (text,) = [one.text for one in findings if "times that of cross entropy" in one.text]
    norm, factor, beside = (
        float(word)
        for word in (text.split()[5].strip(","), text.split()[6], text.split("(")[1].split(")")[0])
    )
    assert norm / beside == pytest.approx(factor, rel=0.06)
    assert "learning rate 0.0001" in text


# Twelve planted faults, and more


def test_mixed_packages(monkeypatch):
    versions = {"onedl-mmengine": "0.10.12", "mmcv": "2.1.0", "mmsegmentation": "1.2.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installed, "version", version)
    assert "are mixed" in found(Config(), [installed.packages])
    versions["mmcv-lite"] = "2.1.0"
    assert "mmcv and mmcv-lite own the same module" in found(Config(), [installed.packages])
    del versions["mmcv-lite"], versions["onedl-mmengine"]
    versions |= {"mmengine": "0.10.7"}
    assert found(Config(), [installed.packages]) == ""
    versions["mmcls"] = "0.25.0"
    assert "pip uninstall mmcls" in found(Config(), [installed.packages])


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            AssertionError("MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4."),
            "mmcv 2.1.0",
        ),
        (ModuleNotFoundError("No module named 'ftfy'", name="ftfy"), "pip install ftfy regex"),
        (ModuleNotFoundError("No module named 'mmcv._ext'", name="mmcv._ext"), "not mmcv-lite"),
    ],
)
def test_a_host_that_cannot_be_imported(monkeypatch, error, remedy):
    def refuse(name: str) -> Any:
        if name.startswith("mmseg"):
            raise error
        return importlib.import_module(name)

    monkeypatch.setattr(installed, "import_module", refuse)
    text = found(Config(dict(default_scope="mmseg")), [installed.hosts])
    assert str(error) in text
    assert remedy in text


def test_a_host_that_is_missing(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    assert "pip install onedl-mmpretrain" in found(
        Config(dict(default_scope="mmpretrain")), [installed.hosts]
    )


def test_a_name_that_is_not_registered(scenes):
    cfg = segmentation(scenes)
    cfg.model.decode_head.loss_decode.type = "OutlyingMSELoss"
    cfg.train_dataloader.dataset.type = "MyDataset"
    cfg.model.backbone.type = "ResNetV1d2"
    text = found(cfg, CONFIG[:1])
    assert "Write type='mmseol.OutlyingMSELoss'." in text
    assert "type='MyDataset' is not registered" in text
    assert "custom_imports" in text
    assert "Did you mean 'ResNetV1d'?" in text


def test_a_stock_loss_merged_into_ours(scenes):
    stock = Config.fromfile(stock_config("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py"))
    stock.merge_from_dict({"model": {"decode_head": {"loss_decode": {"type": "mmseol.OutlyingMSELoss"}}}})
    text = found(stock, CONFIG[1:2])
    assert text.startswith("losses: decode_head.loss_decode cannot be built")
    assert "`use_sigmoid`" in text
    assert "_delete_=True" in text


def test_a_number_of_classes_that_differs(scenes):
    cfg = segmentation(scenes)
    cfg.model.decode_head.num_classes = 19
    assert "19 from decode_head, 3 from the train data" in found(cfg, DATA)


def test_classes_of_the_models_own_parts(scenes):
    cfg = segmentation(scenes)
    cfg.model.auxiliary_head = dict(cfg.model.decode_head, type="STDCHead", num_classes=2)  # boundaries
    assert found(cfg, DATA[:3]) == ""
    cfg.model.data_preprocessor.num_classes = 7
    assert "7 from data_preprocessor" in found(cfg, DATA[:3])


def test_a_label_out_of_range(scenes):
    path = scenes / "train" / "ann" / "2.png"
    Image.fromarray(np.full((SIZE, SIZE), 7, np.uint8)).save(path)
    text = found(segmentation(scenes), DATA)
    assert f"training labels: The label map {path} (item 2) holds the label 7" in text


def test_a_label_map_of_another_size(scenes):
    Image.fromarray(np.zeros((SIZE, SIZE - 1), np.uint8)).save(scenes / "train" / "ann" / "1.png")
    text = found(segmentation(scenes), DATA)
    assert text.startswith("images: The label map")
    assert "32x32 (HxW), got 32x31" in text


def test_a_label_map_in_colours(scenes):
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(scenes / "val" / "ann" / "0.png")
    text = found(segmentation(scenes), DATA)
    assert text.startswith("validation labels: ")
    assert "Convert colour maps to label indices first" in text


def test_a_loss_that_gets_no_counts(scenes):
    cfg = segmentation(scenes)
    cfg.custom_hooks = []
    assert "decode_head.loss_decode needs class counts, and nothing gives them" in found(cfg, CONFIG)
    cfg.model.decode_head.loss_decode.class_counts = [5, 4, 3]
    assert found(cfg, CONFIG) == ""
    cfg.model.decode_head.loss_decode = dict(type="mmseol.CDBLoss")
    assert "ClassDifficultyHook" in found(cfg, CONFIG, status="warning")


def test_test_time_augmentation_by_a_softmax(scenes):
    cfg = segmentation(scenes)
    cfg.tta_model = dict(type="SegTTAModel")
    assert "mmseol.SegScoreTTAModel" in found(cfg, MODEL, status="warning")


def test_hard_pixels_by_a_softmax(scenes):
    cfg = segmentation(scenes)
    cfg.model.decode_head.sampler = dict(type="OHEMPixelSampler", thresh=0.7, min_kept=10)
    assert "Select pixels by their loss" in found(cfg, MODEL, status="warning")


def test_a_learning_rate_too_high(scenes):
    cfg = segmentation(scenes)
    cfg.optim_wrapper.optimizer.lr = 100.0
    text = found(cfg, DATA, MODEL, status="warning")
    assert "the learning rate 100 of the classifier is too high for squared errors" in text
    cfg.param_scheduler = [dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=9)]
    assert found(cfg, DATA, MODEL, status="warning") == ""  # the warm-up starts low


def test_a_missing_folder(scenes):
    cfg = segmentation(scenes)
    cfg.train_dataloader.dataset.data_prefix.img_path = "no_such"
    assert "must be an existing folder, got" in found(cfg, CONFIG)
    text = found(cfg, CONFIG, DATA, MODEL, status="skipped")
    assert "training data: needs the files of train_dataloader" in text
    assert "training labels: needs the training data" in text
    assert "first iteration: needs the training data" in text


def test_images_of_another_suffix(scenes):
    cfg = segmentation(scenes)
    cfg.train_dataloader.dataset.img_suffix = ".tif"
    assert "holds files of .jpg" in found(cfg, CONFIG)
    assert "the data set of train_dataloader cannot be built" in found(cfg, DATA)


def test_binary_masks_of_0_and_255(scenes):
    for path in (scenes / "train" / "ann").iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels == 0, 0, 255).astype(np.uint8)).save(path)
    cfg = segmentation(scenes)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo.classes = ("background", "object")
    text = found(cfg, DATA, status="warning")
    assert "without a training sample: object" in text
    assert "of 0 and 255, 255 is ignored" in text
    assert "% of the pixels have the ignored label" in text
    assert "every class has training samples" not in found(cfg, DATA, status="ok")


def test_a_shift_of_all_labels(scenes):
    cfg = segmentation(scenes)
    cfg.train_dataloader.dataset.reduce_zero_label = True
    text = found(cfg, DATA, status="warning")
    assert "without a training sample: pole" in text
    assert "reduce_zero_label=True ignores the label 0" in text
    assert "of 0 and 255" not in text
    assert "the ignored label" not in text  # less than half of them
    assert "every class has training samples" not in found(cfg, DATA, status="ok")


def test_a_class_that_the_validation_data_lack(scenes):
    for path in (scenes / "val" / "ann").iterdir():
        Image.fromarray(np.minimum(np.asarray(Image.open(path)), 1)).save(path)
    assert "the validation data lack pole" in found(segmentation(scenes), DATA, status="warning")


def test_one_output_for_two_classes(scenes):
    cfg = segmentation(scenes)
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.3)
    text = found(cfg, CONFIG[1:2], DATA[2:3])
    assert "out_channels=1, a sigmoid with a threshold, which squared errors do not fit" in text


def test_missing_weights(scenes, tmp_path):
    cfg = segmentation(scenes, pretrained="no_such.pth")
    assert "the pretrained weights 'no_such.pth' do not exist" in found(cfg, CONFIG)
    cfg = segmentation(scenes, pretrained="open-mmlab://resnet18_v1c")
    cfg.load_from = str(tmp_path / "none.pth")
    assert "`load_from`" in found(cfg, CONFIG)
    cfg.load_from = None
    assert found(cfg, CONFIG) == ""
    assert "open-mmlab://resnet18_v1c" in found(cfg, CONFIG, status="ok")


def test_batches_of_one_image(scenes):
    cfg = segmentation(scenes)
    cfg.train_dataloader.batch_size = 1
    cfg.model.decode_head = dict(
        cfg.model.decode_head, type="PSPHead", pool_scales=(1, 2), align_corners=False
    )
    for key in ("num_convs",):
        cfg.model.decode_head.pop(key)
    assert "the training batch has one image and the model BN" in found(cfg, CONFIG, status="warning")
    text = found(cfg, CONFIG, DATA, MODEL)
    assert "Expected more than 1 value per channel" in text
    assert "Set train_dataloader.batch_size to at least 2." in text


def test_settings_of_the_loader_and_the_rate(scenes, monkeypatch):
    cfg = segmentation(scenes)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=2)
    cfg.train_dataloader.num_workers = 4096
    cfg.auto_scale_lr = dict(enable=False, base_batch_size=16)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text = found(cfg, CONFIG, status="warning")
    assert "each epoch repeats the augmentations" in text
    assert "4096 workers on" in text
    assert "Multiply it by 0.25" in text
    cfg.train_dataloader.batch_size = 4
    assert "Multiply it" not in found(cfg, CONFIG, status="warning")


def test_mixed_precision_without_a_gpu(scenes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = segmentation(scenes)
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.loss_scale = "dynamic"
    assert "AmpOptimWrapper needs a GPU" in found(cfg, CONFIG)
    assert found(cfg, DATA, MODEL) == ""  # the iteration is tried in float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "precision: mixed precision" in found(cfg, CONFIG[6:7], status="ok")


@pytest.mark.parametrize(("scope", "status"), [(None, "fault"), ("mmyolo", "warning"), ("mmengine", "ok")])
def test_a_scope_of_no_host_is_named(scope, status):
    cfg = Config({} if scope is None else dict(default_scope=scope))
    text = found(cfg, CONFIG[:1], status=status)
    assert (f"default_scope is {scope!r}" in text) == (status != "ok")


@pytest.fixture
def classes(tmp_path: Path) -> Config:
    """Return mmpretrain's ResNet-18 of CIFAR on three classes."""
    for split in ("train", "val"):
        write_class_folders(tmp_path / split, classes=3, number=2)
    pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
    cfg = Config.fromfile(stock_config("mmpretrain", "resnet/resnet18_8xb16_cifar10.py"))
    for split in ("train", "val"):
        dataset = dict(type="CustomDataset", data_root=str(tmp_path), data_prefix=split, pipeline=pipeline)
        cfg[f"{split}_dataloader"].dataset = dataset
    cfg.model.head.num_classes = cfg.data_preprocessor.num_classes = 3
    cfg.test_dataloader = cfg.test_evaluator = None
    return cfg


def test_a_stock_classification_config_passes(classes):
    findings = run_checks([*CONFIG, *DATA, *MODEL], Subject(classes))
    assert {one.check: one.text for one in findings if one.status in ("fault", "skipped")} == {}


def test_data_that_training_would_download(classes, tmp_path):
    classes.train_dataloader.dataset = dict(type="CIFAR10", data_root=str(tmp_path / "none"), pipeline=[])
    assert "training would download them" in found(classes, DATA[:1], status="warning")
    classes.train_dataloader.dataset.download = False
    assert "cannot be built" in found(classes, DATA[:1])
    assert not (tmp_path / "none").exists()


def test_five_best_of_three_classes(classes):
    classes.val_evaluator = dict(type="Accuracy", topk=(1, 5))
    assert "asks for the top 5 of 3 classes" in found(classes, DATA)
    classes.val_evaluator = dict(type="Accuracy", topk=(1, 3))
    assert found(classes, DATA) == ""


def test_the_preprocessor_of_other_classes(classes):
    classes.data_preprocessor.num_classes = 10
    assert "10 from data_preprocessor" in found(classes, DATA)


def test_a_missing_image(classes, tmp_path):
    (tmp_path / "train.txt").write_text("class00/0.png 0\nclass01/9.png 1\nclass02/1.png 2\n")
    classes.train_dataloader.dataset.ann_file = "train.txt"
    text = found(classes, DATA)
    assert "1 of 3 image files looked for do not exist" in text
    assert "class01/9.png" in text


# The loop, the command, the shipped configs


def test_a_check_that_raises_hides_no_other():
    def partly(subject: Subject) -> Any:
        yield Finding("ok", "first")
        raise ZeroDivisionError("why")

    def last(subject: Subject) -> Any:
        subject.require("model")
        yield Finding("ok", "never")

    findings = run_checks([partly, last], Subject(Config()))
    assert [(one.check, one.status) for one in findings] == [
        ("partly", "ok"),
        ("partly", "warning"),
        ("last", "skipped"),
    ]
    assert "ZeroDivisionError: why" in findings[1].text


def test_the_installation_of_these_tests_is_sound():
    findings = run_checks(INSTALLATION, Subject(Config()))
    assert [one for one in findings if one.status in ("fault", "skipped")] == []


def snapshot(*folders: Path) -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for folder in folders for path in sorted(folder.rglob("*"))]


def test_the_command_prints_json_and_writes_nothing(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine.py"
    config.write_text(segmentation(scenes).pretty_text)
    before = snapshot(tmp_path)
    main("doctor", [str(config), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["number"]["fault"] == report["number"]["skipped"] == 0
    assert {"packages", "names", "training labels", "first iteration"} <= {
        one["check"] for one in report["findings"]
    }
    assert snapshot(tmp_path) == before


def test_the_exit_status(scenes, tmp_path, capsys):
    config = tmp_path / "mine.py"
    config.write_text(segmentation(scenes).pretty_text)
    broken = ["--no-model", "--cfg-options", "model.decode_head.num_classes=9"]
    with pytest.raises(SystemExit) as caught:
        main("doctor", [str(config), *broken])
    assert caught.value.code == 1
    text = capsys.readouterr().out
    assert "fault   classes" in text
    assert "1 fault" in text
    assert "first iteration" not in text
    for arguments in (["no_such.py"], [str(config), "--loss", "fokal"], [str(config), "--data-root", "none"]):
        with pytest.raises(SystemExit) as caught:
            main("doctor", arguments)
        assert caught.value.code == 2


def test_a_config_that_cannot_be_read_is_a_fault(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("_base_ = ['no_such.py']\n")
    with pytest.raises(SystemExit) as caught:
        main("doctor", [str(tmp_path / "mine.py")])
    assert caught.value.code == 1
    assert "the config cannot be read: FileNotFoundError" in capsys.readouterr().out


def test_without_a_config_the_installation_is_checked(capsys):
    main("doctor", [])
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines[:-1]} == {check.__name__ for check in INSTALLATION}


@pytest.fixture(scope="module")
def shipped_images(tmp_path_factory) -> dict[str, Path]:
    return write_shipped_images(tmp_path_factory.mktemp("images"))


WITH_MODEL = ("toy_camvid", "digits", "resnet32_cifar10")


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}")
def test_shipped_configs_pass(leaf, toy, shipped_images):
    cfg = small(leaf, toy) if leaf in SEG else small_images(leaf, shipped_images)
    checks = [*CONFIG, *DATA, *(MODEL if leaf.stem in WITH_MODEL else [])]
    findings = run_checks(checks, Subject(cfg))
    assert [one for one in findings if one.status in ("fault", "skipped")] == []
    assert {one.check for one in findings} == {check.__name__.replace("_", " ") for check in checks}
