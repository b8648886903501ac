"""Images in memory against mmpretrain's own pipeline, one image after another."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

pytest.importorskip("mmpretrain")

from mmengine.dataset import ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset, CustomDataset
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image

from mmseol import experiment
from mmseol.counting import count_dataset, image_classes
from mmseol.datasets import HoldOut, ImbalancedDataset, InMemoryDataset, RepeatRareDataset, whole_batch

K, N = 4, 41
CROP = {"type": "RandomCrop", "crop_size": 12, "padding": 2}
FLIP = {"type": "RandomFlip", "prob": 0.5, "direction": "horizontal"}
PACK = {"type": "PackInputs"}


class Noise(BaseDataset):
    """Random images of 12x12, all different."""

    METAINFO = {"classes": ("a", "b", "c", "d")}  # noqa: RUF012

    def __init__(self, pipeline: Any = (PACK,), number: int = N, **kwargs: Any) -> None:
        self.number = number
        super().__init__(ann_file="", pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        images = np.random.default_rng(0).integers(0, 256, (self.number, 12, 12, 3)).astype(np.uint8)
        labels = [3 * i % 10 % K for i in range(self.number)]
        return [
            {"img": image, "gt_label": label, "img_path": f"{i}.png"}
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]


pytestmark = pytest.mark.usefixtures("mmpretrain_scope")


def batches(dataset: Any, collate: str, shuffle: bool = False, workers: int = 0) -> list[dict[str, Any]]:
    loader = {
        "dataset": dataset,
        "batch_size": 16,
        "num_workers": workers,
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "collate_fn": {"type": collate},
    }
    return list(Runner.build_dataloader(loader, seed=3))


def assert_same(ours: list[dict[str, Any]], stock: list[dict[str, Any]]) -> None:
    assert len(ours) == len(stock) > 0
    for mine, theirs in zip(ours, stock, strict=True):
        assert mine.keys() == theirs.keys()
        assert type(mine) is dict
        assert mine["inputs"].dtype == theirs["inputs"].dtype
        assert torch.equal(mine["inputs"], theirs["inputs"])
        assert_same_samples(mine["data_samples"], theirs["data_samples"])


def assert_same_samples(ours: list[Any], stock: list[Any]) -> None:
    for mine, theirs in zip(ours, stock, strict=True):
        assert type(mine) is type(theirs)
        assert mine.metainfo == theirs.metainfo
        assert mine.keys() == theirs.keys()
        assert torch.equal(mine.gt_label, theirs.gt_label)


# ------------------------------------------------------------------ the same batches

NESTS = {
    "plain": lambda noise: noise,
    "cut": lambda noise: ImbalancedDataset(HoldOut(noise, per_class=1), ratio=4),
    "rare": lambda noise: RepeatRareDataset(noise, threshold=0.9),
    "repeat": lambda noise: RepeatDataset(HoldOut(noise, per_class=2, side="val"), 3),
    "subset": lambda noise: noise.get_subset([5, 3, 3, 40]),
}


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize(("shuffle", "workers"), [(False, 0), (True, 0), (True, 2)])
def test_batches_are_the_stock_pipelines(nest: str, shuffle: bool, workers: int) -> None:
    dataset = NESTS[nest](Noise())
    ours = batches(InMemoryDataset(dataset), "mmseol.whole_batch", shuffle, workers)
    assert_same(ours, batches(dataset, "default_collate", shuffle))


def test_images_are_loaded_and_resized_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            size = (rng.integers(20, 40), rng.integers(20, 40), 3)
            Image.fromarray(rng.integers(0, 256, size).astype(np.uint8)).save(tmp_path / name / f"{i}.png")
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "ResizeEdge", "scale": 18, "edge": "short"},
        {"type": "CenterCrop", "crop_size": 16},
        PACK,
    ]
    dataset = CustomDataset(data_root=str(tmp_path), pipeline=pipeline)
    held = InMemoryDataset(dataset)
    expected = batches(dataset, "default_collate")
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    assert_same(batches(held, "mmseol.whole_batch"), expected)


def test_it_is_a_data_set_like_others() -> None:
    dataset = ImbalancedDataset(Noise(), ratio=4)
    held = InMemoryDataset(dataset, lazy_init=True)
    assert len(held) == len(dataset) < N
    assert held.metainfo == dataset.metainfo
    assert held.get_gt_labels().tolist() == dataset.get_gt_labels().tolist()
    assert count_dataset(held, K) == count_dataset(dataset, K)
    assert image_classes(RepeatRareDataset(held), K) == image_classes(RepeatRareDataset(dataset), K)
    assert len(ClassBalancedDataset(held, 0.5)) == len(ClassBalancedDataset(dataset, 0.5))
    for index in (0, 3, len(held) - 1):
        ours, stock = held[index], dataset[index]
        assert torch.equal(ours["inputs"], stock["inputs"])
        assert_same_samples([ours["data_samples"]], [stock["data_samples"]])
        assert held.get_data_info(index)["gt_label"] == dataset.get_data_info(index)["gt_label"]
        assert held.get_cat_ids(index) == dataset.get_cat_ids(index)
    part = held.get_subset([7, 2])
    assert_same(batches(part, "mmseol.whole_batch"), batches(dataset.get_subset([7, 2]), "default_collate"))
    # Under another wrapper there are samples, not batches.
    assert_same(
        batches(RepeatDataset(held, 2), "mmseol.whole_batch"),
        batches(RepeatDataset(dataset, 2), "default_collate"),
    )


def test_repetitions_share_memory() -> None:
    assert InMemoryDataset(RepeatDataset(Noise(), 5))._images.shape == (N, 3, 12, 12)


# ------------------------------------------------------------------ augmentation

PIPELINES = {
    "crop and flip": [CROP, FLIP],
    "flip and crop": [FLIP, {**CROP, "padding": (1, 0, 2, 3), "pad_val": (7, 8, 9)}],
    "one pad value": [{**CROP, "crop_size": (11, 14), "padding": (2, 1), "pad_val": 130}],
    "no padding": [{"type": "RandomCrop", "crop_size": 10}],
    "larger than the image": [{"type": "RandomCrop", "crop_size": (14, 9)}],
    "three flips": [{**FLIP, "prob": [0.2, 0.1, 0.3], "direction": ["horizontal", "vertical", "diagonal"]}],
    "shared flips": [{**FLIP, "prob": 0.6, "direction": ["horizontal", "vertical"]}],
    "always one of three": [{**FLIP, "prob": 1.0, "direction": ["horizontal", "vertical", "diagonal"]}],
    "nothing left out": [{**CROP, "padding": None}, {**FLIP, "prob": 1.0}],
}


def possible(steps: list[dict[str, Any]], image: np.ndarray) -> list[tuple[float, dict[str, Any]]]:
    """Return each image that the stock transforms can make of an image, with its probability."""
    states = [(1.0, {"img": image})]
    for step in steps:
        transform = TRANSFORMS.build(step)
        reached = []
        for weight, results in states:
            if step["type"] == "RandomCrop":
                choices = crops(transform, results["img"])
                setter = "rand_crop_params"
            else:
                choices, setter = flips(step), "_choose_direction"
            for share, choice in choices:
                fixed = copy.copy(transform)
                setattr(fixed, setter, lambda *_, choice=choice: choice)
                reached.append((weight * share, fixed.transform(dict(results))))
        states = reached
    return states


def crops(transform: Any, image: np.ndarray) -> list[tuple[float, Any]]:
    """Return the parameters that the stock transform draws, each with its frequency in many draws."""
    drawn = set()
    original = transform.rand_crop_params

    def spy(image: np.ndarray) -> Any:
        drawn.add(original(image))
        return original(image)

    watched = copy.copy(transform)
    watched.rand_crop_params = spy
    for _ in range(600):
        watched.transform({"img": image})
    return [(1 / len(drawn), choice) for choice in sorted(drawn)]


def flips(step: dict[str, Any]) -> list[tuple[float, str | None]]:
    directions = step["direction"] if isinstance(step["direction"], list) else [step["direction"]]
    prob = step["prob"]
    shares = prob if isinstance(prob, list) else [prob / len(directions)] * len(directions)
    return [
        *zip(shares, directions, strict=True),
        (1 - (sum(prob) if isinstance(prob, list) else prob), None),
    ]


def test_making_the_transforms_draws_no_random_number() -> None:
    np.random.seed(3)  # noqa: NPY002  (mmpretrain's transforms draw from it)
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    InMemoryDataset(Noise([CROP, FLIP, PACK]))
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize("name", PIPELINES)
def test_augmented_images_have_the_stock_distribution(name: str) -> None:
    steps, number = PIPELINES[name], 6000
    dataset = Noise([*steps, PACK])
    expected = {}
    for weight, results in possible(steps, dataset.get_data_info(0)["img"]):
        packed = TRANSFORMS.build(PACK)({**dataset.get_data_info(0), **results})
        expected[packed["inputs"].numpy().tobytes()] = (weight, packed)
    np.random.seed(0)  # noqa: NPY002
    batch = InMemoryDataset(RepeatDataset(dataset, number)).__getitems__(range(0, number * N, N))
    seen = Counter()
    for image, sample in zip(batch.inputs, batch.data_samples, strict=True):
        seen[image.numpy().tobytes()] += 1
        _, packed = expected[image.numpy().tobytes()]  # else the stock transforms cannot make it
        assert image.shape == packed["inputs"].shape
        assert_same_samples([sample], [packed["data_samples"]])
    frequencies = [weight * number for weight, _ in expected.values()]
    kept = [(seen[key], f) for key, f in zip(expected, frequencies, strict=True) if f > 0]
    assert sum(count for count, _ in kept) == number
    if len(kept) > 1:
        assert chisquare(*zip(*kept, strict=True)).pvalue > 1e-3


def test_the_seed_decides_and_images_in_memory_stay() -> None:
    held = InMemoryDataset(Noise([CROP, FLIP, PACK]))
    before = held._images.copy()
    draws = []
    for seed in (1, 1, 2):
        np.random.seed(seed)  # noqa: NPY002
        draws.append(held.__getitems__(range(N)).inputs)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert np.array_equal(held._images, before)
    # Small batches after large ones, and each item with its own draw.
    assert held.__getitems__([1, 2]).inputs.shape == (2, 3, 12, 12)
    assert len({item.numpy().tobytes() for item in held.__getitems__([4] * 40).inputs}) > 20


# ------------------------------------------------------------------ training


def test_models_train_and_predict_alike() -> None:
    """Mixup writes scores into the samples; those of the next batch must not have them."""
    model = MODELS.build(
        {
            "type": "ImageClassifier",
            "backbone": {"type": "mmseol.SmallResNet", "depth": 8},
            "neck": {"type": "GlobalAveragePooling"},
            "head": {"type": "LinearClsHead", "num_classes": K, "in_channels": 64},
            "data_preprocessor": {"num_classes": K, "mean": [120.0] * 3, "std": [60.0] * 3},
            "train_cfg": {"augments": {"type": "Mixup", "alpha": 0.8}},
        }
    )
    dataset, held = Noise(), InMemoryDataset(Noise())
    losses: dict[str, list[float]] = {}
    for name, data, collate in (
        ("ours", held, "mmseol.whole_batch"),
        ("stock", dataset, "default_collate"),
        ("listed", dataset, "pseudo_collate"),
    ):
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        fresh = copy.deepcopy(model)
        optimizer = torch.optim.SGD(fresh.parameters(), lr=0.01)
        losses[name] = []
        for batch in [*batches(data, collate), *batches(data, collate)]:
            loss = fresh(**fresh.data_preprocessor(batch, training=True), mode="loss")["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
        results = [sample for batch in batches(data, collate) for sample in fresh.eval().val_step(batch)]
        losses[name] += [sample.pred_score.max().item() for sample in results]
    assert losses["ours"] == losses["stock"] == losses["listed"]
    assert "pred_score" not in held[0]["data_samples"]
    assert "gt_score" not in held[0]["data_samples"]


def test_test_time_augmentation_does_without(tmp_path: Path) -> None:
    cfg = experiment_config()
    inner = cfg.test_dataloader.dataset.dataset
    experiment.set_test_time_augmentation(cfg)
    assert cfg.test_dataloader.dataset == {**inner, "pipeline": cfg.tta_pipeline}
    assert cfg.test_dataloader.collate_fn == {"type": "default_collate"}


def experiment_config() -> Any:
    from mmengine.config import Config

    return Config.fromfile(Path(__file__).parents[1] / "configs" / "cifar" / "resnet32_cifar10.py")


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("pipeline", "named"),
    [
        ([CROP, {"type": "ColorJitter"}, PACK], "ColorJitter has no version for whole batches"),
        (
            [FLIP, {"type": "Resize", "scale": 8}, PACK],
            "Resize has no version for whole batches or is",
        ),
        ([CROP, FLIP], r"RandomFlip has no version"),
        ([], r"got \[\]: PackInputs"),
    ],
)
def test_other_pipelines_are_refused(pipeline: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(ValueError, match=rf"`pipeline` in an InMemoryDataset must be .*{named}.*without"):
        InMemoryDataset(Noise(pipeline))


def test_a_transform_that_inherits_is_refused() -> None:
    dataset = Noise([FLIP, PACK])
    kind = type(dataset.pipeline.transforms[0])
    dataset.pipeline.transforms[0].__class__ = type("MyFlip", (kind,), {})
    with pytest.raises(ValueError, match="MyFlip has no version"):
        InMemoryDataset(dataset)


def test_samples_of_a_batch_share_no_state() -> None:
    dataset = InMemoryDataset(Noise())
    first, twin, other = dataset.__getitems__([0, 0, 1]).data_samples
    first.set_pred_label(2)
    first.set_field(3, "view", field_type="metainfo")
    first.set_gt_label(1)
    (again,) = dataset.__getitems__([0]).data_samples
    for sample in (twin, other, again):
        assert "pred_label" not in sample
        assert "view" not in sample.metainfo_keys()
    assert twin.gt_label.tolist() == again.gt_label.tolist() == [0]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"`pad_if_needed` of RandomCrop must be False"):
        InMemoryDataset(Noise([{**CROP, "pad_if_needed": True}, PACK]))
    size = N * 12 * 12 * 3
    with pytest.raises(ValueError, match=rf"`max_bytes` of InMemoryDataset must be at least {size} for {N}"):
        InMemoryDataset(Noise(), max_bytes=size - 1)
    assert len(InMemoryDataset(Noise(), max_bytes=size)) == N
    with pytest.raises(ValueError, match=r"must hold one data set, got 2 joined"):
        InMemoryDataset(ConcatDataset([Noise(), Noise()]))
    with pytest.raises(TypeError, match=r"must be given collate_fn=dict\(type='mmseol.whole_batch'\)"):
        batches(InMemoryDataset(Noise()), "default_collate")


def test_images_of_two_sizes_are_refused() -> None:
    class Mixed(Noise):
        def load_data_list(self) -> list[dict[str, Any]]:
            data = super().load_data_list()
            data[7]["img"] = data[7]["img"][:9]
            return data

    with pytest.raises(ValueError, match=r"got \(3, 9, 12\) for item 7 of Mixed after \(3, 12, 12\)"):
        InMemoryDataset(Mixed())


def test_whole_batch_stacks_samples() -> None:
    stacked = whole_batch([Noise()[0], Noise()[1]])
    assert stacked["inputs"].shape == (2, 3, 12, 12)
