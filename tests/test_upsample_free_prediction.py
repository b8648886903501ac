"""Label maps without upsampled outputs against mmseg's own, pixel for pixel."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from helpers.seg_heads import STAGES, K, build, segmentor
from mmengine.config import ConfigDict
from mmengine.evaluator import DumpResults, Evaluator
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.metrics import SegClassBalanceMetric
from mmseol.segmentation import (
    SegScoreTTAModel,
    predict_upsample_free,
    restore_prediction,
    upsample_free_prediction,
)

pytestmark = pytest.mark.usefixtures("mmseg_scope")


class Outputs(BaseDecodeHead):
    """A head whose outputs are its inputs."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


class Backbone(nn.Module):
    """One convolution; ``change`` is applied to what it returns."""

    def __init__(self, classes: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, stride, stride, padding=stride // 2)
        self.change: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.conv(x))


def model_of(
    classes: int = 5,
    stride: int = 4,
    align_corners: bool = False,
    change: Any = None,
    test_cfg: Any = None,
) -> EncoderDecoder:
    """Return mmseg's segmentor with outputs of one convolution."""
    head = dict(
        type=Outputs,
        in_channels=1,
        channels=1,
        num_classes=max(classes, 2),
        out_channels=classes,
        align_corners=align_corners,
    )
    cfg = dict(
        type="EncoderDecoder",
        backbone=dict(type=Backbone, classes=classes, stride=stride),
        decode_head=head,
        test_cfg=test_cfg or dict(mode="whole"),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    model.backbone.change = change or nn.Identity()
    return model


def images(count: int, size: tuple[int, int], **meta: Any) -> tuple[Tensor, list[SegDataSample]]:
    """Return images with their samples; by default the original size is that of the images."""
    made = [SegDataSample(metainfo=dict(img_shape=size, ori_shape=size) | meta) for _ in range(count)]
    for sample in made:
        sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, *sample.ori_shape)))
    return torch.randn(count, 3, *size), made


@torch.no_grad()
def both(model: Any, x: Tensor, made: list[SegDataSample] | None) -> tuple[list, list]:
    """Return mmseg's results and ours."""
    expected = model.predict(x, copy.deepcopy(made))
    assert predict_upsample_free(model) == {"": None}
    return expected, model.predict(x, copy.deepcopy(made))


def assert_equal(got: list, expected: list) -> None:
    assert len(got) == len(expected)
    for ours, host in zip(got, expected, strict=True):
        assert set(ours.keys()) == set(host.keys())
        assert ours.pred_sem_seg.data.dtype == host.pred_sem_seg.data.dtype
        assert torch.equal(ours.pred_sem_seg.data, host.pred_sem_seg.data)
        torch.testing.assert_close(ours.seg_logits.data, host.seg_logits.data, rtol=0, atol=0, equal_nan=True)
        assert ours.seg_logits.shape == host.seg_logits.shape


def with_nan(outputs: Tensor) -> Tensor:
    """Return outputs with NaN and infinities, also the largest of all classes at a pixel."""
    outputs = outputs.clone()
    outputs[:, 1, 2:4] = torch.nan
    outputs[:, -1, 3:5, 1:3] = torch.nan
    outputs[:, 0, :2] = torch.inf
    outputs[:, :, -1, -1] = -torch.inf
    return outputs


CHANGES = {
    "as they are": None,
    "with ties": torch.round,
    "all equal": torch.zeros_like,
    "not finite": with_nan,
    "half precision": lambda outputs: outputs.bfloat16(),
    "channels last": lambda outputs: outputs.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whole_images(change: str) -> None:
    rng = np.random.default_rng(len(change))
    for _ in range(12):
        classes = int(rng.choice([2, 3, 4, 5, 6, 7, 9, 19, 37]))
        stride, count = int(rng.choice([1, 2, 3, 4, 8])), int(rng.integers(1, 3))
        size = (int(rng.integers(24, 170)), int(rng.integers(24, 170)))
        padding = [int(n) for n in rng.integers(0, 6, 4)] if rng.random() < 0.5 else [0] * 4
        inner = (size[0] - padding[2] - padding[3], size[1] - padding[0] - padding[1])
        meta: dict[str, Any] = {"padding_size": padding, "ori_shape": inner}
        if rng.random() < 0.5:
            meta["ori_shape"] = tuple(int(n) for n in rng.integers(9, 170, 2))
        if rng.random() < 0.5:
            meta |= {"flip": True, "flip_direction": str(rng.choice(["horizontal", "vertical"]))}
        if rng.random() < 0.3:
            meta["pad_shape"] = (*size, 3)
        if rng.random() < 0.3:
            meta["img_padding_size"] = meta.pop("padding_size")
        model = model_of(classes, stride, bool(rng.integers(2)), CHANGES[change])
        expected, got = both(model, *images(count, size, **meta))
        assert_equal(got, expected)
        if change == "with ties":
            top = expected[0].seg_logits.data.topk(2, dim=0).values
            assert (top[0] == top[1]).any()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("change", ["as they are", "with ties", "half precision"])
def test_sliding_windows(change: str, align_corners: bool) -> None:
    for size, crop, stride in (
        ((64, 90), (32, 48), (20, 33)),
        ((190, 150), (140, 120), (50, 30)),
        ((40, 40), (64, 64), (32, 32)),  # a window that is larger than the image
        ((70, 33), (33, 33), (33, 33)),
    ):
        test_cfg = dict(mode="slide", crop_size=crop, stride=stride)
        model = model_of(9, 4, align_corners, CHANGES[change], test_cfg)
        expected, got = both(model, *images(2, size, ori_shape=(51, 77)))
        assert_equal(got, expected)


@pytest.mark.parametrize("mode", [None, dict(mode="slide", crop_size=(32, 32), stride=(16, 16))])
def test_one_output_above_a_threshold(mode: dict[str, Any] | None) -> None:
    expected, got = both(model_of(1, test_cfg=mode), *images(2, (48, 56), ori_shape=(30, 31)))
    assert expected[0].pred_sem_seg.data.unique().numel() == 2
    assert_equal(got, expected)


def test_images_without_samples_and_more_than_256_classes() -> None:
    expected, got = both(model_of(5), torch.randn(2, 3, 40, 44), None)
    assert_equal(got, expected)
    expected, got = both(model_of(300), *images(1, (24, 24)))
    assert expected[0].pred_sem_seg.data.max() > 256
    assert_equal(got, expected)


def test_memory_is_that_of_few_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    resize = upsample_free_prediction.resize

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        made.append(resize(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(upsample_free_prediction, "resize", counting)
    model = model_of(75)
    predict_upsample_free(model)
    x, given = images(2, (160, 160))
    with torch.no_grad():
        model.predict(x, given)
    assert len(made) > 30
    assert max(outputs.numel() for outputs in made) < 2 * 160 * 160


def test_results_are_read_as_the_hosts() -> None:
    x, made = images(1, (40, 44), ori_shape=(33, 31))
    (expected,), (got,) = both(model_of(5), x, made)
    outputs = expected.seg_logits.data
    assert torch.equal(got.to_dict()["seg_logits"]["data"], outputs)
    assert torch.equal(got.to_dict()["seg_logits"].get("data"), outputs)
    assert torch.equal(got.cpu().seg_logits.data, outputs)
    assert torch.equal(got.seg_logits[3:9, 2:5].data, outputs[:, 3:9, 2:5])
    assert torch.equal(pickle.loads(pickle.dumps(got)).seg_logits.data, outputs)
    assert torch.equal(copy.deepcopy(got).seg_logits.data, outputs)
    with pytest.raises(KeyError):
        got.to_dict()["seg_logits"]["scores"]


def test_metrics(tmp_path: Any) -> None:
    meta = dict(classes=tuple("abcde"), palette=[[0, 0, 0]] * 5)
    scores = []
    model = model_of(5)
    x, made = images(2, (40, 44), ori_shape=(33, 31), img_path="a.png")
    for results in both(model, x, made):
        dump = DumpResults(str(tmp_path / f"{len(scores)}.pkl"))
        evaluator = Evaluator([IoUMetric(), SegClassBalanceMetric(prefix="balance"), dump])
        evaluator.dataset_meta = meta
        evaluator.process(results)
        scores.append(evaluator.evaluate(2))
    assert scores[0]["mIoU"] > 0
    assert scores[0] == scores[1]
    dumped = [pickle.loads((tmp_path / f"{n}.pkl").read_bytes()) for n in range(2)]
    torch.testing.assert_close(dumped[1][1]["seg_logits"], dumped[0][1]["seg_logits"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [SegTTAModel, SegScoreTTAModel])
def test_averages_of_views(kind: type[BaseTTAModel]) -> None:
    tta = kind(model_of(5))
    tta.module.data_preprocessor.forward = lambda data, training: data
    x, made = images(1, (40, 44), img_path="a.png")
    (flipped,) = copy.deepcopy(made)
    flipped.set_metainfo(dict(flip=True, flip_direction="horizontal"))
    larger = F.interpolate(x, (60, 66))
    data = dict(inputs=[x, x.flip(3), larger], data_samples=[made, [flipped], copy.deepcopy(made)])
    with torch.no_grad():
        expected = tta.test_step(copy.deepcopy(data))
        assert predict_upsample_free(tta) == {"module": None}
        got = tta.test_step(data)
    assert torch.equal(got[0].pred_sem_seg.data, expected[0].pred_sem_seg.data)
    torch.testing.assert_close(got[0].seg_logits.data, expected[0].seg_logits.data, rtol=0, atol=0)
    restore_prediction(tta)
    assert type(tta.module) is EncoderDecoder


def test_compiled_model() -> None:
    model = model_of(9)
    x, made = images(1, (140, 150))
    expected, _ = both(model, x, made)
    torch._dynamo.reset()
    with torch.no_grad():
        got = torch.compile(model, backend="eager")(x, copy.deepcopy(made), mode="predict")
    assert_equal(got, expected)


def test_cascade_of_heads() -> None:
    heads = [
        dict(type="FCNHead", in_channels=STAGES[2], in_index=2, num_convs=1),
        dict(type="OCRHead", in_channels=STAGES[2], in_index=2, ocr_channels=4),
    ]
    shared = dict(channels=8, num_classes=K, norm_cfg=dict(type="BN"))
    cfg = dict(
        type="CascadeEncoderDecoder",
        num_stages=2,
        backbone=dict(type="ResNetV1c", depth=18, base_channels=2, stem_channels=2),
        decode_head=[dict(shared, **head) for head in heads],
        test_cfg=dict(mode="whole"),
    )
    model = MODELS.build(ConfigDict(cfg)).eval()
    model.backbone = nn.Sequential()
    model.extract_feat = lambda x: [
        x.mean(1, keepdim=True)[:, :, ::4, ::4].repeat(1, c, 1, 1) for c in STAGES
    ]
    expected, got = both(model, *images(2, (40, 44), ori_shape=(33, 31)))
    assert_equal(got, expected)
    assert type(model.decode_head[0]).__mro__[0].__name__ == "FCNHead"


@pytest.mark.parametrize("kind", ["PSPHead", "EncHead", "DAHead", "mmseol.JPUHead"])
def test_heads(kind: str) -> None:
    special = {
        "EncHead": dict(in_channels=STAGES, in_index=(0, 1, 2), num_codes=4),
        "DAHead": dict(in_channels=16, in_index=2, pam_channels=4),
        "mmseol.JPUHead": dict(
            in_channels=STAGES, in_index=(0, 1, 2), jpu_channels=4, jpu_dilations=(1, 2), context="enc"
        ),
    }
    model = segmentor("ce").eval()
    model.auxiliary_head = None
    model.decode_head = build(kind, dict(type="CrossEntropyLoss"), **special.get(kind, {})).eval()
    model.extract_feat = lambda x: [
        F.avg_pool2d(x.mean(1, keepdim=True), 4 << i).repeat(1, c, 1, 1) for i, c in enumerate(STAGES)
    ]
    expected, got = both(model, *images(2, (64, 64), ori_shape=(33, 31)))
    assert_equal(got, expected)


class OwnWay(EncoderDecoder):
    """A segmentor that changes outputs at the size of the image."""

    def postprocess_result(self, seg_logits: Tensor, data_samples: Any = None) -> Any:
        return super().postprocess_result(seg_logits.softmax(1), data_samples)


class OwnResize(Outputs):
    """A head that resizes in another way."""

    def predict_by_feat(self, seg_logits: Tensor, batch_img_metas: list[dict]) -> Tensor:
        return F.interpolate(seg_logits, batch_img_metas[0]["img_shape"])


def test_what_resizes_in_its_own_way_keeps_the_hosts_path() -> None:
    model = model_of(5)
    model.__class__ = OwnWay
    assert predict_upsample_free(model) == {"": "OwnWay has its own `postprocess_result`"}
    assert type(model) is OwnWay
    model = model_of(5)
    model.decode_head.__class__ = OwnResize
    assert predict_upsample_free(model) == {"": "OwnResize has its own `predict_by_feat`"}
    assert type(model) is EncoderDecoder


def test_model_is_restored_and_a_second_call_changes_nothing() -> None:
    model = model_of(5)
    before = set(vars(model)), set(vars(model.decode_head))
    for _ in range(2):
        assert predict_upsample_free(model) == {"": None}
    assert isinstance(model, EncoderDecoder)
    assert type(model) is not EncoderDecoder
    restore_prediction(model)
    assert type(model) is EncoderDecoder
    assert type(model.decode_head) is Outputs
    assert (set(vars(model)), set(vars(model.decode_head))) == before
