"""JPUHead against the pipeline it stands for: mmseg's backbone, JPU neck and context head."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner.checkpoint import _load_checkpoint_to_model

pytest.importorskip("mmseg")

import mmseg.models
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS as HOST_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmseol.registry import MODELS
from mmseol.segmentation.jpu_head import JPUFCNHead, JPUHead, JPUPSPHead

K, WIDTH, STAGES = 5, 8, (16, 32, 64)
STOCK_RUN = "4xb2-80k_cityscapes-512x1024.py"
CONTEXTS = ["fcn", "psp", "aspp", "enc"]
STOCK = {
    "fcn": dict(type="FCNHead", num_convs=1, concat_input=False),
    "psp": dict(type="PSPHead", pool_scales=(1, 2, 3, 6)),
    "aspp": dict(type="ASPPHead", dilations=(1, 12, 24, 36)),
    "enc": dict(type="EncHead", num_codes=32, use_se_loss=True, add_lateral=False),
}


pytestmark = pytest.mark.usefixtures("mmseg_scope")


def jpu_head(context: str = "fcn", **kwargs: Any) -> JPUHead:
    cfg = dict(in_channels=STAGES, in_index=(0, 1, 2), jpu_channels=WIDTH, channels=WIDTH, num_classes=K)
    return MODELS.build(dict(type="mmseol.JPUHead", context=context, **{**cfg, **kwargs}))


def stock(context: str, **kwargs: Any) -> tuple[nn.Module, BaseDecodeHead]:
    neck = dict(type="mmseg.JPU", in_channels=STAGES, mid_channels=WIDTH)
    head = dict(channels=WIDTH, num_classes=K, norm_cfg=dict(type="BN"), in_channels=4 * WIDTH, in_index=2)
    if context == "enc":
        head.update(in_channels=[*STAGES[:2], 4 * WIDTH], in_index=(0, 1, 2))
    return HOST_MODELS.build(neck), HOST_MODELS.build({**STOCK[context], **head, **kwargs})


def features(n: int = 2, size: int = 8) -> list[Tensor]:
    return [torch.randn(n, c, size >> i, size >> i) for i, c in enumerate(STAGES)]


def samples(n: int = 2, size: int = 64, void: int = 255) -> list[SegDataSample]:
    out = []
    for i in range(n):
        label = torch.randint(0, K - 1, (1, size, size))
        label[:, : size // 4] = void
        meta = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size))
        out.append(SegDataSample(metainfo=meta))
        out[i].gt_sem_seg = PixelData(data=label)
    return out


def disturb(module: nn.Module) -> nn.Module:
    """Give batch norms other statistics and affine parameters than those they start with."""
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            for t in (m.running_mean, m.bias.data):
                t.normal_(0, 0.2)
            for t in (m.running_var, m.weight.data):
                t.uniform_(0.5, 1.5)
    return module


def segmentor(decode_head: dict, depth: int = 18, stride: int = 32, **kwargs: Any) -> nn.Module:
    strides, dilations = ((1, 2, 2, 2), (1, 1, 1, 1)) if stride == 32 else ((1, 2, 1, 1), (1, 1, 2, 4))
    base = 8 * (4 if depth >= 50 else 1)
    backbone = dict(
        type="ResNetV1c",
        depth=depth,
        base_channels=8,
        stem_channels=8,
        strides=strides,
        dilations=dilations,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="BN"),
    )
    head = dict(channels=WIDTH, num_classes=K, norm_cfg=dict(type="BN"))
    if "type" not in decode_head:
        stages = [2 * base, 4 * base, 8 * base]
        head |= dict(type="mmseol.JPUHead", in_channels=stages, in_index=[0, 1, 2], jpu_channels=WIDTH)
    aux = dict(
        type="FCNHead",
        in_channels=4 * base,
        in_index=1,
        channels=4,
        num_convs=1,
        concat_input=False,
        num_classes=K,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss", loss_weight=0.4),
    )
    cfg = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor"),
        backbone=backbone,
        decode_head={**head, **decode_head},
        auxiliary_head=aux,
        test_cfg=dict(mode="whole"),
    )
    return HOST_MODELS.build(ConfigDict({**cfg, **kwargs}))


@pytest.mark.parametrize("context", CONTEXTS)
def test_is_the_stock_pipeline_under_the_same_weight_names(context: str) -> None:
    neck, head = (disturb(m).eval() for m in stock(context))
    ours = jpu_head(context).eval()
    stock_keys = {f"jpu.{k}" for k in neck.state_dict()} | set(head.state_dict())
    assert set(ours.state_dict()) == stock_keys
    ours.jpu.load_state_dict(neck.state_dict())
    missing = ours.load_state_dict(head.state_dict(), strict=False).missing_keys
    assert all(k.startswith("jpu.") for k in missing)

    x = features()
    torch.testing.assert_close(ours.jpu(x), neck(x), atol=0, rtol=0)
    torch.testing.assert_close(ours(x), head(neck(x)), atol=1e-6, rtol=0)
    metas = [s.metainfo for s in samples()]
    torch.testing.assert_close(
        ours.predict(x, metas, {}), head.predict(neck(x), metas, {}), atol=1e-6, rtol=0
    )
    torch.manual_seed(1)
    labels = samples()
    expected = head.loss(neck(x), labels, {})
    got = ours.loss(x, labels, {})
    assert got.keys() == expected.keys()
    assert ("loss_se" in got) == (context == "enc")
    for key in got:
        torch.testing.assert_close(got[key], expected[key], atol=1e-6, rtol=1e-6)


def test_stock_checkpoint_loads_with_one_renaming() -> None:
    neck = dict(type="JPU", in_channels=STAGES, mid_channels=WIDTH)
    old = disturb(segmentor(STOCK["psp"] | dict(in_channels=4 * WIDTH, in_index=2), neck=neck)).eval()
    new, again = (segmentor(dict(context="psp")).eval() for _ in range(2))
    renamed = {re.sub(r"^neck\.", "decode_head.jpu.", k): v for k, v in old.state_dict().items()}
    new.load_state_dict(renamed, strict=True)
    revise = [(r"^neck\.", "decode_head.jpu.")]
    _load_checkpoint_to_model(again, dict(state_dict=old.state_dict()), revise_keys=revise, strict=True)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(new(image), old(image), atol=1e-6, rtol=0)
    torch.testing.assert_close(again(image), old(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("context", ["psp", "aspp", "enc"])
def test_defaults_are_those_of_mmsegs_fastfcn_configs(context: str) -> None:
    path = Path(mmseg.__file__).parent / f".mim/configs/fastfcn/fastfcn_r50-d32_jpu_{context}_{STOCK_RUN}"
    if not path.is_file():
        pytest.skip(f"this mmseg was installed without its configs: no {path}")
    old = Config.fromfile(path).model
    new = copy.deepcopy(old)
    old.pretrained = new.pretrained = None
    del new["neck"]
    kept = {k: new.decode_head[k] for k in ("channels", "dropout_ratio", "num_classes", "norm_cfg")}
    stages = dict(in_channels=[512, 1024, 2048], in_index=[0, 1, 2])
    new.decode_head = ConfigDict(type="mmseol.JPUHead", context=context, **stages, **kept)
    with torch.device("meta"):
        expected, ours = (HOST_MODELS.build(cfg).state_dict() for cfg in (old, new))
    shapes = {re.sub(r"^neck\.", "decode_head.jpu.", k): v.shape for k, v in expected.items()}
    assert {k: v.shape for k, v in ours.items()} == shapes


@pytest.mark.parametrize("context", CONTEXTS)
def test_feature_is_what_the_classifier_sees(context: str) -> None:
    head = jpu_head(context, channels=12, context_cfg={}).eval()
    x = features()
    feature = head._forward_feature(x)
    assert feature.shape == (2, 12, 8, 8)
    output = head(x)[0] if context == "enc" else head(x)
    assert output.shape == (2, K, 8, 8)
    torch.testing.assert_close(output, head.cls_seg(feature))
    k_wide = [n for n, m in head.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels == K]
    assert k_wide == ["conv_seg"]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "mmseol.OutlyingMSELoss"])
def test_trains_and_predicts(context: str, loss: str) -> None:
    counts = {} if loss == "CrossEntropyLoss" else dict(class_counts=[50, 40, 30, 20, 10])
    model = segmentor(dict(context=context, loss_decode=dict(type=loss, **counts)))
    model.init_weights()
    batch = dict(inputs=torch.randn(2, 3, 64, 64), data_samples=samples())
    total, log = model.parse_losses(model(**batch, mode="loss"))
    assert torch.isfinite(total)
    assert ("decode.loss_se" in log) == (context == "enc")
    total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    assert all(p.grad.abs().sum() > 0 for p in model.decode_head.jpu.conv_layers[0].parameters())
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    model.eval()
    with torch.no_grad():
        results = model(**batch, mode="predict")
    assert [r.pred_sem_seg.shape for r in results] == [(64, 64)] * 2
    assert results[0].seg_logits.data.shape == (K, 64, 64)
    assert torch.equal(results[0].seg_logits.data.argmax(0), results[0].pred_sem_seg.data[0])


@pytest.mark.parametrize(("depth", "stride"), [(50, 32), (18, 8)])
def test_backbones(depth: int, stride: int) -> None:
    model = segmentor(dict(context="psp"), depth=depth, stride=stride).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = model.extract_feat(image)
        assert maps[-1].shape[-1] == 64 // stride
        assert model(image).shape == (1, K, 8, 8)


def test_config_file_with_lists(tmp_path: Any) -> None:
    path = tmp_path / "head.json"
    Config(
        dict(
            head=dict(
                type="mmseol.JPUHead",
                in_channels=(9, 16, 32, 64)[1:],
                in_index=(1, 2, 3),
                jpu_channels=WIDTH,
                jpu_dilations=(1, 2),
                context="aspp",
                context_cfg=dict(dilations=(1, 3)),
                channels=WIDTH,
                num_classes=K,
            )
        )
    ).dump(path)
    cfg = Config.fromfile(path).head
    assert isinstance(cfg.in_channels, list)
    head = MODELS.build(cfg).eval()
    assert (head.in_channels, head.in_index) == ([16, 32, 64], [1, 2, 3])
    assert head.input_transform == "multiple_select"
    assert head.jpu.dilations == (1, 2)
    assert len(head.aspp_modules) == 2
    assert head([torch.zeros(1), *features()]).shape == (2, K, 8, 8)


@pytest.mark.parametrize(
    ("norm_cfg", "expected"),
    [
        (None, nn.BatchNorm2d),
        (dict(type="GN", num_groups=2), nn.BatchNorm2d),
        (dict(type="BN", eps=1e-3), nn.BatchNorm2d),
        (dict(type="SyncBN", requires_grad=True), nn.SyncBatchNorm),
    ],
)
def test_jpu_has_batch_norm_whatever_the_heads_norm(norm_cfg: dict | None, expected: type) -> None:
    head = jpu_head("psp", norm_cfg=norm_cfg)
    norms = [m for n, m in head.jpu.named_modules() if n.endswith(".bn")]
    assert norms
    assert all(isinstance(m, expected) for m in norms)
    assert set(head.jpu.state_dict()) == set(stock("psp")[0].state_dict())
    assert norms[0].eps == (norm_cfg or {}).get("eps", 1e-5)
    assert any(isinstance(m, nn.GroupNorm) for m in head.modules()) == ("GN" in str(norm_cfg))


def test_align_corners_reaches_jpu_and_context() -> None:
    head = jpu_head("psp", align_corners=True)
    assert head.align_corners
    assert head.jpu.align_corners
    assert head.psp_modules.align_corners


def test_loss_list_and_sampler() -> None:
    losses = [
        dict(type="CrossEntropyLoss"),
        dict(type="CrossEntropyLoss", loss_weight=2.0, loss_name="loss_b"),
    ]
    head = jpu_head("enc", loss_decode=losses, sampler=dict(type="OHEMPixelSampler", min_kept=50)).train()
    log = head.loss(features(), samples(), {})
    assert set(log) == {"loss_ce", "loss_b", "acc_seg", "loss_se"}
    torch.testing.assert_close(log["loss_b"], 2 * log["loss_ce"])
    everything = jpu_head("enc", loss_decode=losses)
    everything.load_state_dict(head.state_dict())
    kept = 2 * 50 / (2 * 64 * 64)
    head.eval(), everything.eval()
    x, labels = features(), samples()
    hard, whole = (h.loss(x, labels, {})["loss_ce"].item() for h in (head, everything))
    assert 0 < hard < 3 * kept * whole


def test_one_output_channel_is_left_to_mmseg() -> None:
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True)
    head = jpu_head(num_classes=2, out_channels=1, threshold=0.4, loss_decode=loss)
    assert (head.out_channels, head.num_classes, head.threshold) == (1, 2, 0.4)
    assert head(features()).shape == (2, 1, 8, 8)


def test_enc_options() -> None:
    lateral = jpu_head("enc", context_cfg=dict(add_lateral=True, num_codes=4)).eval()
    neck, head = (disturb(m).eval() for m in stock("enc", add_lateral=True, num_codes=4))
    lateral.load_state_dict({**head.state_dict(), **{f"jpu.{k}": v for k, v in neck.state_dict().items()}})
    x = features()
    torch.testing.assert_close(lateral(x), head(neck(x)), atol=1e-6, rtol=0)

    plain = jpu_head("enc", context_cfg=dict(use_se_loss=False))
    assert not hasattr(plain, "se_layer")
    log = plain.loss(x, samples(), {})
    assert set(log) == {"loss_ce", "acc_seg"}
    assert plain.predict(x, [s.metainfo for s in samples()], {}).shape == (2, K, 64, 64)


@pytest.mark.parametrize("void", [255, 0, 2])
def test_void_is_no_class_of_the_se_loss(void: int) -> None:
    head = jpu_head("enc", ignore_index=void).eval()
    labels = samples(void=void)
    expected = torch.zeros(2, K)
    for i, s in enumerate(labels):
        expected[i, [k for k in s.gt_sem_seg.data.unique().tolist() if k != void]] = 1
    seen = {}
    head.loss_se_decode.register_forward_hook(lambda m, args, out: seen.update(pred=args[0], target=args[1]))
    log = head.loss(features(), labels, {})
    torch.testing.assert_close(seen["target"].float(), expected)
    bce = nn.functional.binary_cross_entropy_with_logits(seen["pred"], expected)
    torch.testing.assert_close(log["loss_se"], 0.2 * bce)


def test_every_label_void_gives_no_nan() -> None:
    labels = samples()
    for s in labels:
        s.gt_sem_seg.data.fill_(255)
    log = jpu_head("enc").loss(features(), labels, {})
    assert all(torch.isfinite(v).all() for k, v in log.items() if "loss" in k)


def test_copies_and_subclasses() -> None:
    head = jpu_head("psp").eval()
    assert isinstance(head, JPUHead)
    assert type(copy.deepcopy(head)) is JPUPSPHead
    x = features()
    torch.testing.assert_close(copy.deepcopy(head)(x), head(x))
    kwargs = dict(in_channels=STAGES, in_index=(0, 1, 2), jpu_channels=WIDTH, channels=WIDTH, num_classes=K)
    default = JPUHead(**kwargs)
    assert type(default) is JPUFCNHead
    assert default.context == "fcn"
    assert type(JPUPSPHead(**kwargs)) is JPUPSPHead


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (dict(context="ocr"), r"`context` must be one of \['aspp', 'enc', 'fcn', 'psp'\], got 'ocr'"),
        (dict(in_channels=[16, 32]), r"`in_channels` must name 3 stages.*got 2: \[16, 32\]"),
        (dict(in_channels=64), r"`in_channels` must be a list of positive integers, got 64"),
        (dict(in_index=[0, 1, 2, 3]), r"`in_index` must name 3 stages.*got 4"),
        (dict(in_index=-1), r"`in_index` must be a list of integers, got -1"),
        (dict(jpu_channels=0), r"`jpu_channels` must be .*positive"),
        (dict(jpu_dilations=[]), r"`jpu_dilations` must be .*positive integers, got \[\]"),
        (
            dict(input_transform="resize_concat"),
            r"`input_transform` must be 'multiple_select', got 'resize_concat'",
        ),
        (dict(context_cfg=dict(num_codes=3)), r"`context_cfg` .* 'fcn', .*got \['num_codes'\]"),
        (dict(num_convs=2), r"`context_cfg` .* 'fcn', .*got \['num_convs'\] outside"),
        (dict(context_cfg=dict(num_convs=0)), r"`channels` must be 32.*got 8"),
        (dict(context="psp", context_cfg=dict(pool_scales=[0])), r"`pool_scales` must be .*got \[0\]"),
    ],
)
def test_errors_name_argument_value_and_remedy(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        jpu_head(**kwargs)


def test_subclass_refuses_another_context() -> None:
    with pytest.raises(ValueError, match=r"`context` of JPUPSPHead must be 'psp', got 'enc'"):
        JPUPSPHead(STAGES, (0, 1, 2), WIDTH, "enc", num_classes=K)
