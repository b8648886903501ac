"""Every leaf config with every loss: builds, one forward and backward, one prediction, on toy data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope, init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmseol import experiment
from mmseol.counting import count_dataset

CONFIGS = Path(__file__).parents[1] / "configs"
LEAVES = sorted(path for path in CONFIGS.glob("*/*.py") if not path.parent.name.startswith("_"))
LOSSES = Config.fromfile(CONFIGS / "_base_" / "losses.py").losses


def small(leaf: Path, toy: Path) -> Config:
    """Return the config on toy data, without weights to download, at a crop that a test can afford."""
    cfg = Config.fromfile(leaf)
    experiment.set_data_root(cfg, str(toy))
    cfg.model.pretrained = None
    cfg.model.data_preprocessor.size = (64, 64)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == "RandomCrop":
            step.crop_size = (64, 64)
    return cfg


def test_lists_are_complete():
    assert {"fastfcn_r50.py", "fastfcn_r18.py", "toy_camvid.py"} <= {leaf.name for leaf in LEAVES}
    assert {"ce", "mse", "outlying_mse", "weighted_ce_median_frequency"} <= LOSSES.keys()


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: f"{leaf.parent.name}/{leaf.stem}")
def test_leaf_config_trains_and_predicts_with_every_loss(leaf, toy):
    cfg = small(leaf, toy)
    init_default_scope(cfg.default_scope)
    assert DefaultScope.get_current_instance().scope_name == cfg.default_scope
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    counts = count_dataset(dataset, 11, cache=False)
    batch = pseudo_collate([dataset[0], dataset[1]])
    validation = DATASETS.build(cfg.val_dataloader.dataset)
    for loss in LOSSES:
        experiment.set_loss(cfg, loss)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        for module in model.modules():
            if hasattr(module, "set_class_counts"):
                module.set_class_counts(counts.samples, counts.totals)
        losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
        total, _ = model.parse_losses(losses)
        total.backward()
        assert total.isfinite(), loss
        assert {key.split(".")[0] for key in losses} == {"decode", "aux"}
        gradient = model.backbone.stem[0].weight.grad
        assert gradient.isfinite().all(), loss
        assert gradient.ne(0).any(), loss
        model.eval()
        with torch.no_grad():
            (result,) = model.test_step(pseudo_collate([validation[0]]))
        assert result.pred_sem_seg.data.shape == (1, 64, 80)
        assert result.seg_logits.data.shape == (11, 64, 80)


def test_paper_protocol_of_camvid():
    """Sec. 4.2 of arXiv 2107.02393, as resolved."""
    cfg = Config.fromfile(CONFIGS / "camvid" / "fastfcn_r50.py")
    assert cfg.crop_size == (320, 320)
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == 200
    assert (cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.momentum) == (1e-2, 0.9)
    assert cfg.param_scheduler == [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True)]
    assert cfg.model.decode_head.loss_decode.alpha == cfg.losses.outlying_mse.alpha == 6
    assert cfg.default_hooks.checkpoint.save_best == "mIoU"
    assert cfg.val_dataloader.dataset.data_prefix.img_path == "val"
    assert cfg.test_dataloader.dataset.data_prefix.img_path == "test"


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
