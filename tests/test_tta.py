"""SegScoreTTAModel against mmseg's SegTTAModel, and the sliding window that averages raw outputs already."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("mmseg")

import mmseg.models  # noqa: F401  (registers the parts)
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor, SegTTAModel
from mmseg.registry import MODELS as HOST_MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from mmseol.registry import MODELS
from mmseol.segmentation.tta import SegScoreTTAModel

K, H, W = 3, 4, 6


pytestmark = pytest.mark.usefixtures("mmseg_scope")


class Echo(BaseModel):
    """Segmentor whose output is its input, followed by mmseg's own post-processing."""

    align_corners = False
    postprocess_result = BaseSegmentor.postprocess_result

    def __init__(self, out_channels: int = K) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.decode_head = torch.nn.Module()
        self.decode_head.threshold = 0.3

    def forward(self, inputs: Tensor, data_samples: list, mode: str = "tensor") -> list:
        return self.postprocess_result(torch.stack(list(inputs)), data_samples)


def sample(flip: str | None = None, size: tuple[int, int] = (H, W)) -> SegDataSample:
    meta = dict(ori_shape=size, img_path="a.png", flip=flip is not None, flip_direction=flip)
    out = SegDataSample(metainfo=meta)
    out.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
    return out


def views(outputs: list[Tensor], flips: list[str | None], size: tuple[int, int] = (H, W)) -> dict:
    return dict(inputs=[[o] for o in outputs], data_samples=[[sample(f, size)] for f in flips])


def test_average_of_outputs_is_not_the_vote() -> None:
    outputs = [torch.zeros(K, H, W) for _ in range(3)]
    outputs[0][1] = 90.0  # one view has a large output for class 1, two prefer class 0 by little
    outputs[1][0] = outputs[2][0] = 20.0
    ours, host = SegScoreTTAModel(Echo()), SegTTAModel(Echo())
    assert host.test_step(views(outputs, [None] * 3))[0].pred_sem_seg.data.unique().tolist() == [0]
    merged = ours.test_step(views(outputs, [None] * 3))[0]
    assert merged.pred_sem_seg.data.unique().tolist() == [1]
    torch.testing.assert_close(merged.seg_logits.data, torch.stack(outputs).mean(0))


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_flipped_view_comes_back(direction: str) -> None:
    output = torch.randn(K, H, W)
    dim = {"horizontal": 2, "vertical": 1}[direction]
    merged = SegScoreTTAModel(Echo()).test_step(views([output, output.flip(dim)], [None, direction]))[0]
    torch.testing.assert_close(merged.seg_logits.data, output)
    assert torch.equal(merged.pred_sem_seg.data[0], output.argmax(0))


def test_scaled_view_is_resized_before_the_mean() -> None:
    small, large = torch.randn(K, H, W), torch.randn(K, 2 * H, 2 * W)
    merged = SegScoreTTAModel(Echo()).test_step(views([small, large], [None, None]))[0]
    resized = torch.nn.functional.interpolate(large[None], (H, W), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(merged.seg_logits.data, (small + resized) / 2)


def test_result_has_the_hosts_structure() -> None:
    outputs = [torch.randn(2, K, H, W), torch.randn(2, K, H, W)]
    results = []
    for tta in (SegTTAModel(Echo()), SegScoreTTAModel(Echo())):
        batch = dict(inputs=outputs, data_samples=[[sample(), sample()], [sample(), sample()]])
        results.append(tta.test_step(batch))
    for host, ours in zip(*results, strict=True):
        assert set(ours.keys()) == set(host.keys()) == {"gt_sem_seg", "seg_logits", "pred_sem_seg"}
        for key in set(ours.keys()):
            assert ours.get(key).data.shape == host.get(key).data.shape
            assert ours.get(key).data.dtype == host.get(key).data.dtype
        assert ours.img_path == host.img_path == "a.png"


def test_low_precision_does_not_overflow() -> None:
    outputs = [torch.full((K, H, W), 6e4, dtype=torch.float16)] * 3
    data = [sample() for _ in outputs]
    for view, output in zip(data, outputs, strict=True):
        view.set_data(dict(seg_logits=PixelData(data=output)))
    merged = SegScoreTTAModel(Echo()).merge_preds([data])[0]
    assert torch.isfinite(merged.seg_logits.data).all()


def test_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`module` must have 2 or more output channels, got out_channels=1"):
        SegScoreTTAModel(Echo(out_channels=1))
    tta = SegScoreTTAModel(Echo())
    with pytest.raises(ValueError, match="out_channels=1"):
        tta.test_step(views([torch.zeros(1, H, W)], [None]))


def encoder_decoder(**test_cfg: object) -> ConfigDict:
    backbone = dict(
        type="ResNetV1c",
        depth=18,
        base_channels=8,
        stem_channels=8,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="BN"),
    )
    head = dict(
        type="mmseol.JPUHead",
        in_channels=[16, 32, 64],
        in_index=[0, 1, 2],
        jpu_channels=8,
        channels=8,
        num_classes=K,
        context="enc",
    )
    return ConfigDict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64)),
        backbone=backbone,
        decode_head=head,
        test_cfg=test_cfg,
    )


def test_builds_from_config_and_runs() -> None:
    cfg = dict(type="mmseol.SegScoreTTAModel", module=encoder_decoder(mode="whole"))
    tta = MODELS.build(cfg).eval()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    batch = dict(
        inputs=[[image], [image.flip(2)]],
        data_samples=[[sample(None, (64, 64))], [sample("horizontal", (64, 64))]],
    )
    for group in batch["data_samples"]:
        group[0].set_metainfo(dict(img_shape=(64, 64), pad_shape=(64, 64)))
    with torch.no_grad():
        merged = tta.test_step(batch)[0]
        x = torch.stack([image, image.flip(2)]).float()
        metas = [dict(img_shape=(64, 64))] * 2
        raw = tta.module.encode_decode(x, metas)
    expected = (raw[0] + raw[1].flip(2)) / 2
    torch.testing.assert_close(merged.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(merged.pred_sem_seg.data[0], merged.seg_logits.data.argmax(0))


def test_sliding_window_averages_raw_outputs() -> None:
    model = HOST_MODELS.build(encoder_decoder(mode="slide", crop_size=(64, 64), stride=(64, 32))).eval()
    image = 50 * torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        result = model.predict(image)[0]
        left, right = (
            model.encode_decode(image[..., a : a + 64], [dict(img_shape=torch.Size((64, 64)))])[0]
            for a in (0, 32)
        )
    expected = torch.cat([left[..., :32], (left[..., 32:] + right[..., :32]) / 2, right[..., 32:]], dim=-1)
    torch.testing.assert_close(result.seg_logits.data, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(left[..., 32:], right[..., :32])
    assert torch.equal(result.pred_sem_seg.data[0], expected.argmax(0))
