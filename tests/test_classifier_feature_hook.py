"""ClassifierFeatureHook in Runners and in the hosts' heads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.tiny_runner import TinyModel, log_of, tiny_runner
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmpretrain.registry import MODELS as CLS_MODELS
from mmpretrain.structures import DataSample
from mmseg.registry import MODELS as SEG_MODELS
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn import functional as F

from mmseol.hooks import ClassifierFeatureHook, feed_features
from mmseol.losses import InfluenceBalancedLoss

HOOKS = [{"type": "mmseol.ClassCountHook"}, {"type": "mmseol.ClassifierFeatureHook"}]


def balanced(start: int = 0, **kwargs: Any) -> dict[str, Any]:
    return {"type": "mmseol.InfluenceBalancedLoss", "start_epoch": start, **kwargs}


def ib(loss: InfluenceBalancedLoss, pred: Any, target: Any, norm: Any) -> torch.Tensor:
    """Return the loss by its formula, for labels that are all valid."""
    weight = 1 / loss.class_counts.double()
    c = F.cross_entropy(pred, target, weight=(weight * len(weight) / weight.sum()).float(), reduction="none")
    distance = (pred.softmax(1) - F.one_hot(target, pred.shape[1]).movedim(-1, 1)).abs().sum(1)
    return (c * 1000 / (distance * norm + 1e-3)).mean()


class Recording(TinyModel):
    """TinyModel that records the values of its main loss and of cross entropy."""

    def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
        found = super().forward(inputs, label, mode)
        if mode == "loss":
            batch, labels = torch.stack(list(inputs)), torch.stack(list(label))
            with torch.no_grad():
                pred = F.linear(batch, self.decode_head.fc.weight, self.decode_head.fc.bias)
            loss = self.decode_head.losses[0]
            self.seen.append(
                (
                    found["decode.loss_influence_balanced"].item(),
                    F.cross_entropy(pred, labels).item(),
                    ib(loss, pred, labels, batch.abs().sum(1)).item(),
                )
            )
        return found


@pytest.mark.parametrize("by_epoch", [True, False])
def test_cross_entropy_until_the_start_then_each_head_gets_its_features(
    tmp_path: Path, by_epoch: bool
) -> None:
    net = Recording([balanced(1)], [balanced(1)])
    net.seen = []
    cycle = {"by_epoch": True, "max_epochs": 2} if by_epoch else {"by_epoch": False, "max_iters": 8}
    hooks = [{"type": "EMAHook"}, *HOOKS]
    runner = tiny_runner(tmp_path, net, custom_hooks=hooks, train_cfg={**cycle, "val_interval": 1000})
    runner.train()
    for step, (value, entropy, influence) in enumerate(net.seen):
        assert value == pytest.approx(entropy if step < 4 else influence, rel=1e-4)
    for head in (net.decode_head, net.auxiliary_head):
        assert head.losses[0]._norm is None  # nothing is retained
        assert not head.fc._forward_pre_hooks  # the hook left the model
    assert "throughout" not in log_of(runner)


def test_a_run_that_ends_before_the_start_is_warned_and_other_losses_are_left_alone(tmp_path: Path) -> None:
    net = TinyModel([balanced(100)], [{"type": "mmseol.CrossEntropyLoss"}])
    runner = tiny_runner(tmp_path / "a", net, custom_hooks=HOOKS)
    runner.train()
    (line,) = [line for line in log_of(runner).splitlines() if "throughout" in line]
    assert "decode_head.losses.0: `start_epoch` is 100, but the run ends after 1 epochs" in line
    plain = TinyModel([{"type": "mmseol.CrossEntropyLoss"}], [])
    tiny_runner(tmp_path / "b", plain, custom_hooks=HOOKS).train()
    with pytest.raises(RuntimeError, match=r"mmseol\.ClassifierFeatureHook"):
        tiny_runner(tmp_path / "c", TinyModel([balanced()], []), custom_hooks=HOOKS[:1]).train()


class FeatureLoss(nn.Module):
    """Loss of a user that takes features and knows no epochs."""

    loss_name = "loss_features"

    def set_features(self, features: torch.Tensor, *settings: Any) -> None:
        self.features = features

    def forward(self, pred: torch.Tensor, target: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return pred.mean() * self.features.mean()


def test_a_users_loss_needs_no_epochs(tmp_path: Path) -> None:
    model = TinyModel([], [])
    model.decode_head.losses.append(FeatureLoss())
    runner = tiny_runner(tmp_path, model, custom_hooks=HOOKS, epochs=2)
    runner.train()
    assert runner.epoch == 2
    assert model.decode_head.losses[0].features.shape[0] > 0


def test_training_again_after_an_error_feeds_the_features_once() -> None:
    net = TinyModel([balanced(1)], [])
    runner = SimpleNamespace(model=net, max_iters=8, train_dataloader=[0] * 4)
    hook = ClassifierFeatureHook()
    for _ in range(2):  # an error in training leaves out `after_train`
        hook.before_train(runner)
        assert len(net.decode_head.fc._forward_pre_hooks) == 1
    hook.after_train(runner)
    assert not net.decode_head.fc._forward_pre_hooks


def seg_model(align_corners: bool) -> tuple[Any, Any]:
    """Return a small EncoderDecoder and a batch for it; outputs are resized from 4x4 to 16x16."""
    head = dict(type="FCNHead", num_convs=1, num_classes=4, dropout_ratio=0, align_corners=align_corners)
    head["loss_decode"] = balanced()
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = SEG_MODELS.build(
            dict(
                type="EncoderDecoder",
                data_preprocessor=dict(type="SegDataPreProcessor"),
                backbone=dict(type="ResNet", depth=18, base_channels=4, num_stages=2, out_indices=(0, 1),
                              strides=(1, 2), dilations=(1, 1)),
                decode_head=dict(head, in_channels=8, channels=6, in_index=1),
                auxiliary_head=dict(head, in_channels=4, channels=3, in_index=0),
            )
        )  # fmt: skip
    samples = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 4, (1, 16, 16), generator=generator)
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
        samples[-1].set_metainfo({"img_shape": (16, 16), "ori_shape": (16, 16)})
    return model, (torch.rand(2, 3, 16, 16), samples)


def cls_model() -> tuple[Any, Any]:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = CLS_MODELS.build(
            dict(
                type="ImageClassifier",
                backbone=dict(type="ResNet_CIFAR", depth=18, base_channels=8, stem_channels=8),
                neck=dict(type="GlobalAveragePooling"),
                head=dict(type="LinearClsHead", num_classes=4, in_channels=64, loss=balanced()),
            )
        )
    return model, (torch.rand(2, 3, 16, 16), [DataSample().set_gt_label(k) for k in (0, 3)])


def told(model: Any) -> Any:
    for module in model.modules():
        if hasattr(module, "set_class_counts"):
            module.set_class_counts([40, 30, 20, 10])
    return model.train()


@pytest.mark.parametrize("align_corners", [False, True])
def test_mmsegs_heads(align_corners: bool) -> None:
    model, (images, samples) = seg_model(align_corners)
    handles = feed_features(told(model))
    assert len(handles) == 2
    reads: dict[str, Any] = {}
    for name in ("decode_head", "auxiliary_head"):
        layer = getattr(model, name).conv_seg
        layer.register_forward_hook(lambda m, i, o, name=name: reads.update({name: (i[0], o)}))
    losses = model(images, samples, mode="loss")
    target = torch.cat([sample.gt_sem_seg.data for sample in samples])
    for name, key in (("decode_head", "decode"), ("auxiliary_head", "aux")):
        features, output = reads[name]
        assert features.shape[-1] < 16
        big = dict(size=(16, 16), mode="bilinear", align_corners=align_corners)
        norm = F.interpolate(features.abs().sum(1, keepdim=True), **big)[:, 0]
        loss = getattr(model, name).loss_decode
        expected = ib(loss, F.interpolate(output, **big), target, norm)
        torch.testing.assert_close(losses[f"{key}.loss_influence_balanced"], expected, rtol=1e-4, atol=0)
    sum(value for key, value in losses.items() if "loss" in key).backward()
    assert model.backbone.conv1.weight.grad.isfinite().all()
    model.eval()
    with torch.no_grad():
        model(images, mode="tensor")
    assert model.decode_head.loss_decode._norm is None


def test_mmpretrains_linear_head() -> None:
    model, (images, samples) = cls_model()
    feed_features(told(model))
    reads: list[Any] = []
    model.head.fc.register_forward_hook(lambda m, i, o: reads.append((i[0], o)))
    value = model(images, samples, mode="loss")["loss"]
    ((features, output),) = reads
    expected = ib(model.head.loss_module, output, torch.tensor([0, 3]), features.abs().sum(1))
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


def test_half_precision() -> None:
    model, (images, samples) = seg_model(False)
    feed_features(told(model))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, samples, mode="loss")
    total, _ = model.parse_losses(losses)
    assert total.dtype == torch.float32
    optimizer.update_params(total)
    assert total.isfinite()


def test_compiled_models_hand_them_over_too() -> None:
    torch._dynamo.reset()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)
            self.loss = InfluenceBalancedLoss(class_counts=[4, 3, 2, 1])

        def forward(self, inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.loss(self.fc(inputs), target)

    model, inputs, target = Model(), torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0])
    feed_features(model)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(inputs, target), model(inputs, target))


def test_a_head_without_such_a_classifier_is_named() -> None:
    class Head(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleDict({"scores": nn.Linear(3, 4)})
            self.loss_module = InfluenceBalancedLoss(class_counts=[4, 3, 2, 1])

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    model = nn.ModuleDict({"head": Head()})
    with pytest.raises(ValueError, match=r"the loss head\.loss_module, got None.*classifier="):
        feed_features(model)
    with pytest.raises(ValueError, match=r"got 'conv_seg', 'fc'.*classifier="):
        feed_features(model, ("conv_seg", "fc"))
    (handle,) = feed_features(model, ClassifierFeatureHook("layers.scores").classifier)
    model["head"].layers["scores"](torch.ones(2, 3))
    assert model["head"].loss_module._norm.tolist() == [3, 3]
    handle.remove()
