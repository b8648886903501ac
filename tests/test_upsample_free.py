"""Heads without upsampled outputs against mmseg's own path."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributed import run_ranks
from helpers.seg_heads import COUNTS, LOSSES, SIZE, K, build, features, samples, segmentor
from helpers.tiny_runner import log_of
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models.losses import accuracy as host_accuracy
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures.sampler import OHEMPixelSampler
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol import experiment
from mmseol.losses import OneHotMSELoss, OutlyingMSELoss
from mmseol.segmentation import restore_upsampling, upsample_free
from mmseol.segmentation.jpu_head import JPUFCNHead
from mmseol.segmentation.upsample_free import hard_pixels, upsampled_accuracy


class Upsampling:
    """A ``forward_upsampled`` that upsamples and records the shapes of its arguments."""

    seen: tuple[torch.Size, torch.Size] | None = None

    def forward_upsampled(
        self, pred: Tensor, target: Tensor, align_corners: bool = False, **kwargs: Any
    ) -> Tensor:
        self.seen = pred.shape, target.shape
        large = F.interpolate(pred, target.shape[1:], mode="bilinear", align_corners=align_corners)
        return self(large, target, **kwargs)


class Outlying(Upsampling, OutlyingMSELoss):
    """A loss with class counts."""


class OneHot(Upsampling, OneHotMSELoss):
    """A loss without class counts."""


HOST = dict(type="DiceLoss")
OHEM = dict(type="OHEMPixelSampler", min_kept=20)
OUTLYING = dict(type=Outlying, alpha=2.0, class_counts=COUNTS)
JPU = dict(in_channels=(8, 12, 16), in_index=(0, 1, 2), jpu_channels=4, jpu_dilations=(1, 2))
HEADS = {
    "FCNHead": {},
    "PSPHead": {},
    "UPerHead": {},
    "EncHead": dict(in_channels=[8, 12, 16], in_index=[0, 1, 2], num_codes=4),
    "DAHead": dict(in_channels=16, in_index=2, pam_channels=4),
    "STDCHead": dict(in_channels=16, in_index=2, num_convs=1, boundary_threshold=0.1),
    "JPU fcn": dict(JPU, type="mmseol.JPUHead", context="fcn"),
    "JPU enc": dict(JPU, type="mmseol.JPUHead", context="enc"),
}


pytestmark = pytest.mark.usefixtures("mmseg_scope")


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def step(head: nn.Module, x: list[Tensor], labels: list) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the log and the gradients of one training step, with dropout."""
    torch.manual_seed(1)
    log = head.loss(x, labels, {})
    head.zero_grad()
    sum(v for key, v in log.items() if "loss" in key).backward()
    return {key: value.detach().mean() for key, value in log.items()}, gradients(head)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kind", HEADS)
def test_head_equals_the_hosts_path(kind: str, align_corners: bool) -> None:
    x, labels = features(), samples()
    head = build(kind, OUTLYING, align_corners=align_corners, **HEADS[kind])
    keys = list(head.state_dict())
    expected = step(copy.deepcopy(head), x, labels)
    assert upsample_free(head) == {"": None}
    got = step(head, x, labels)
    assert head.loss_decode.seen[0][2:] == (8, 8) if "JPU" in kind else (2, 2)
    assert head.loss_decode.seen[1] == (2, SIZE, SIZE)
    assert got[0].keys() == expected[0].keys()
    torch.testing.assert_close(got, expected)
    assert list(head.state_dict()) == keys
    assert "acc_seg" not in step_without_accuracy(head, x, labels)


def step_without_accuracy(head: nn.Module, x: list[Tensor], labels: list) -> str:
    upsample_free(head, accuracy="off")
    return " ".join(step(head, x, labels)[0])


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("loss", ["outlying", "one_hot", "weighted_ce"])
@pytest.mark.parametrize("kind", ["PSPHead", "JPU enc"])
def test_losses_of_ours(kind: str, loss: str, align_corners: bool) -> None:
    x, labels = features(), samples()
    head = build(kind, LOSSES[loss], align_corners=align_corners, **HEADS[kind])
    expected = step(copy.deepcopy(head), x, labels)
    assert upsample_free(head) == {"": None}
    torch.testing.assert_close(step(head, x, labels), expected)


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(avg_non_ignore=True, loss_weight=0.4),
        dict(reduction="sum", loss_weight=0.01),
        dict(class_weight=[1.0, 2, 3, 0.5]),
    ],
)
def test_cross_entropy_of_the_host(settings: dict[str, Any]) -> None:
    x, labels = features(), samples()
    if "class_weight" in settings:  # beside void labels, older versions of it raise an error
        for sample in labels:
            sample.gt_sem_seg.data.clamp_(max=K - 1)
    loss = dict(type="CrossEntropyLoss", **settings)
    head = build("PSPHead", [loss, dict(OUTLYING, type="mmseol.OutlyingMSELoss")])
    expected = step(copy.deepcopy(head), x, labels)
    assert upsample_free(head) == {"": None}
    torch.testing.assert_close(step(head, x, labels), expected)


def test_other_cross_entropies_of_the_host_keep_its_path() -> None:
    for settings in (dict(use_sigmoid=True), dict(use_mask=True)):
        head = build("FCNHead", dict(type="CrossEntropyLoss", **settings))
        assert upsample_free(head) == {"": "CrossEntropyLoss has no `forward_upsampled`"}


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("thresh", [None, 0.28, 0.9])
@pytest.mark.parametrize("loss", ["host", "weighted_ce", "outlying", "both"])
def test_hard_pixels(loss: str, thresh: float | None, align_corners: bool) -> None:
    """OHEM keeps the pixels that it keeps of upsampled outputs, here of 9 rows, so that no two are equal."""
    host = dict(type="CrossEntropyLoss", class_weight=[1.0, 2, 3, 0.5], loss_weight=0.7)
    if loss == "host":
        host.update(class_weight=None, avg_non_ignore=True)
    cfg = {"host": host, "both": [dict(type="mmseol.FocalLoss"), dict(host, class_weight=None)]}
    x, labels = features(), samples()
    head = build(
        "PSPHead",
        cfg.get(loss) or LOSSES[loss],
        align_corners=align_corners,
        sampler=dict(OHEM, thresh=thresh),
    )
    outputs, target = 3 * torch.randn(2, K, 9, 9), torch.stack([one.gt_sem_seg.data for one in labels])
    upsampled = F.interpolate(outputs, target.shape[2:], mode="bilinear", align_corners=align_corners)
    expected_pixels = head.sampler.sample(upsampled, target)
    assert 2 * OHEM["min_kept"] <= expected_pixels.sum() < (target != 255).sum()
    torch.testing.assert_close(hard_pixels(head, outputs, target.squeeze(1)), expected_pixels)
    expected = step(copy.deepcopy(head), x, labels)
    assert upsample_free(head) == {"": None}
    torch.testing.assert_close(step(head, x, labels), expected)


class OwnSampler(OHEMPixelSampler):
    """A sampler with a rule of its own."""

    def sample(self, seg_logit: Tensor, seg_label: Tensor) -> Tensor:
        return (seg_logit.amax(1) > 0).float()


def test_another_sampler_keeps_the_hosts_path() -> None:
    head = build("FCNHead", OUTLYING)
    head.sampler = OwnSampler(head)
    assert upsample_free(head) == {"": "OwnSampler samples pixels of them"}


def test_losses_of_one_name_are_added_and_others_kept_apart() -> None:
    x, labels = features(), samples()
    head = build("PSPHead", [OUTLYING, dict(type=OneHot), dict(OUTLYING, alpha=3.0)])
    expected = step(head, x, labels)
    assert upsample_free(head) == {"": None}
    assert set(expected[0]) == {"loss_outlying", "loss_one_hot", "acc_seg"}
    torch.testing.assert_close(step(head, x, labels), expected)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (dict(kind="FCNHead", loss=HOST), "DiceLoss has no `forward_upsampled`"),
        (dict(kind="FCNHead", loss=[OUTLYING, HOST]), "DiceLoss has no `forward_upsampled`"),
        (
            dict(kind="FCNHead", loss=[LOSSES["ce"], dict(type="mmseol.DiceLoss")], sampler=OHEM),
            "DiceLoss has no loss of each pixel by tiles to sample by",
        ),
        (dict(kind="DDRHead", loss=[OUTLYING] * 2, in_channels=16), "DDRHead has its own `loss_by_feat`"),
    ],
)
def test_what_needs_upsampled_outputs_keeps_the_hosts_path(head: dict[str, Any], reason: str) -> None:
    made = build(**head)
    cls = type(made)
    assert upsample_free(made) == {"": reason}
    assert type(made) is cls


@pytest.mark.parametrize("size", [(SIZE, SIZE), (SIZE * 2, SIZE * 2), (SIZE * 2, 4), (4, SIZE * 2)])
def test_outputs_of_label_size_or_larger_take_the_hosts_path(size: tuple[int, int]) -> None:
    head = build("FCNHead", OUTLYING)
    outputs, labels = torch.randn(2, K, *size), samples()
    expected = head.loss_by_feat(outputs, labels)
    upsample_free(head)
    torch.testing.assert_close(head.loss_by_feat(outputs, labels), expected)
    assert head.loss_decode.seen is None


@pytest.mark.parametrize("kind", HEADS)
def test_heads_are_restored(kind: str) -> None:
    head = build(kind, OUTLYING, **HEADS[kind])
    cls, attributes = type(head), set(vars(head))
    upsample_free(head)
    assert type(head) is not cls
    restore_upsampling(head)
    assert type(head) is cls
    assert set(vars(head)) == attributes


def test_copies_and_pickles_go_on() -> None:
    x, labels = features(), samples()
    head = build("PSPHead", OUTLYING)
    upsample_free(head)
    expected = step(head, x, labels)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert type(other) is type(head)
        other.loss_decode.seen = None
        torch.testing.assert_close(step(other, x, labels), expected)
        assert other.loss_decode.seen is not None
    assert "PSPHead" in repr(head)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), [((5, 7), (40, 31)), ((8, 8), (64, 64)), ((1, 3), (70, 6))])
def test_accuracy_is_the_hosts(small: tuple[int, int], large: tuple[int, int], align_corners: bool) -> None:
    outputs = torch.randn(3, K, *small)
    labels = torch.randint(K, (3, *large))
    labels[torch.rand(labels.shape) < 0.2] = 255
    upsampled = F.interpolate(outputs, large, mode="bilinear", align_corners=align_corners)
    for ignore in (255, None):
        expected = host_accuracy(upsampled, labels, ignore_index=ignore).squeeze()
        got = upsampled_accuracy(outputs, labels, align_corners, ignore)
        torch.testing.assert_close(got, expected)


def test_accuracy_of_void_alone_and_of_ties() -> None:
    labels = torch.full((1, 4, 4), 255)
    outputs = torch.zeros(1, K, 2, 2)
    assert upsampled_accuracy(outputs, labels, ignore_index=255) == 100
    assert upsampled_accuracy(outputs, labels * 0, ignore_index=255) < 1e-4
    with pytest.raises(ValueError, match=r"`accuracy` must be one of 'exact', 'off', got 'low'"):
        upsample_free(nn.Identity(), "low")  # type: ignore[arg-type]


@pytest.mark.parametrize("half", [False, True])
def test_dropout_checkpointed_layers_and_half_precision(half: bool) -> None:
    results = []
    for change in (dict, upsample_free):
        torch.manual_seed(0)
        model = segmentor("ce").train()
        for head in (model.decode_head, *model.auxiliary_head):
            head.dropout = nn.Dropout2d(0.3)
        for block in model.backbone.modules():
            if hasattr(block, "with_cp"):
                block.with_cp = True
        if change is upsample_free:
            assert upsample_free(model) == {"decode_head": None, "auxiliary_head.0": None}
        x, labels = torch.randn(2, 3, 64, 64), samples()
        if not half:  # float32 rounds differently from one CPU to another
            model, x = model.double(), x.double()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = model.loss(x, labels)
        model.parse_losses(losses)[0].backward()
        # In bfloat16, the layers below the classifiers round more than the paths differ.
        compared = {key: v for key, v in gradients(model).items() if not half or "conv_seg" in key}
        assert compared
        results.append(({key: float(v) for key, v in losses.items() if "loss" in key}, compared))
    close = dict(rtol=2e-2, atol=2e-2) if half else dict(rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(results[1], results[0], **close)


def test_layers_of_synchronized_norms() -> None:
    """Norms that are converted, as for several GPUs, compute as others in a process of its own."""
    results = []
    for change in (dict, upsample_free):
        torch.manual_seed(0)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(segmentor("ce")).double().train()
        assert any(isinstance(layer, nn.SyncBatchNorm) for layer in model.decode_head.modules())
        if change is upsample_free:
            assert set(upsample_free(model).values()) == {None}
        losses = model.loss(torch.randn(2, 3, 64, 64).double(), samples())
        model.parse_losses(losses)[0].backward()
        results.append(({key: v.detach().mean() for key, v in losses.items()}, gradients(model)))
    torch.testing.assert_close(results[1], results[0])


def distributed_steps(rank: int, free: bool) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the losses of two steps of a wrapped model on this rank's images, and the last gradients."""
    torch.manual_seed(0)
    model = MMDistributedDataParallel(segmentor("weighted_ce").double().train())
    if free:
        assert set(upsample_free(model).values()) == {None}
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.01))
    torch.manual_seed(1 + rank)
    logged = []
    for _ in range(2):
        made = samples()
        for sample in made:  # so that ranks differ in their valid pixels
            sample.gt_sem_seg.data[:, : 4 + 4 * rank] = 255
        images = [torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8) for _ in made]
        losses = model.train_step({"inputs": images, "data_samples": made}, optimizer)
        logged.append({key: float(value) for key, value in losses.items()})
    return logged, {name: value.grad for name, value in model.module.named_parameters()}


def test_two_processes() -> None:
    expected, got = (run_ranks(distributed_steps, free) for free in (False, True))
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)  # the accuracy is float32
    assert got[0][0] != got[1][0]
    torch.testing.assert_close(got[0][1], got[1][1])


STOCK = {"fcn_r50-d8": 1e-2, "pspnet_r50-d8": 1e-2, "upernet_r50": 1e-2, "segformer_mit-b0": 1e-3}
NARROW = 16  # the stock widths of ResNet-50 are divided by it


def stock_model(name: str) -> nn.Module:
    """Return mmseg's model of that name, a narrow ResNet-18 in place of a ResNet-50."""
    cfg = Config.fromfile(experiment.stock_config("mmseg", f"_base_/models/{name}.py")).model
    heads = [cfg.decode_head] + ([cfg.auxiliary_head] if cfg.get("auxiliary_head") else [])
    cfg.pretrained = None
    if cfg.backbone.type == "ResNetV1c":
        cfg.backbone.update(depth=18, base_channels=16, stem_channels=16, norm_cfg=dict(type="BN"))
        for head in heads:
            widths = head.in_channels
            narrow = [w // NARROW for w in widths] if isinstance(widths, list) else widths // NARROW
            head.update(in_channels=narrow, channels=head.channels // NARROW)
    for head in heads:
        head.norm_cfg = dict(type="BN")
    torch.manual_seed(0)
    return MODELS.build(cfg).double().train()  # float32 differs by rounding, which steps of training amplify


def losses_of_steps(model: nn.Module, lr: float, steps: int) -> Tensor:
    """Return all losses of every step, (steps, losses)."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    logged = []
    for _ in range(steps):
        made = samples() + samples()
        for sample in made:
            label = torch.randint(19, (64, 64))
            label[torch.rand(label.shape) < 0.05] = 255
            sample.gt_sem_seg = PixelData(data=label[None])
        losses = model.loss(torch.randn(4, 3, 64, 64).double(), made)
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        logged.append(torch.stack([v.detach() for key, v in losses.items() if "loss" in key]))
    return torch.stack(logged)


@pytest.mark.parametrize("name", STOCK)
def test_steps_of_stock_models(name: str) -> None:
    """``STEPS=20 python -m pytest tests/test_upsample_free.py -k stock`` trains for that many steps."""
    steps = int(os.environ.get("STEPS", 2))
    expected = losses_of_steps(stock_model(name), STOCK[name], steps)
    model = stock_model(name)
    assert set(upsample_free(model).values()) == {None}
    got = losses_of_steps(model, STOCK[name], steps)
    assert expected.unique().numel() == expected.numel()
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)  # mmseg adds 1e-7 to the number of pixels


class Stages(nn.Module):
    """A backbone of one layer, which compiles fast."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 8 << i, 3, 2 << i, padding=1) for i in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(x) for conv in self.convs]


def test_compiled_model() -> None:
    model = segmentor("outlying")
    model.backbone, model.auxiliary_head = Stages(), None
    model.decode_head.loss_decode = MODELS.build(ConfigDict(OUTLYING))
    x, labels = torch.randn(2, 3, 32, 32), samples()
    torch.manual_seed(1)
    expected = {key: value.mean() for key, value in model.loss(x, labels).items()}
    assert model.decode_head.loss_decode.seen is None
    assert upsample_free(model) == {"decode_head": None}
    torch._dynamo.reset()
    torch.manual_seed(1)
    got = torch.compile(model, backend="aot_eager")(x, labels, mode="loss")
    torch.testing.assert_close(got, expected)
    assert model.decode_head.loss_decode.seen is not None
    model.parse_losses(got)[0].backward()
    assert all(grad.isfinite().all() for grad in gradients(model).values())


def train(folder: Path, toy: Path, hooks: list[dict]) -> tuple[dict[str, Tensor], Runner]:
    """Return the logged losses of two iterations of the quickstart config, and the runner."""
    cfg = Config.fromfile(Path(__file__).parents[1] / "configs" / "quickstart" / "toy_camvid.py")
    experiment.set_data_root(cfg, str(toy))
    experiment.set_seed(cfg, 1)
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.model.decode_head.update(jpu_channels=8, channels=8)
    cfg.model.decode_head.loss_decode.type = "test_upsample_free.Outlying"  # the run writes its config down
    cfg.model.auxiliary_head.loss_decode = dict(type="DiceLoss")
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.pipeline[3].crop_size = (64, 64)
    cfg.train_cfg = dict(by_epoch=False, max_iters=2, val_interval=9)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=9, save_last=False)
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor = dict(by_epoch=False, window_size=1)
    cfg.custom_hooks = [dict(type="mmseol.ClassCountHook"), dict(type="EMAHook"), *hooks]
    cfg.train_cfg.val_interval = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    history = runner.message_hub.log_scalars
    keys = ("loss", "decode.acc_seg", "aux.acc_seg")
    logged = {key: torch.tensor(history[f"train/{key}"].data[0]) for key in keys}
    return logged | {"mIoU": torch.tensor(history["val/mIoU"].data[0])}, runner


def test_training_by_config_alone(tmp_path: Path, toy: Path) -> None:
    """Two iterations and a validation with and without the hooks, with an averaged model beside."""
    stock, _ = train(tmp_path / "stock", toy, [])
    kinds = ("mmseol.UpsampleFreeLossHook", "mmseol.UpsampleFreePredictionHook")
    ours, runner = train(tmp_path / "ours", toy, [dict(type=kind) for kind in kinds])
    log = log_of(runner)
    assert stock["loss"].shape == (2,)
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=0.02)
    assert "Loss of decode_head without upsampled outputs." in log
    assert "Loss of auxiliary_head of upsampled outputs: DiceLoss has no `forward_upsampled`." in log
    assert "Prediction of model without upsampled outputs." in log
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for model in (runner.model, hook.ema_model.module):  # validated once; the classes are the host's again
        assert type(model) is EncoderDecoder
        assert type(model.decode_head) is JPUFCNHead
    assert "mIoU" in str(runner.val_loop.run())
