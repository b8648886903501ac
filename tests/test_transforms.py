"""ClassAwareCrop beside mmseg's RandomCrop, and in a pipeline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmseg.datasets.transforms import RandomCrop
from mmseg.registry import TRANSFORMS

from mmseol.segmentation.transforms import ClassAwareCrop

SHAPE = (30, 40)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    yield
    np.random.set_state(state)  # noqa: NPY002


def scene(**patches: tuple[slice, slice]) -> dict[str, Any]:
    """Return an image of class 0 with patches of others; the image tells each pixel's place."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for name, patch in patches.items():
        labels[patch] = int(name[1:])
    image = np.arange(labels.size).reshape(*SHAPE, 1).repeat(3, 2)
    return {"img": image, "gt_seg_map": labels, "seg_fields": ["gt_seg_map"], "img_shape": SHAPE}


CORNER, MIDDLE = (slice(0, 1), slice(0, 1)), (slice(14, 16), slice(20, 22))


@pytest.mark.parametrize("size", [10, (10, 16), [9, 11]])
def test_the_class_lies_in_the_middle_of_the_crop(size: Any) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    crop = TRANSFORMS.build({"type": "mmseol.ClassAwareCrop", "crop_size": size, "class_counts": [10**9, 1]})
    for _ in range(20):
        results = crop(scene(c1=MIDDLE))
        assert results["img"].shape == (height, width, 3)
        assert results["gt_seg_map"].shape == results["img_shape"] == (height, width)
        rows, columns = np.nonzero(results["gt_seg_map"])
        assert np.abs(rows - height // 2).max() <= 1
        assert np.abs(columns - width // 2).max() <= 1
        # Image and labels are cut alike.
        place = np.divmod(results["img"][0, 0, 0], SHAPE[1])
        whole = scene(c1=MIDDLE)["gt_seg_map"]
        cut = whole[place[0] : place[0] + height, place[1] : place[1] + width]
        assert (results["gt_seg_map"] == cut).all()


def test_a_crop_stays_inside_the_image() -> None:
    crop = ClassAwareCrop(12, class_counts=[10**9, 1])
    far = (slice(SHAPE[0] - 1, SHAPE[0]), slice(SHAPE[1] - 1, SHAPE[1]))
    for patch, place in ((CORNER, (0, 0)), (far, (SHAPE[0] - 12, SHAPE[1] - 12))):
        results = crop(scene(c1=patch))
        assert results["img"].shape == (12, 12, 3)
        assert np.divmod(results["img"][0, 0, 0], SHAPE[1]) == place
        assert (results["gt_seg_map"] == 1).sum() == 1


def test_a_crop_larger_than_the_image_keeps_all_of_it() -> None:
    theirs = RandomCrop((64, 20))(scene(c1=MIDDLE))
    ours = ClassAwareCrop((64, 20))(scene(c1=MIDDLE))
    assert ours["img"].shape == theirs["img"].shape == (30, 20, 3)


@pytest.mark.parametrize(("counts", "power"), [(None, 1.0), ([900, 90, 10], 1.0), ([900, 90, 10], 0.5)])
def test_classes_are_drawn_by_their_rarity(counts: list[int] | None, power: float) -> None:
    # One pixel each, so that the crop of one pixel tells which class was drawn.
    results = scene(c1=(slice(0, 2), slice(0, 40)), c2=CORNER)
    crop = ClassAwareCrop(1, counts, power)
    drawn = Counter(int(crop(dict(results))["gt_seg_map"][0, 0]) for _ in range(4000))
    weights = np.ones(3) if counts is None else np.array([n**-power for n in counts])
    for c, share in enumerate(weights / weights.sum()):
        assert abs(drawn[c] - 4000 * share) < 4.5 * np.sqrt(4000 * share * (1 - share))


def test_pixels_of_the_class_are_drawn_alike() -> None:
    crop = ClassAwareCrop(1, [10**9, 1])
    patch = (slice(3, 5), slice(7, 12))
    drawn = Counter(int(crop(scene(c1=patch))["img"][0, 0, 0]) for _ in range(4000))
    assert len(drawn) == 10
    assert max(abs(times - 400) for times in drawn.values()) < 4.5 * np.sqrt(4000 * 0.1 * 0.9)


def test_without_a_class_it_is_mmsegs_crop() -> None:
    results = scene()
    results["gt_seg_map"][:] = 255
    for crop in (ClassAwareCrop(10), ClassAwareCrop(10, prob=0.0)):
        corners = {int(crop(dict(results))["img"][0, 0, 0]) for _ in range(300)}
        places = np.divmod(sorted(corners), SHAPE[1])
        assert len(corners) > 150
        assert (places[0].min(), places[0].max()) == (0, 20)
        assert (places[1].min(), places[1].max()) == (0, 30)


def test_prob_is_the_share_of_aimed_crops() -> None:
    crop = ClassAwareCrop(1, [10**12, 1], prob=0.25)
    found = sum(int(crop(scene(c1=CORNER))["gt_seg_map"][0, 0]) for _ in range(2000))
    assert abs(found - 500) < 4.5 * np.sqrt(2000 * 0.25 * 0.75) + 5


def test_counts_come_from_a_file_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "class_counts.json"
    path.write_text(json.dumps({"samples": [10**9, 1], "images": [1, 1], "totals": [1, 1]}))
    assert (ClassAwareCrop(1, str(path))(scene(c1=CORNER))["gt_seg_map"] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(crop_size=0), "`crop_size` must be"),
        (dict(crop_size=(4, 4, 4)), "`crop_size` must be"),
        (dict(crop_size=4, power=-1), "`power` must be"),
        (dict(crop_size=4, prob=1.5), "`prob` must be a finite number of at least 0 and at most 1, got 1.5"),
        (dict(crop_size=4, class_counts=[1]), "`class_counts` must be"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassAwareCrop(**arguments)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`class_counts` must have an entry .* 2 entries .* \[0, 2\]"):
        ClassAwareCrop(4, [1, 1])(scene(c2=CORNER))
    with pytest.raises(ValueError, match="must stand after LoadAnnotations"):
        ClassAwareCrop(4)({"img": np.zeros((8, 8, 3))})
