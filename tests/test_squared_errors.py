"""Warnings of ClassCountHook about parts that do not fit squared errors."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmpretrain.models
import numpy as np
import pytest
import torch
from helpers.seg_heads import LOSSES, build, segmentor
from helpers.tiny_runner import TinyModel, log_of, outlying, tiny_runner
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from mmseg.models.segmentors import SegTTAModel
from torch import nn

from mmseol.hooks.squared_errors import largest_curvature, stable_rate, unfit_parts, watch_first_step
from mmseol.segmentation import SegScoreTTAModel

STOCK = Path(mmpretrain.__file__).parent / ".mim" / "configs" / "resnet" / "resnet18_8xb16_cifar10.py"


def test_curvature_is_the_second_derivative() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 3, 4, dtype=torch.float64)  # five of four points
    parameters = torch.zeros(4, dtype=torch.float64)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        outputs = torch.einsum("c,ncp->np", parameters[:3], features) + parameters[3]
        return 0.5 * (outputs - 1).square().mean()

    hessian = torch.autograd.functional.hessian(loss, parameters)
    assert largest_curvature(features) == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), abs=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("part", [0.98, 1.02])
def test_stable_rate_is_where_sgd_begins_to_diverge(momentum: float, part: float) -> None:
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=part * stable_rate(7.0, momentum), momentum=momentum)
    for _ in range(3000):
        optimizer.zero_grad()
        (7.0 * weight.square() / 2).backward()
        optimizer.step()
    assert (weight.abs() < 1) == (part < 1)


class Pictures(BaseDataset):
    """Images of classes with a colour each, long-tailed."""

    METAINFO = {"classes": [str(k) for k in range(10)]}  # noqa: RUF012

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"gt_label": k} for k in range(10) for _ in range(40 >> (k // 2))]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        label = self.get_data_info(idx)["gt_label"]
        rng = np.random.default_rng(idx)
        colour = np.random.default_rng(1000 + label).normal(size=(3, 4, 4)).repeat(2, 1).repeat(2, 2)
        image = torch.from_numpy(60 * (colour + rng.normal(size=(3, 8, 8))) + 120).float()
        return {"inputs": image, "data_samples": DataSample().set_gt_label(label)}


def train_stock(
    work_dir: Path, rate: float | None, loss: dict[str, Any], steps: int
) -> tuple[list[float], str]:
    """Train the host's CIFAR-10 config with its own SGD on made images; return the losses and the log."""
    cfg = Config.fromfile(STOCK)
    cfg.model.head.loss = loss
    cfg.model.data_preprocessor = cfg.data_preprocessor
    if rate is not None:
        cfg.optim_wrapper.optimizer.lr = rate
    torch.manual_seed(0)
    runner = Runner(
        model=MODELS.build(cfg.model),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=16,
            sampler=dict(type="DefaultSampler", shuffle=True),
            dataset=Pictures(),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper=cfg.optim_wrapper,
        custom_hooks=[dict(type="mmseol.ClassCountHook")],
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), checkpoint=None),
        log_processor=dict(by_epoch=False, window_size=1),
        default_scope="mmpretrain",
        experiment_name=work_dir.name,
        randomness=dict(seed=0),
    )
    runner.train()
    return list(runner.message_hub.get_scalar("train/loss")._log_history), log_of(runner)


@pytest.mark.usefixtures("mmpretrain_scope")
def test_stock_learning_rate_is_warned_of_and_the_suggested_one_trains(tmp_path: Path) -> None:
    values, log = train_stock(tmp_path / "stock", None, outlying(), 4)
    assert max(values) > 10 * values[0]  # this is what the warning is about
    (line,) = [line for line in log.splitlines() if "is too high for squared errors" in line]
    assert "head.loss_module: the learning rate 0.1 of the classifier" in line
    assert log.index(line) < log.index("Iter(train)")  # before the first step
    rate = float(re.search(r"optimizer\.lr=(\d[\d.e-]*\d)", line)[1])
    values, log = train_stock(tmp_path / "suggested", rate, outlying(), 14)
    assert "is too high" not in log
    assert np.isfinite(values).all()
    assert max(values) < 4 * values[0]
    assert np.mean(values[-4:]) < np.mean(values[:4])


@pytest.mark.usefixtures("mmpretrain_scope")
def test_cross_entropy_is_not_warned_of(tmp_path: Path) -> None:
    _, log = train_stock(tmp_path, None, {"type": "mmseol.CrossEntropyLoss"}, 1)
    assert "is too high" not in log


@pytest.mark.parametrize(
    ("optimizer", "clip", "warned"),
    [
        ({"type": "SGD", "lr": 0.5}, False, True),
        ({"type": "SGD", "lr": 0.1}, False, False),
        ({"type": "SGD", "lr": 0.5}, True, False),
        ({"type": "Adam", "lr": 0.5}, False, False),
    ],
)
def test_who_is_warned(tmp_path: Path, optimizer: dict[str, Any], clip: bool, warned: bool) -> None:
    """The points of class c lie at (c, c, c), c from 0 to 3; squared norms with the bias are 1 to 28."""
    wrapper: dict[str, Any] = {"optimizer": optimizer}
    if clip:
        wrapper["clip_grad"] = {"max_norm": 1.0}
    net = TinyModel([outlying(alpha=0.1)], [{"type": "mmseol.CrossEntropyLoss"}])
    runner = tiny_runner(tmp_path, net, optim_wrapper=wrapper, randomness={"seed": 0})
    runner.train()
    assert log_of(runner).count("is too high for squared errors") == warned
    assert not net.decode_head.fc._forward_pre_hooks


@pytest.mark.parametrize(
    ("settings", "compiled", "watched"), [({}, False, 1), ({}, True, 0), ({"reduction": "sum"}, False, 0)]
)
def test_compiled_models_and_sums_are_not_watched(
    settings: dict[str, Any], compiled: bool, watched: int
) -> None:
    """A hook in a compiled graph would break it; the rate that is stable holds for means."""
    net = TinyModel([outlying(alpha=0.1, **settings)], [])
    wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.5))
    runner = SimpleNamespace(optim_wrapper=wrapper, cfg={"compile": compiled}, logger=None)
    assert len(watch_first_step(runner, net)) == watched


def test_weight_of_the_loss_counts(tmp_path: Path) -> None:
    net = TinyModel([outlying(alpha=0.1, loss_weight=20.0)], [])
    optim = {"optimizer": {"type": "SGD", "lr": 0.1}}
    runner = tiny_runner(tmp_path, net, optim_wrapper=optim, randomness={"seed": 0})
    runner.train()
    assert "is too high for squared errors" in log_of(runner)


@pytest.mark.usefixtures("mmseg_scope")
def test_softmax_over_views_is_warned_of_in_training_and_in_tests() -> None:
    model = segmentor("outlying")
    for kind in ("SegTTAModel", "mmseg.SegTTAModel"):
        (warning,) = unfit_parts(model, {"tta_model": {"type": kind}})
        assert "tta_model=dict(type='mmseol.SegScoreTTAModel')" in warning
    assert unfit_parts(model, {"tta_model": {"type": "mmseol.SegScoreTTAModel"}}) == []
    assert unfit_parts(model, {}) == unfit_parts(model, None) == []
    assert len(unfit_parts(SegTTAModel(model), None)) == 1
    assert unfit_parts(SegScoreTTAModel(model), None) == []
    assert unfit_parts(segmentor("ce"), {"tta_model": {"type": "SegTTAModel"}}) == []


@pytest.mark.usefixtures("mmseg_scope")
@pytest.mark.parametrize(
    ("loss", "thresh", "warned"), [("outlying", 0.7, True), ("outlying", None, False), ("ce", 0.7, False)]
)
def test_softmax_of_ohem_is_warned_of(loss: str, thresh: float | None, warned: bool) -> None:
    head = build("FCNHead", LOSSES[loss], sampler=dict(type="OHEMPixelSampler", thresh=thresh, min_kept=9))
    warnings = unfit_parts(nn.ModuleDict({"decode_head": head}), {})
    assert len(warnings) == warned
    if warned:
        assert "decode_head: OHEMPixelSampler compares the softmax" in warnings[0]
        assert "sampler=dict(type='OHEMPixelSampler', min_kept=9)" in warnings[0]


def test_warnings_reach_the_log(tmp_path: Path) -> None:
    cfg = Config(dict(tta_model=dict(type="SegTTAModel")))
    runner = tiny_runner(tmp_path, TinyModel([outlying()], []), cfg=cfg)
    runner.train()
    assert log_of(runner).count("SegTTAModel averages the softmax") == 1
