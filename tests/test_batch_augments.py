"""Batch augments against slow loops, with exact label areas, and inside mmpretrain's classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("mmpretrain")

import mmpretrain.models  # noqa: F401  (registers)
from mmengine.registry import DefaultScope
from mmpretrain.models.utils import RandomBatchAugment
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmseol.classification import RICAP, MixedConcat, Random2x2, SamplePairing, VHBCPlus, VHMixup

N, K, H, W = 6, 6, 9, 7
AUGMENTS = {
    "SamplePairing": SamplePairing,
    "RICAP": RICAP,
    "VHMixup": VHMixup,
    "VHBCPlus": VHBCPlus,
    "MixedConcat": MixedConcat,
    "Random2x2": Random2x2,
}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


def numbered() -> tuple[Tensor, Tensor]:
    """Return images whose every pixel names its image, and their labels."""
    return torch.arange(N).float().view(N, 1, 1, 1).expand(N, 3, H, W).clone(), torch.eye(N, K)


def again(augment: Callable, seed: int, *batch: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    return augment(*batch)


@pytest.mark.parametrize("name", AUGMENTS)
def test_interface(name: str) -> None:
    augment = AUGMENTS[name]()
    inputs, scores = torch.randn(N, 3, H, W), torch.eye(N, K, dtype=torch.long)
    kept = inputs.clone()
    for _ in range(20):
        mixed, soft = augment(inputs, scores)
        assert mixed.shape == inputs.shape
        assert soft.dtype == torch.float32
        torch.testing.assert_close(soft.sum(1), torch.ones(N))
        assert mixed.isfinite().all()
        assert torch.equal(inputs, kept)  # not changed in place
    with pytest.raises(ValueError, match=r"`scores` must be label scores of shape \(N, K\)"):
        augment(inputs, scores.argmax(1))


@pytest.mark.parametrize("name", ["RICAP", "MixedConcat", "Random2x2"])
def test_labels_are_the_exact_areas(name: str) -> None:
    """Each pixel comes from one image: count them."""
    inputs, scores = numbered()
    partners = set()
    for seed in range(40):
        mixed, soft = again(AUGMENTS[name](), seed, inputs, scores)
        for image, label in zip(mixed, soft, strict=True):
            assert torch.equal(image[0], image[2])
            area = torch.bincount(image[0].long().flatten(), minlength=K) / (H * W)
            torch.testing.assert_close(label, area)
            partners.add(int((area > 0).sum()))
    assert max(partners) == (4 if name == "RICAP" else 2)


def test_ricap_crops_stay_together() -> None:
    """Within a patch the pixels are neighbours in the image they come from."""
    place = torch.arange(H * W).float().view(1, 1, H, W).expand(N, 1, H, W)
    owner = torch.arange(N).float().view(N, 1, 1, 1).expand(N, 1, H, W)
    for seed in range(20):
        mixed, _ = again(RICAP(beta=1.0), seed, torch.cat([place, owner], 1), torch.eye(N, K))
        for where, who in mixed:
            jump = (where[1:] - where[:-1] != W) & (who[1:] == who[:-1])
            side = (where[:, 1:] - where[:, :-1] != 1) & (who[:, 1:] == who[:, :-1])
            # Only where two patches meet may two neighbours of one image be strangers.
            assert jump.any(1).sum() <= 1
            assert side.any(0).sum() <= 1


def test_vh_mixup_is_the_loop_of_its_paper() -> None:
    inputs, scores = torch.randn(N, 3, H, W), torch.eye(N, K)
    for seed in range(10):
        mixed, soft = again(VHMixup(), seed, inputs, scores)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        index = torch.randperm(N)
        height, width = (round(side * np.random.beta(1, 1)) for side in (H, W))  # noqa: NPY002
        share = np.random.beta(1, 1)  # noqa: NPY002
        expected, labels = torch.empty_like(inputs), torch.zeros_like(scores)
        for n in range(N):
            for r in range(H):
                for c in range(W):
                    one = {(1, 1): 1, (1, 0): share, (0, 1): 1 - share, (0, 0): 0}[r < height, c < width]
                    expected[n, :, r, c] = one * inputs[n, :, r, c] + (1 - one) * inputs[index[n], :, r, c]
                    labels[n] += (one * scores[n] + (1 - one) * scores[index[n]]) / (H * W)
        torch.testing.assert_close(mixed, expected)
        torch.testing.assert_close(soft, labels)


def test_mixed_concat_has_the_first_image_above_left_and_below_right() -> None:
    inputs, scores = numbered()
    for seed in range(10):
        mixed, _ = again(MixedConcat(), seed, inputs, scores)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        index = torch.randperm(N)
        height, width = (round(side * np.random.beta(1, 1)) for side in (H, W))  # noqa: NPY002
        for n in range(N):
            for r in range(H):
                for c in range(W):
                    assert mixed[n, 0, r, c] == (n if (r < height) == (c < width) else index[n])


def test_ricap_is_the_loop_of_its_paper() -> None:
    inputs, scores = torch.randn(N, 3, H, W), torch.eye(N, K)
    for seed in range(5):
        mixed, _ = again(RICAP(), seed, inputs, scores)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        height, width = (round(side * np.random.beta(0.3, 0.3)) for side in (H, W))  # noqa: NPY002
        expected = torch.zeros_like(inputs)
        for top, h in ((0, height), (height, H - height)):
            for left, w in ((0, width), (width, W - width)):
                index = torch.randperm(N)
                y, x = (np.random.randint(whole - part + 1) for whole, part in ((H, h), (W, w)))  # noqa: NPY002
                for n in range(N):
                    for r in range(h):
                        for c in range(w):
                            expected[n, :, top + r, left + c] = inputs[index[n], :, y + r, x + c]
        assert torch.equal(mixed, expected)


def test_sample_pairing_keeps_the_first_label() -> None:
    inputs, scores = torch.randn(N, 3, H, W), torch.eye(N, K)
    mixed, soft = again(SamplePairing(), 3, inputs, scores)
    torch.manual_seed(3)
    index = torch.randperm(N)
    torch.testing.assert_close(mixed, (inputs + inputs[index]) / 2)
    assert torch.equal(soft, scores)


def test_vh_bc_plus_keeps_the_strength_of_the_images() -> None:
    """Mix independent images with standard deviations 1 and 10: both weigh the same."""
    first, second = torch.randn(1, 3, 64, 64), 10 * torch.randn(1, 3, 64, 64) + 5
    mixed = VHBCPlus().blend(first, second, torch.full((64, 64), 0.5))
    p = 10 / 11
    expected = (p * (first - first.mean()) + (1 - p) * (second - second.mean())) / (
        p**2 + (1 - p) ** 2
    ) ** 0.5
    torch.testing.assert_close(mixed, expected, rtol=0.05, atol=0.02)
    whole = VHBCPlus().blend(first, second, torch.ones(64, 64))
    torch.testing.assert_close(whole, first - first.mean())
    weights = torch.rand(64, 64)
    both = VHBCPlus().blend(torch.cat([first, second]), torch.cat([second, second]), weights)
    alone = [VHBCPlus().blend(image, second, weights) for image in (first, second)]
    torch.testing.assert_close(both, torch.cat(alone))  # each image has a mean and a deviation of its own
    assert VHBCPlus().blend(torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.ones(4, 4)).eq(0).all()


@pytest.mark.parametrize("name", ["RICAP", "VHMixup"])
def test_wrong_arguments(name: str) -> None:
    with pytest.raises(ValueError, match="must be a finite number above 0, got 0"):
        AUGMENTS[name](0)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("path", ["mmseol.classification", "mmseol.classification.batch_augments"])
def test_found_by_path(name: str, path: str) -> None:
    assert isinstance(BATCH_AUGMENTS.build(dict(type=f"{path}.{name}")), AUGMENTS[name])
    assert isinstance(RandomBatchAugment(dict(type=f"{path}.{name}")).augments[0], AUGMENTS[name])


LOSSES = (
    dict(type="mmseol.OutlyingMSELoss", class_counts=range(1, K + 1)),
    dict(type="mmseol.OneHotMSELoss"),
    dict(type="mmseol.CrossEntropyLoss"),
    dict(type="mmseol.CrossEntropyLoss", class_weight="effective_number", class_counts=range(1, K + 1)),
)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["type"])
def test_classifier_trains_with_them(loss: dict[str, Any]) -> None:
    augments = [dict(type=f"mmseol.classification.{name}") for name in AUGMENTS]
    model = MODELS.build(
        dict(
            type="ImageClassifier",
            data_preprocessor=dict(num_classes=K, mean=[0.0] * 3, std=[1.0] * 3),
            backbone=dict(type="mmseol.SmallResNet", depth=8, base_channels=4),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="mmseol.CalibratedLinearClsHead", num_classes=K, in_channels=16, loss=dict(loss)),
            train_cfg=dict(augments=augments),
        )
    )
    for _ in range(8):
        samples = [DataSample().set_gt_label(i) for i in range(N)]
        data = model.data_preprocessor(dict(inputs=[*torch.rand(N, 3, 8, 8)], data_samples=samples), True)
        assert data["data_samples"][0].gt_score.shape == (K,)
        value = model(**data, mode="loss")["loss"]
        value.backward()
        assert value.isfinite()
