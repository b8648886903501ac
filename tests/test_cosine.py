"""Cosine classifiers against torch, in the heads of both hosts and in ours."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg")
pytest.importorskip("mmpretrain")

import mmpretrain.models
import mmpretrain.registry
import mmseg.registry
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.classifiers.cosine import CosineConv1d, CosineConv2d, CosineLinear, cosine_classifier_head
from mmseol.registry import MODELS

K, COUNTS = 5, [50, 40, 300, 20, 10]
STAGES = (16, 32, 64)
LDAM = dict(type="mmseol.LDAMLoss", class_counts=COUNTS)
ONE = dict(in_channels=64, in_index=2, channels=12)
MANY = dict(in_channels=STAGES, in_index=(0, 1, 2), channels=12)
SEG_HEADS: dict[str, dict[str, Any]] = {
    "FCNHead": dict(ONE, num_convs=1),
    "PSPHead": ONE,
    "UPerHead": dict(MANY, pool_scales=(1, 2)),
    "DepthwiseSeparableASPPHead": dict(ONE, dilations=(1, 2), c1_in_channels=16, c1_channels=4),
    "DAHead": dict(ONE, pam_channels=4),
    "mmseol.JPUHead": dict(MANY, jpu_channels=8, context="enc"),
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _seg() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture
def _cls() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


def wrapped(head: dict, **kwargs: Any) -> ConfigDict:
    return ConfigDict(type="mmseol.CosineClassifierHead", head=head, **kwargs)


def seg_head(kind: str, wrap: bool = True, **kwargs: Any) -> nn.Module:
    norm = dict(type="BN")
    cfg = dict(type=kind, num_classes=K, norm_cfg=norm, loss_decode=LDAM, **SEG_HEADS[kind], **kwargs)
    return mmseg.registry.MODELS.build(wrapped(cfg) if wrap else ConfigDict(cfg))


def features() -> list[Tensor]:
    return [torch.randn(2, c, 16 >> i, 16 >> i) for i, c in enumerate(STAGES)]


LAYERS = [
    (CosineLinear, (7, 6)),
    (CosineLinear, (2, 3, 6)),
    (CosineConv1d, (2, 6, 4)),
    (CosineConv2d, (2, 6, 3, 4)),
]


@pytest.mark.parametrize(("cls", "shape"), LAYERS)
def test_outputs_are_torchs_cosine_similarity(cls: type, shape: tuple[int, ...]) -> None:
    layer = cls(6, K, dtype=torch.float64)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.ones(K, dtype=torch.float64))
    layer.weight.data *= torch.tensor([0.01, 3, 1, 1, 100]).view(-1, *[1] * (layer.weight.dim() - 1))
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    dim = 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
    rows = [
        F.cosine_similarity(x.movedim(dim, -1), layer.weight[k].flatten(), dim=-1, eps=1e-12)
        for k in range(K)
    ]
    expected = torch.stack(rows, dim)
    outputs = layer(x)
    torch.testing.assert_close(outputs, expected)
    gradients = [torch.autograd.grad(out.pow(3).sum(), (x, layer.weight)) for out in (outputs, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize(("cls", "shape"), LAYERS)
def test_features_of_length_zero_and_half_precision(cls: type, shape: tuple[int, ...]) -> None:
    layer = cls(6, K)
    zeros = torch.zeros(shape, requires_grad=True)
    outputs = layer(zeros)
    outputs.sum().backward()
    assert outputs.eq(0).all()
    assert zeros.grad.eq(0).all()
    x = (torch.rand(shape) - 0.5) * 1.3e5  # entries within float16, a norm beyond it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = layer(x)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, layer(x))
    half = copy.deepcopy(layer).half()(x.half())
    torch.testing.assert_close(half, layer(x), atol=2e-3, rtol=0)


@pytest.mark.usefixtures("_seg")
@pytest.mark.parametrize("kind", SEG_HEADS)
def test_heads_of_mmseg(kind: str) -> None:
    stock, head = seg_head(kind, wrap=False), seg_head(kind)
    assert type(head) is type(stock)
    classifiers = {name for name, m in head.named_modules() if isinstance(m, CosineConv2d)}
    assert classifiers == ({"conv_seg"} if kind != "DAHead" else {"conv_seg", "pam_conv_seg", "cam_conv_seg"})
    assert head.state_dict().keys() == stock.state_dict().keys() - {f"{name}.bias" for name in classifiers}
    missing = head.load_state_dict(stock.state_dict(), strict=False)
    assert (missing.missing_keys, set(missing.unexpected_keys)) == ([], {f"{n}.bias" for n in classifiers})

    head.init_weights()
    torch.testing.assert_close(head.conv_seg.weight.flatten(1).norm(dim=1), torch.ones(K))
    seen: dict[str, Tensor] = {}
    head.conv_seg.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    x = features()
    outputs = head.eval()(x)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    assert outputs.abs().max() <= 1 + 1e-6
    direct = F.conv2d(F.normalize(seen["x"], dim=1), F.normalize(head.conv_seg.weight, dim=1))
    torch.testing.assert_close(seen["out"], direct)
    head.conv_seg._forward_hooks.clear()
    buffer = io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    for again in (copy.deepcopy(head), torch.load(buffer, weights_only=False)):
        result = again(x)
        torch.testing.assert_close(result[0] if isinstance(result, tuple) else result, outputs)


@pytest.mark.usefixtures("_seg")
def test_a_head_of_several_outputs_keeps_its_boundary() -> None:
    cfg = dict(type="PIDHead", in_channels=16, channels=8, num_classes=K, loss_decode=[LDAM] * 4)
    head = MODELS.build(wrapped(cfg))
    assert isinstance(head.p_cls_seg, CosineConv2d)
    assert head.d_cls_seg.out_channels == 1
    assert not isinstance(head.d_cls_seg, CosineConv2d)


def cls_head(kind: str = "mmseol.CalibratedLinearClsHead", **kwargs: Any) -> nn.Module:
    cfg = dict(type=kind, num_classes=K, in_channels=6, loss=LDAM)
    return mmpretrain.registry.MODELS.build(wrapped(cfg, **kwargs))


@pytest.mark.usefixtures("_cls")
@pytest.mark.parametrize("kind", ["LinearClsHead", "mmseol.CalibratedLinearClsHead"])
def test_heads_of_mmpretrain(kind: str) -> None:
    head = cls_head(kind)
    head.init_weights()
    assert {"fc.weight"} == {name for name, _ in head.named_parameters()}
    torch.testing.assert_close(head.fc.weight.norm(dim=1), torch.ones(K))
    x = torch.randn(8, 6)
    cosines = F.cosine_similarity(x[:, None], head.fc.weight[None], dim=-1)
    torch.testing.assert_close(head((x,)), cosines)
    samples = [mmpretrain.structures.DataSample().set_gt_label(i % K) for i in range(8)]
    loss = head.loss((x,), samples)["loss"]
    margins = head.loss_module.margins.float()[torch.arange(8) % K]
    shifted = cosines - margins[:, None] * F.one_hot(torch.arange(8) % K, K)
    torch.testing.assert_close(loss, F.cross_entropy(30 * shifted, torch.arange(8) % K))

    results = head.predict((x,), samples)
    scores = torch.stack([sample.pred_score for sample in results]).float()
    calibrated = kind.startswith("mmseol")
    torch.testing.assert_close(scores, (cosines * (30 if calibrated else 1)).softmax(1))
    assert torch.equal(torch.cat([sample.pred_label for sample in results]), cosines.argmax(1))
    if calibrated:
        assert head.temperature.item() == 1 / 30


@pytest.mark.usefixtures("_cls")
def test_classifiers_by_name() -> None:
    head = cls_head("VisionTransformerClsHead")
    head.init_weights()
    assert isinstance(head.layers.head, CosineLinear)
    token = torch.randn(2, 6)
    assert head(([None, token],)).abs().max() <= 1
    named = cls_head("VisionTransformerClsHead", classifier="layers.head")
    assert isinstance(named.layers.head, CosineLinear)
    unknown = nn.Module()
    unknown.num_classes, unknown.scores = K, nn.Linear(6, K)
    with pytest.raises(ValueError, match=r"`head` must have a classifier.*num_classes=5.*'scores'.*name it"):
        cosine_classifier_head(unknown)
    with pytest.raises(ValueError, match="`classifier` must name layers of LinearClsHead, got 'head'"):
        cls_head("LinearClsHead", classifier="head")
    with pytest.raises(ValueError, match=r"must be linear or a convolution.*LinearClsHead.loss_module"):
        cls_head("LinearClsHead", classifier=["loss_module"])
    with pytest.raises(TypeError, match=r"`head` must be the config of a head, .*got 'FCNHead'"):
        cosine_classifier_head("FCNHead")  # type: ignore[arg-type]


def test_classifier_of_points() -> None:
    head = nn.Module()  # as PointHead's, which needs compiled operators
    head.num_classes, head.fc_seg = K, nn.Conv1d(4, K, 1)
    assert isinstance(cosine_classifier_head(head).fc_seg, CosineConv1d)


@pytest.mark.parametrize(("cls", "plain"), [(CosineLinear, nn.Linear), (CosineConv1d, nn.Conv1d)])
def test_weights_start_as_torchs_divided_by_their_norm(cls: Any, plain: Any) -> None:
    torch.manual_seed(3)
    weight = plain(6, K, **({} if plain is nn.Linear else {"kernel_size": 1}), bias=False).weight
    torch.manual_seed(3)
    torch.testing.assert_close(cls(6, K).weight, F.normalize(weight, dim=1))
    assert cls(6, K, device="meta").weight.device.type == "meta"


def test_a_head_that_does_not_say_how_many_classes_there_are_is_refused() -> None:
    head = nn.ModuleDict({"fc": nn.Linear(6, K)})
    with pytest.raises(ValueError, match=r"must have a classifier of num_classes=None .*\['fc'\] is it"):
        cosine_classifier_head(head)


def test_wide_kernels_are_refused_and_a_built_head_is_taken() -> None:
    head = nn.Module()
    head.num_classes = K
    for settings in (dict(kernel_size=3), dict(kernel_size=1, stride=2), dict(kernel_size=1, groups=K)):
        head.conv_seg = nn.Conv2d(K, K, **settings)
        with pytest.raises(ValueError, match=r"convolution of kernel 1 and stride 1, got Module\.conv_seg"):
            cosine_classifier_head(head)
    head.conv_seg = nn.Conv2d(4, K, 1, dtype=torch.float64).eval()
    weight = head.conv_seg.weight
    head = cosine_classifier_head(head)
    torch.testing.assert_close(head.conv_seg.weight, weight, rtol=0, atol=0)
    assert not head.conv_seg.training
