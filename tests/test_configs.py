"""Every leaf config with every loss: builds, one forward and backward, one prediction, on tiny data."""

from __future__ import annotations

from pathlib import Path

import mmpretrain.datasets
import mmpretrain.models
import mmpretrain.registry
import numpy as np
import pytest
import torch
from helpers.shipped_configs import CLS, CONFIGS, LEAVES, SEG, small, small_images, write_shipped_images
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope, init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmseol import experiment
from mmseol.counting import count_dataset
from mmseol.experiment.loss import known_losses
from mmseol.hooks import feed_features

LOSSES = experiment.LOSSES


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of tiny CIFAR-10, CIFAR-100 and Food-101."""
    return write_shipped_images(tmp_path_factory.mktemp("images"))


def share_features(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run the backbone and neck once: training goes on from these features, whatever the heads and losses.

    Predictions start from the features of the image that is predicted first.
    """
    extract = model.extract_feat
    levels = extract(images)
    (gradient,) = torch.autograd.grad(sum(level.sum() for level in levels), next(model.backbone.parameters()))
    assert gradient.isfinite().all()
    features = tuple(level.detach().requires_grad_() for level in levels)
    predicted: list[tuple[torch.Tensor, ...]] = []

    def shared(x: torch.Tensor, *args: object, **kwargs: object) -> tuple[torch.Tensor, ...]:
        if not model.training and not predicted:
            predicted.append(extract(x, *args, **kwargs))
        return features if model.training else predicted[0]

    model.extract_feat = shared
    return features


def test_lists_are_complete():
    assert {"fastfcn_r50.py", "fastfcn_r18.py", "toy_camvid.py"} <= {leaf.name for leaf in SEG}
    cifar = {f"{net}_cifar{k}.py" for net in ("resnet34", "resnet34_stem3x3", "resnet32") for k in (10, 100)}
    assert cifar | {"resnet50.py", "digits.py"} <= {leaf.name for leaf in CLS}
    assert len(SEG) + len(CLS) == len(LEAVES)
    assert {"ce", "mse", "outlying_mse", "weighted_ce_median_frequency"} <= LOSSES.keys()


@pytest.mark.parametrize("leaf", CLS, ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}")
def test_classification_leaf_trains_and_predicts_with_every_loss(leaf, images):
    cfg = small_images(leaf, images)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        registry = mmpretrain.registry
        dataset = registry.DATASETS.build(cfg.train_dataloader.dataset)
        validation = registry.DATASETS.build(cfg.val_dataloader.dataset)
        test = registry.DATASETS.build(cfg.test_dataloader.dataset)
        classes = len(test.metainfo["classes"])
        assert classes == cfg.data_preprocessor.num_classes == cfg.model.head.num_classes
        assert {len(side.metainfo["classes"]) for side in (dataset, validation)} == {classes}
        counts = count_dataset(dataset, classes, cache=False)
        assert counts.samples[0] > counts.samples[-1] > 0
        assert len(set(count_dataset(validation, classes, cache=False).samples)) == 1
        batch = pseudo_collate([dataset[0], dataset[len(dataset) - 1]])
        model = registry.MODELS.build(cfg.model)
        assert cfg.model.head.loss == experiment.resolved_loss("outlying_mse", known_losses(cfg))
        inputs = model.data_preprocessor(batch, training=True)
        (features,) = share_features(model, inputs["inputs"])
        for loss in LOSSES:
            experiment.set_loss(cfg, loss)
            model.head = registry.MODELS.build(cfg.model.head)
            for module in model.modules():
                if hasattr(module, "set_class_counts"):
                    module.set_class_counts(counts.samples)
            feed_features(model)
            features.grad = None
            total = model.train()(**inputs, mode="loss")["loss"]
            total.backward()
            assert total.isfinite(), loss
            assert features.grad.isfinite().all(), loss
            assert features.grad.ne(0).any(), loss
            with torch.no_grad():
                (result,) = model.eval().test_step(pseudo_collate([validation[0]]))
            assert result.pred_score.shape == (classes,)
            assert result.pred_label == result.pred_score.argmax()


def test_classification_tta_averages_both_flips(images):
    cfg = small_images(CONFIGS / "cifar" / "resnet32_cifar10.py", images)
    experiment.set_split(cfg, "val")  # wrapped in HoldOut
    experiment.set_test_time_augmentation(cfg)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        dataset = mmpretrain.registry.DATASETS.build(cfg.test_dataloader.dataset)
        model = mmpretrain.registry.MODELS.build(cfg.model).eval()
        with torch.no_grad():
            (merged,) = model.test_step(pseudo_collate([dataset[0]]))
            first, second = dataset[0]["inputs"]
            assert torch.equal(first, second.flip(-1))
            views = [
                model.module.test_step(dict(inputs=[view], data_samples=dataset[0]["data_samples"][:1]))[0]
                for view in (first, second)
            ]
    torch.testing.assert_close(merged.pred_score, (views[0].pred_score + views[1].pred_score) / 2)
    assert merged.pred_label == merged.pred_score.argmax()


@pytest.mark.parametrize("leaf", SEG, ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}")
def test_leaf_config_trains_and_predicts_with_every_loss(leaf, toy):
    cfg = small(leaf, toy)
    init_default_scope(cfg.default_scope)
    assert DefaultScope.get_current_instance().scope_name == cfg.default_scope
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    counts = count_dataset(dataset, 11, cache=False)
    batch = pseudo_collate([dataset[0], dataset[1]])
    validation = DATASETS.build(cfg.val_dataloader.dataset)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    inputs = model.data_preprocessor(batch, training=True)
    features = share_features(model, inputs["inputs"])
    for i, loss in enumerate(LOSSES):
        if i == 1:  # one loss trains the config's own heads; narrow ones are enough for the others
            cfg.model.decode_head.update(jpu_channels=16, channels=16)
            cfg.model.auxiliary_head.channels = 16
        experiment.set_loss(cfg, loss)
        model.decode_head = MODELS.build(cfg.model.decode_head)
        model.auxiliary_head = MODELS.build(cfg.model.auxiliary_head)
        for module in model.modules():
            if hasattr(module, "set_class_counts"):
                module.set_class_counts(counts.samples, counts.totals)
        feed_features(model)
        for level in features:
            level.grad = None
        losses = model.train()(**inputs, mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.isfinite(), loss
        assert {key.split(".")[0] for key in losses} == {"decode", "aux"}
        for level in features:
            assert level.grad.isfinite().all(), loss
            assert level.grad.ne(0).any(), loss
        model.eval()
        with torch.no_grad():
            (result,) = model.test_step(pseudo_collate([validation[0]]))
        assert result.pred_sem_seg.data.shape == (1, 64, 80)
        assert result.seg_logits.data.shape == (11, 64, 80)


@pytest.mark.parametrize(
    "fragment", sorted((CONFIGS / "_base_" / "models").glob("*.py")), ids=lambda p: p.stem
)
def test_models_know_no_data_set(fragment):
    text = str(Config.fromfile(fragment).to_dict())
    assert "type" in text
    for fact in ("num_classes", "alpha", "'size'", "data_root"):
        assert fact not in text


def test_paper_protocol_of_camvid():
    """Sec. 4.2 of arXiv 2107.02393, as resolved."""
    cfg = Config.fromfile(CONFIGS / "camvid" / "fastfcn_r50.py")
    assert cfg.crop_size == (320, 320)
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == 200
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.momentum) == (1e-2, 0.9)
    assert cfg.param_scheduler == [dict(type="mmseol.PolynomialLR", power=0.9)]
    assert cfg.model.decode_head.loss_decode.alpha == cfg.losses.outlying_mse.alpha == 6
    assert cfg.default_hooks.checkpoint.save_best == "mIoU"
    assert cfg.val_dataloader.dataset.data_prefix.img_path == "val"
    assert cfg.test_dataloader.dataset.data_prefix.img_path == "test"


@pytest.mark.parametrize(("classes", "alpha"), [(10, 5), (100, 1)])
def test_paper_protocol_of_cifar(classes, alpha):
    """Sec. 4.1 of arXiv 2107.02393, as resolved."""
    cfg = Config.fromfile(CONFIGS / "cifar" / f"resnet34_cifar{classes}.py")
    assert (cfg.model.backbone.type, cfg.model.backbone.depth) == ("ResNet", 34)
    assert cfg.optim_wrapper.optimizer == dict(type="Adam", lr=1e-3, weight_decay=5e-4)
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (128, 1000)
    assert cfg.model.head.loss.alpha == alpha
    loaders = (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)
    assert {loader.dataset.type for loader in loaders} == {"mmseol.InMemoryDataset"}
    assert {loader.collate_fn.type for loader in loaders} == {"mmseol.whole_batch"}
    train, val = cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset.dataset
    assert (train.type, train.profile, train.ratio) == ("mmseol.ImbalancedDataset", "long_tailed", 100)
    assert (train.dataset.per_class, train.dataset.side, val.per_class, val.side) == (5, "train", 5, "val")
    assert train.dataset.dataset == val.dataset
    assert cfg.test_dataloader.dataset.dataset.split == "test"
    stem = Config.fromfile(CONFIGS / "cifar" / f"resnet34_stem3x3_cifar{classes}.py")
    assert stem.model.backbone.type == "ResNet_CIFAR"


def test_literature_protocol_of_cifar():
    """Rates of LDAM-DRW's ``adjust_learning_rate``, epochs counted from 0."""
    cfg = Config.fromfile(CONFIGS / "cifar" / "resnet32_cifar10.py")
    settings = cfg.optim_wrapper.optimizer
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.1, 0.9, 2e-4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    schedulers = [PARAM_SCHEDULERS.build({**s, "optimizer": optimizer}) for s in cfg.param_scheduler]
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    expected = [0.1 * (k + 1) / 5 if k < 5 else 0.1 * 0.01 ** ((k >= 160) + (k >= 180)) for k in range(200)]
    assert rates == pytest.approx(expected)


def test_paper_protocol_of_food101():
    cfg = Config.fromfile(CONFIGS / "food101" / "resnet50.py")
    settings = cfg.optim_wrapper.optimizer
    assert (settings.type, settings.lr, settings.momentum) == ("SGD", 0.1, 0.9)
    assert cfg.param_scheduler == [dict(type="mmseol.PolynomialLR", power=0.9)]
    assert (cfg.train_dataloader.batch_size, cfg.train_cfg.max_epochs) == (64, 300)
    assert (cfg.train_dataloader.dataset.dataset.per_class, cfg.val_dataloader.dataset.per_class) == (50, 50)


def test_augments_build():
    cfg = Config.fromfile(CONFIGS / "_base_" / "augments.py")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        for augment in cfg.batch_augments.values():
            mixed, scores = mmpretrain.registry.BATCH_AUGMENTS.build(augment)(
                torch.zeros(4, 3, 8, 8), torch.eye(4)
            )
            assert mixed.shape == (4, 3, 8, 8)
            torch.testing.assert_close(scores.sum(1), torch.ones(4))
        for steps in cfg.image_augments.values():
            results = {"img": np.full((32, 32, 3), 9, dtype=np.uint8), "img_shape": (32, 32)}
            for step in steps:
                results = mmpretrain.registry.TRANSFORMS.build(step)(results)
            assert results["img"].shape == (32, 32, 3)


def test_new_style_configs_find_everything(tmp_path):
    """``read_base()`` configs, by class and by name, without ``custom_imports``."""
    (tmp_path / "base.py").write_text("norm_cfg = dict(type='BN')\n")
    (tmp_path / "leaf.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n    from .base import *\n"
        "from mmseol.losses import OutlyingMSELoss\n"
        "default_scope = 'mmseg'\n"
        "by_class = dict(type=OutlyingMSELoss, alpha=2)\n"
        "by_name = dict(type='mmseol.OutlyingMSELoss', alpha=2)\n"
    )
    cfg = Config.fromfile(tmp_path / "leaf.py")
    cfg.dump(tmp_path / "dumped.py")
    for config in (cfg, Config.fromfile(tmp_path / "dumped.py")):
        for loss in (config.by_class, config.by_name):
            assert MODELS.build(dict(loss)).alpha == 2
