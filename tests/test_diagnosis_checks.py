"""The checks of ``doctor`` one by one, on parts of configs: what each says, and where it begins to say it."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.small_data import LabelDataset
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmseol.counting.counts import ClassCounts
from mmseol.experiment.diagnosis import command, config_checks, data_checks, installed, model_checks
from mmseol.experiment.diagnosis.findings import Finding, Subject, error_text, run_checks


def said(check: Any, cfg: dict[str, Any] | None = None, **parts: Any) -> list[tuple[str, str]]:
    """Return status and text of what a check finds."""
    subject = Subject(Config(cfg or {}), **parts)
    return [(one.status, one.text) for one in run_checks([check], subject)]


# ------------------------------------------------------------------ the config

OK = ("ok", "batch size 2, workers 0")
ONE_IMAGE = (
    "warning",
    "the training batch has one image and the model BN, which fails on maps of 1x1 and has poor statistics. "
    "Set train_dataloader.batch_size to at least 2.",
)
SEEDS = (
    "warning",
    "mmengine seeds the workers alike at every start, so that each epoch repeats the augmentations. Set "
    "train_dataloader.persistent_workers=True.",
)
CORES = ("warning", "9 workers on 8 cores. Lower train_dataloader.num_workers.")
NORM = dict(model=dict(type="A", norm_cfg=dict(type="BN")))


@pytest.mark.parametrize(
    ("loader", "further", "expected"),
    [
        (dict(batch_size=2), NORM, [OK]),
        (dict(num_workers=0, batch_size=1), {}, [("ok", "batch size 1, workers 0")]),
        (dict(num_workers=8), {}, [("ok", "batch size 1, workers 8")]),
        (dict(num_workers=9), {}, [CORES]),
        (dict(num_workers=0), NORM, [ONE_IMAGE]),
        (dict(batch_size=2), dict(train_cfg=dict(by_epoch=True)), [OK]),
        (dict(num_workers=1), dict(train_cfg=dict(by_epoch=True)), [SEEDS]),
        (dict(num_workers=1), dict(train_cfg=dict(by_epoch=False)), [("ok", "batch size 1, workers 1")]),
        (
            dict(num_workers=1, persistent_workers=True),
            dict(train_cfg=dict(by_epoch=True)),
            [("ok", "batch size 1, workers 1")],
        ),
        (dict(num_workers=9), {**NORM, "train_cfg": dict(by_epoch=True)}, [ONE_IMAGE, SEEDS, CORES]),
        (None, NORM, [("skipped", "the config has no train_dataloader")]),
    ],
)
def test_settings_of_the_loader(
    monkeypatch: pytest.MonkeyPatch, loader: Any, further: Any, expected: Any
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert said(config_checks.loaders, dict(train_dataloader=loader, **further)) == expected
    if expected == [CORES]:
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert said(config_checks.loaders, dict(train_dataloader=dict(num_workers=1)))[0][0] == "ok"
        assert said(config_checks.loaders, dict(train_dataloader=dict(num_workers=2)))[0][0] == "warning"


@pytest.mark.parametrize("norm", ["BN", "BN2d", "SyncBN", "GN"])
def test_norms_that_need_two_images(norm: str) -> None:
    cfg = dict(train_dataloader=dict(batch_size=1), model=dict(norm_cfg=dict(type=norm)))
    ((status, text),) = said(config_checks.loaders, cfg)
    assert (status == "warning", f"the model {norm}," in text) == (norm != "GN", norm != "GN")


@pytest.mark.parametrize(
    ("kind", "gpu", "expected"),
    [
        (None, False, ("ok", "float32")),
        ("OptimWrapper", True, ("ok", "float32")),
        ("AmpOptimWrapper", True, ("ok", "mixed precision")),
        ("AmpOptimWrapper", False, ("fault", "AmpOptimWrapper needs a GPU, and PyTorch finds none. Set "
                                             "optim_wrapper.type='OptimWrapper'.")),
    ],
)  # fmt: skip
def test_mixed_precision(monkeypatch: pytest.MonkeyPatch, kind: Any, gpu: bool, expected: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = {} if kind is None else dict(optim_wrapper=dict(type=kind))
    assert said(config_checks.precision, cfg) == [expected]


@pytest.mark.parametrize(
    ("scale", "size", "gpus", "expected"),
    [
        (None, 2, 1, ("ok", "auto_scale_lr names no batch of the learning rate")),
        (dict(base_batch_size=16), None, 1, ("ok", "the learning rate was chosen for batches of 16")),
        (dict(base_batch_size=16), 8, 0, ("ok", "the learning rate was chosen for batches of 16")),
        (dict(base_batch_size=16), 4, 2, ("ok", "the learning rate was chosen for batches of 16")),
        (
            dict(base_batch_size=16, enable=True),
            1,
            1,
            ("ok", "the learning rate was chosen for batches of 16"),
        ),
        (
            dict(base_batch_size=17),
            8,
            0,
            ("warning", "batches of 17, and 8 images on 1 device(s) make 8. Multiply it by 0.470588, or set"),
        ),
        (
            dict(base_batch_size=16, enable=False),
            2,
            3,
            ("warning", "2 images on 3 device(s) make 6. Multiply it by 0.375, or set auto_scale_lr.enable"),
        ),
    ],
)
def test_the_batch_of_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch, scale: Any, size: Any, gpus: int, expected: Any
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    loader = {} if size is None else dict(batch_size=size)
    ((status, text),) = said(config_checks.scaled_rate, dict(auto_scale_lr=scale, train_dataloader=loader))
    assert status == expected[0]
    assert expected[1] == text if status == "ok" else expected[1] in text


def test_weights_that_training_starts_from(tmp_path: Path) -> None:
    assert said(config_checks.weights) == [("ok", "training starts from new weights")]
    torch.save({"meta": {}, "state_dict": {}}, tmp_path / "a.pth")
    start, model = str(tmp_path / "a.pth"), dict(type="A")
    for cfg in (dict(load_from=start), dict(load_from=start, model=model)):
        found = said(config_checks.weights, dict(dict(model=model), **cfg))
        assert found == [("ok", f"training starts from {start}")]
    remote = "https://host/a.pth"
    assert said(config_checks.weights, dict(load_from=remote)) == [
        ("ok", f"training loads {remote}, from the network if it is not in PyTorch's cache")
    ]
    parts = [dict(init_cfg=dict(checkpoint="b.pth")), dict(pretrained=start), dict(pretrained=None)]
    model = dict(type="A", pretrained="c.pth", parts=(parts,), other="d.pth")
    missing = [
        ("fault", f"the pretrained weights {name!r} do not exist. Correct the config.")
        for name in ("c.pth", "b.pth")
    ]
    assert said(config_checks.weights, dict(model=model)) == missing
    with_remote = dict(model, neck=dict(pretrained="torchvision://resnet18"))
    assert said(config_checks.weights, dict(model=with_remote)) == [
        *missing,
        ("ok", "training loads torchvision://resnet18, from the network if it is not in PyTorch's cache"),
    ]
    ((status, text),) = said(config_checks.weights, dict(load_from=str(tmp_path / "none.pth"), model=model))
    assert status == "fault"  # and nothing else is looked for
    assert text.startswith(f"`load_from` {str(tmp_path / 'none.pth')!r}: ")


def test_files_of_all_loaders(tmp_path: Path) -> None:
    def loader(name: str) -> dict[str, Any]:
        return dict(dataset=dict(type="D", data_root=str(tmp_path), data_prefix=name))

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    both = dict(train_dataloader=loader("a"), val_dataloader=None, test_dataloader=loader("b"))
    assert said(config_checks.files, both) == [("ok", "the files of train_dataloader, test_dataloader exist")]
    for name, status in (("train", "fault"), ("val", "fault"), ("test", "warning")):
        subject = Subject(Config({**both, f"{name}_dataloader": loader("none")}))
        (found,) = run_checks([config_checks.files], subject)
        assert found.status == status
        assert f"`data_prefix` of {name}_dataloader must be an existing folder" in found.text
        assert subject.missing == [f"{name}_dataloader"]


def head(*kinds: str, **further: Any) -> dict[str, Any]:
    settings = [dict(type=f"mmseol.{kind}") for kind in kinds]
    return dict(type="FCNHead", loss_decode=settings if len(settings) > 1 else settings[0], **further)


def test_losses_of_heads() -> None:
    def found(**model: Any) -> tuple[list[tuple[str, str]], list[str]]:
        subject = Subject(Config(dict(model=model)))
        made = run_checks([config_checks.losses], subject)
        return [(one.status, one.text) for one in made], [name for name, _ in subject.losses]

    nothing = [("skipped", "no head of the config names its loss")]
    assert found() == (nothing, [])
    assert found(decode_head=dict(type="A")) == (nothing, [])
    wrapped = dict(type="mmseol.CosineClassifierHead", head=head("LDAMLoss"))
    text = "LDAMLoss, DiceLoss, CrossEntropyLoss of 4 head(s) can be built"
    assert found(
        decode_head=wrapped, auxiliary_head=[head("DiceLoss", "CrossEntropyLoss"), head("DiceLoss")]
    ) == (
        [("ok", text)],
        ["decode_head.loss_decode", *["auxiliary_head.0.loss_decode"] * 2, "auxiliary_head.1.loss_decode"],
    )
    ((status, text),), names = found(decode_head=head("NoLoss"), auxiliary_head=head("DiceLoss"))
    assert status == "fault"
    assert text.startswith("decode_head.loss_decode cannot be built: KeyError: ")
    assert names == ["auxiliary_head.loss_decode"]
    ((status, _),), names = found(decode_head=head("NoLoss"))
    assert (status, names) == ("fault", [])


def test_hooks_that_losses_need() -> None:
    def found(kind: str, *hooks: str, **settings: Any) -> list[tuple[str, str]]:
        cfg = dict(model=dict(decode_head=head(kind)), custom_hooks=[dict(type=hook) for hook in hooks])
        cfg["model"]["decode_head"]["loss_decode"].update(settings)
        made = run_checks([config_checks.losses, config_checks.hooks_of_losses], Subject(Config(cfg)))
        return [(one.status, one.text) for one in made[1:]]

    counts = "ClassCountHook counts the data"
    assert found("OutlyingMSELoss", "mmseol.ClassCountHook") == [
        ("ok", f"losses get the hooks that they need; {counts}")
    ]
    assert found("OutlyingMSELoss", class_counts=[9, 1]) == [
        ("ok", "losses get the hooks that they need; none needs counts")
    ]
    ((status, text),) = found("OutlyingMSELoss")
    assert status == "fault"
    assert text.startswith("decode_head.loss_decode needs class counts, and nothing gives them. Add")
    ((status, text),) = found("CDBLoss", "ClassCountHook")
    assert status == "warning"
    assert text.startswith(
        "decode_head.loss_decode works as described only with mmseol.ClassDifficultyHook. Add"
    )


def test_names_of_types() -> None:
    def found(**cfg: Any) -> list[tuple[str, str]]:
        return said(config_checks.names, dict(default_scope="mmseg", **cfg))

    albu = dict(type="Albu", transforms=[dict(type="NoSuchOfOurs")])
    loader = dict(dataset=dict(type="BaseSegDataset", pipeline=(dict(type="mmseg.Albumentations", transforms=[
        dict(type="Blur")]), albu)))  # fmt: skip
    model = dict(type="EncoderDecoder", data_preprocessor=dict(type="SegDataPreProcessor"))
    texts = [
        text
        for _, text in found(model=model, unread=dict(type="NoSuch"), data_preprocessor=dict(type="Nought"))
    ]
    assert texts == ["type='Nought' is not registered. Of a class of yours, import the module: "
                     "custom_imports=dict(imports=['package.module'])."]  # fmt: skip
    assert found(model=model) == [("ok", "all 2 types of the config are registered")]
    for status, text in found(train_dataloader=loader):
        assert "Blur" not in text
        assert "NoSuchOfOurs" not in text
        assert (status == "ok") == ("all 3 types" in text)


# ------------------------------------------------------------------ the data


def subject_of(labels: list[int], cfg: Any = None, **kwargs: Any) -> Subject:
    dataset = LabelDataset(labels, serialize_data=False, **kwargs)  # or each collects garbage
    return Subject(Config(cfg or {}), workers=1, datasets={"train": dataset, "val": dataset})


def texts(check: Any, subject: Subject) -> list[tuple[str, str]]:
    return [(one.status, one.text) for one in run_checks([check], subject)]


def test_data_sets_are_built_or_not() -> None:
    subject = Subject(
        Config(dict(train_dataloader=dict(dataset=LabelDataset([0, 1, 1], serialize_data=False))))
    )
    assert texts(data_checks.training_data, subject) == [("ok", "3 images")]
    assert list(subject.datasets) == ["train"]
    assert texts(data_checks.validation_data, subject) == [("skipped", "the config has no val_dataloader")]
    assert said(data_checks.training_data) == [("warning", "the config has no train_dataloader")]
    cfg = dict(train_dataloader=dict(dataset=dict(type="NoSuch")))
    missing = said(data_checks.training_data, cfg, missing=["train_dataloader"])
    assert missing == [("skipped", "needs the files of train_dataloader")]
    ((status, text),) = said(data_checks.training_data, cfg)
    assert status == "fault"
    assert text.startswith("the data set of train_dataloader cannot be built: KeyError: ")


@pytest.mark.parametrize("place", ["model", "cfg"])
def test_numbers_of_classes(place: str) -> None:
    heads = dict(decode_head=dict(num_classes=4), auxiliary_head=[dict(type="STDCHead", num_classes=2)])
    preprocessor = dict(data_preprocessor=dict(num_classes=4))
    cfg = dict(model={**heads, **(preprocessor if place == "model" else {})})
    cfg |= preprocessor if place == "cfg" else {}
    subject = subject_of([0, 1], cfg)
    sources = "decode_head, the train data, the val data, data_preprocessor"
    assert texts(data_checks.classes, subject) == [("ok", f"4 classes in {sources}")]
    assert said(data_checks.classes) == [
        ("skipped", "neither the heads nor the data tell the number of classes")
    ]
    assert said(data_checks.classes, dict(data_preprocessor=dict(num_classes="x")))[0][0] == "skipped"
    subject.cfg.model.decode_head.num_classes = 7
    ((status, text),) = texts(data_checks.classes, subject)
    assert status == "fault"
    assert "got 7 from decode_head, 4 from the train data" in text
    assert text.endswith("Correct the config.")


def test_best_classes_of_few() -> None:
    def found(**cfg: Any) -> list[str]:
        return [
            text for status, text in texts(data_checks.classes, subject_of([0], cfg)) if status == "fault"
        ]

    for topk, faults in ((5, 1), ((1, 5), 1), ((1, 4), 0), (1, 0)):
        one = dict(type="Accuracy", topk=topk)
        assert len(found(val_evaluator=one)) == len(found(test_evaluator=[dict(type="A"), one])) == faults
        for scored, number in ((True, faults), (False, 0)):
            assert len(found(model=dict(head=dict(topk=topk, cal_acc=scored)))) == number
        assert found(model=dict(decode_head=dict(topk=topk, cal_acc=True))) == []
    assert found(val_evaluator=dict(topk=5)) == [
        "val_evaluator asks for the top 5 of 4 classes, and the validation will fail. Set its topk=(1,)."
    ]


@pytest.mark.parametrize(
    ("loss", "outputs", "fault"),
    [("OneHotMSELoss", 1, True), ("OneHotMSELoss", 2, False), ("CrossEntropyLoss", 1, False)],
)
def test_one_output_of_a_squared_error(loss: str, outputs: int, fault: bool) -> None:
    cfg = dict(model=dict(decode_head=head(loss, out_channels=outputs, num_classes=1)))
    checks = [config_checks.losses, data_checks.classes]
    (found,) = run_checks(checks, Subject(Config(cfg)))[1:]
    assert (found.status == "fault") is fault
    if fault:
        assert found.text.startswith("decode_head has out_channels=1, a sigmoid with a threshold")
        assert found.text.endswith("Leave out_channels out, with num_classes=2.")


def test_labels_are_counted() -> None:
    subject = subject_of([0, 0, 0, 1, 2, 3])
    assert texts(data_checks.training_labels, subject) == [
        ("ok", "Imbalance ratio 3.0 (a : b); Gini coefficient 0.250 by image.")
    ]
    assert subject.names == list("abcd")
    assert subject.counts == ClassCounts(*[np.array([3, 1, 1, 1])] * 3)
    assert texts(data_checks.validation_labels, subject) == [("ok", "every class occurs in 1 images or more")]
    assert texts(data_checks.empty_classes, subject) == [("ok", "every class has training samples")]
    assert texts(data_checks.images, subject)[0][0] == "fault"
    lacking = subject_of([0, 2])
    ((status, text),) = texts(data_checks.validation_labels, lacking)
    assert status == "warning"
    assert text.startswith("the validation data lack b, d: nothing can be chosen for these. ")
    texts(data_checks.training_labels, lacking)
    assert texts(data_checks.empty_classes, lacking) == [
        (
            "warning",
            "without a training sample: b, d. Check labels, `label_map` and the order of `classes`.",
        )
    ]
    wrong = subject_of([0, 9])
    for check in (data_checks.training_labels, data_checks.validation_labels):
        ((status, text),) = texts(check, wrong)
        assert (status, "9" in text) == ("fault", True)
    assert wrong.counts is None
    assert texts(data_checks.empty_classes, wrong) == [("skipped", "needs the counts")]


def test_image_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tmp_path / f"{k}.png") for k in range(5)]

    class Files(LabelDataset):
        def load_data_list(self) -> list[dict[str, Any]]:
            return [{"img_path": path, "gt_label": 0} for path in self.labels]

    for path in paths:
        Path(path).touch()

    def found(names: list[Any]) -> tuple[str, str]:
        subject = Subject(Config(), datasets={"train": Files(names, serialize_data=False)})
        (one,) = texts(data_checks.images, subject)
        return one

    assert found(paths) == ("ok", "5 images looked for exist")
    assert found(["s3://a.png", paths[0]]) == ("ok", "2 images looked for exist")
    assert found([None, None]) == ("ok", "2 images looked for exist; the data set holds its images itself")
    status, text = found([*paths, "none.png"])
    assert status == "fault"
    assert text.startswith("1 of 6 image files looked for do not exist: none.png. Check `data_root`")
    monkeypatch.setattr(data_checks, "_LOOKED_AT", 2)
    assert found([*paths, "none.png"])[1].startswith("1 of 2 image files")  # the first and the last


# ------------------------------------------------------------------ the installation


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (dict(mmengine="1", mmcv="2", mmpretrain="3"), ("ok", "; original packages")),
        (
            {"onedl-mmengine": "1", "onedl-mmcv": "2", "onedl-mmsegmentation": "3"},
            ("ok", "; maintained (onedl-) packages"),
        ),
        ({"mmengine-lite": "1", "mmcv-lite": "2", "mmsegmentation": "3"}, ("ok", "; original packages")),
        (dict(mmengine="1", mmcv="2"), ("warning", "neither MMSegmentation nor MMPretrain is installed")),
        ({}, ("warning", "neither MMSegmentation nor MMPretrain is installed")),
        (dict(mmengine="1", mmpretrain="3", mmcls="0"), ("fault", "mmcls belong to OpenMMLab 1.x")),
        (dict(mmengine="1", mmpretrain="3", **{"mmcv-full": "0"}), ("fault", "uninstall mmcv-full. Python")),
        (
            {"mmengine": "1", "onedl-mmengine": "1", "mmpretrain": "3"},
            ("fault", "onedl-mmengine and mmengine own"),
        ),
        ({"mmengine": "1", "onedl-mmpretrain": "3"}, ("fault", "mmengine, onedl-mmpretrain: original")),
    ],
)
def test_families_of_packages(monkeypatch: pytest.MonkeyPatch, versions: Any, expected: Any) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(installed, "version", version)
    ((status, text),) = said(installed.packages)
    assert status == expected[0]
    assert expected[1] in text
    assert f"Python {sys.version.split()[0]}, mmseol " in text
    if status == "ok":
        assert text.endswith(expected[1])


@pytest.mark.parametrize("scope", ["mmseg", "mmpretrain", None])
def test_hosts_of_the_config_are_imported(monkeypatch: pytest.MonkeyPatch, scope: Any) -> None:
    imported: list[str] = []
    monkeypatch.setattr(installed, "import_module", imported.append)
    cfg = {} if scope is None else dict(default_scope=scope)
    needed = ["mmseg", "mmpretrain"] if scope is None else [scope]
    found = said(installed.hosts, cfg)
    assert imported == [f"{host}.{part}" for host in needed for part in ("models", "datasets")]
    places = [Path(str(sys.modules[host].__file__)).parent for host in needed]
    assert found == [
        ("ok", f"{host} can be imported, from {place}") for host, place in zip(needed, places, strict=True)
    ]
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    missing = said(installed.hosts, cfg)
    assert [status for status, _ in missing] == ([] if scope is None else ["fault"])


def test_what_an_import_needs() -> None:
    remedy = installed._import_remedy
    assert remedy(ModuleNotFoundError("x", name="timm.models")) == "Install it: pip install timm."
    assert remedy(ModuleNotFoundError("x", name="ftfy")) == "Install it: pip install ftfy regex."
    assert remedy(ImportError("broken")) == "Install it anew, best in a new environment."
    assert "mmcv 2.1.0 for mmsegmentation" in remedy(AssertionError("is incompatible"))
    assert "pip uninstall mmcv-lite" in remedy(ModuleNotFoundError("x", name="mmcv.ops"))


def test_compiled_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError("no _ext")

    monkeypatch.setattr(installed, "import_module", lambda name: ModuleType(name))
    assert said(installed.operators) == [("ok", "mmcv has its compiled operators")]
    monkeypatch.setattr(installed, "import_module", missing)
    assert said(installed.operators) == [
        ("ok", "mmcv has no compiled operators; only few models need them, as CCHead")
    ]
    model = dict(decode_head=dict(type="CCHead"), auxiliary_head=[dict(type="CCHead"), dict(type="PSAHead")])
    assert said(installed.operators, dict(model=model)) == [
        (
            "fault",
            "CCHead, PSAHead needs mmcv's compiled operators, which are missing (ImportError: no _ext). "
            "Install mmcv built for this PyTorch and CUDA.",
        )
    ]


def test_losses_are_found_from_every_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    ((status, text),) = said(installed.registry)
    assert status == "ok"
    assert text.startswith("type='mmseol.OutlyingMSELoss' is found from every scope, in ")
    monkeypatch.setattr(installed, "_PROBE", "mmseol.NoLoss")
    ((status, text),) = said(installed.registry)
    assert status == "fault"
    assert text.startswith(
        "type='mmseol.NoLoss' is not found from the scope mmengine. mmseol is imported from "
    )


def test_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    cores = "3 CPU cores, 5 threads of PyTorch"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "AAB"[number])
    assert said(installed.machine) == [("ok", f"3 GPU (A, B), {cores}")]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(installed, "which", lambda name: None)
    assert said(installed.machine) == [("ok", f"no GPU, {cores}")]
    monkeypatch.setattr(installed, "which", {"nvidia-smi": "/usr/bin/nvidia-smi"}.get)
    for built, text in ((None, "CPUs only"), ("12.1", "CUDA 12.1")):
        monkeypatch.setattr(torch.version, "cuda", built)
        ((status, found),) = said(installed.machine)
        assert status == "warning"
        assert f"is built for {text} and finds no GPU, but nvidia-smi is there." in found
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    monkeypatch.setattr(installed, "which", lambda name: None)
    assert said(installed.machine) == [("ok", "no GPU, 1 CPU cores, 5 threads of PyTorch")]


def test_the_cache_of_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for folder, status in (
        (tmp_path / "a" / "b", "ok"),
        (tmp_path, "ok"),
        (tmp_path / "file" / "b", "warning"),
    ):
        monkeypatch.setattr(installed, "default_cache_dir", lambda folder=folder: folder)
        ((found, text),) = said(installed.cache)
        assert found == status
        assert f"in {folder}" in text
    monkeypatch.setattr(installed, "default_cache_dir", lambda: tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert said(installed.cache)[0][0] == "warning"


# ------------------------------------------------------------------ the model


def test_rates_of_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(model_checks, "watch_first_step", lambda runner, model: given.append((runner, model)))
    model, warnings = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}), list[str]()
    assert model_checks._watch(Config(), model, warnings) == "of no optimizer"
    assert given == []
    sgd = dict(type="SGD", lr=0.5)
    cfg = Config(dict(optim_wrapper=dict(optimizer=sgd)))
    assert model_checks._watch(cfg, model, warnings) == "0.5"
    ((runner, watched),) = given
    assert (runner.cfg, watched) == (cfg, model)
    runner.logger.warning("x")
    assert warnings == ["x"]
    assert runner.optim_wrapper.optimizer.param_groups[0]["lr"] == 0.5
    slow = dict(custom_keys={"a": dict(lr_mult=0.1)})
    cfg = Config(dict(optim_wrapper=dict(optimizer=sgd, paramwise_cfg=slow)))
    assert model_checks._watch(cfg, model, warnings) == "0.05 to 0.5"
    warm = dict(type="LinearLR", start_factor=0.2, by_epoch=False, end=9, convert_to_iter_based=True)
    late = dict(type="ConstantLR", factor=0.1, by_epoch=False, begin=3, end=9)
    for schedulers in (warm, [warm, late]):
        cfg = Config(dict(optim_wrapper=dict(optimizer=sgd), param_scheduler=schedulers))
        assert model_checks._watch(cfg, model, warnings) == "0.1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = Config(dict(optim_wrapper=dict(type="AmpOptimWrapper", loss_scale=2.0, optimizer=sgd)))
    assert model_checks._watch(cfg, model, warnings) == "0.5"
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"


def test_the_first_batch_is_of_a_random_order() -> None:
    data = list(range(100))
    cfg = Config(dict(train_dataloader=dict(collate_fn=dict(type="default_collate"))))
    batch = model_checks._batch(cfg, data, 3)
    assert batch.tolist() == np.random.default_rng(0).permutation(100)[:3].tolist()
    assert model_checks._batch(Config(dict(train_dataloader={})), data, 2) == batch[:2].tolist()


def test_what_the_first_iteration_needs() -> None:
    remedy = model_checks._remedy
    assert "batch_size to at least 2" in remedy(ValueError("Expected more than 1 value per channel when"))
    assert "Lower train_dataloader.batch_size" in remedy(torch.cuda.OutOfMemoryError("full"))
    assert remedy(ValueError("other")) == ""
    hooks = [dict(type="A"), dict(type="mmseol.ClassCountHook", count="images")]
    assert model_checks._hook(Config(dict(custom_hooks=hooks)), "ClassCountHook")["count"] == "images"
    assert model_checks._hook(Config(), "ClassCountHook") == {}


def iteration(monkeypatch: pytest.MonkeyPatch, value: float, norm: float, beside: Any, **given: Any) -> Any:
    """Return what the first iteration says of a loss and two norms, and the images of its batch."""
    numbers: list[int] = []
    monkeypatch.setattr(model_checks, "_batch", lambda cfg, data, number: numbers.append(number))
    monkeypatch.setattr(model_checks, "_gradient", lambda model, batch: (value, norm))
    monkeypatch.setattr(model_checks, "_cross_entropy", lambda subject, batch: beside)
    monkeypatch.setattr(model_checks, "_watch", lambda cfg, model, warnings: warnings.append("hot") or "0.1")
    monkeypatch.setattr(model_checks.time, "perf_counter", iter([1.0, 3.0]).__next__)
    subject = subject_of([0, 1, 1, 2, 3], dict(train_dataloader=dict(batch_size=given.get("size", 4))))
    subject.counts, subject.model = ClassCounts(*[np.array([1, 2, 1, 1])] * 3), nn.Identity()
    subject.device = given.get("device", "cpu")
    return texts(model_checks.first_iteration, subject), numbers


def test_the_first_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    hot = ("warning", "hot")
    rate = (
        "the gradient has the norm 6, 3 times that of cross entropy on this batch (2), at the learning rate"
    )
    found = iteration(monkeypatch, 0.5, 6.0, 2.0)
    assert found == (
        [("ok", "2 of 4 images of a batch take 2 s on cpu, loss 0.5"), hot, ("ok", f"{rate} 0.1")],
        [2],
    )
    found = iteration(monkeypatch, 0.5, 6.0, None, device="cuda")
    assert found == ([("ok", "4 images of a batch take 2 s on cuda, loss 0.5"), hot], [4])
    found = iteration(monkeypatch, 0.5, 6.0, None, size=9, device="cuda")
    assert found == ([("ok", "5 of 9 images of a batch take 2 s on cuda, loss 0.5"), hot], [5])
    found = iteration(monkeypatch, 0.5, 6.0, None, size=1)
    assert found == ([("ok", "1 images of a batch take 2 s on cpu, loss 0.5"), hot], [1])
    for value, norm in ((float("nan"), 6.0), (0.5, float("inf"))):
        ((status, text),), _ = iteration(monkeypatch, value, norm, 2.0)
        assert status == "fault"
        assert text.startswith(
            f"the loss of the first batch is {value:g}, its gradient {norm:g}. Lower alpha"
        )


# ------------------------------------------------------------------ the findings and the command


def test_findings_in_one_line() -> None:
    assert Finding("ok", " a\n  b ").text == "a b"
    with pytest.raises(
        ValueError, match="`status` must be one of 'ok', 'warning', 'fault', 'skipped', got 'x'"
    ):
        Finding("x", "")  # type: ignore[arg-type]
    assert error_text(ValueError("a" * 400)) == "ValueError: " + "a" * 400
    assert error_text(ValueError("a" * 401)) == "ValueError: " + "a" * 400 + " .."

    def _own_name(subject: Subject) -> Any:
        yield Finding("ok", str(DefaultScope.get_current_instance().scope_name), "other")

    (found,) = run_checks([_own_name], Subject(Config(dict(default_scope="mmseg"))))
    assert (found.check, found.text) == ("own name", "mmseg")


def test_checks_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_checks", lambda checks, subject: (checks, subject))
    checks, subject = command.diagnose()
    assert checks == installed.INSTALLATION
    assert (dict(subject.cfg), subject.device, subject.workers) == ({}, "cpu", None)
    parts = [*installed.INSTALLATION, *config_checks.CONFIG, *data_checks.DATA]
    cfg = Config(dict(x=1))
    checks, subject = command.diagnose(cfg, device="d", workers=3)
    assert checks == [*parts, *model_checks.MODEL]
    assert (subject.cfg, subject.device, subject.workers) == (cfg, "d", 3)
    assert command.diagnose(cfg, with_model=False)[0] == parts


@pytest.mark.parametrize(
    ("given", "gpu", "device"), [(None, False, "cpu"), (None, True, "cuda"), ("x", True, "x")]
)
def test_the_device_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, given: Any, gpu: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    calls: list[Any] = []

    def diagnose(*arguments: Any) -> list[Finding]:
        print("of a host")
        calls.append(arguments)
        return [Finding("ok", "[red]fine", "a check"), Finding("warning", "x", "b")]

    monkeypatch.setattr(command, "diagnose", diagnose)
    cfg = Config(dict(x=1))
    args = SimpleNamespace(device=given, model=False, workers=3, json=False)
    command.run_doctor(cfg, args)
    assert calls == [(cfg, False, device, 3)]
    assert capsys.readouterr().out.splitlines() == [
        "ok      a check  [red]fine",
        "warning b        x",
        "1 ok, 1 warning, 0 fault, 0 skipped",
    ]
    broken = Finding("fault", "unread", "config")
    with pytest.raises(SystemExit) as caught:
        command.run_doctor(broken, args)
    assert caught.value.code == 1
    assert calls[1] == ()
    assert "fault   config   unread" in capsys.readouterr().out
