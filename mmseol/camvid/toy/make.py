"""Make a toy data set: random road scenes with CamVid's classes, imbalance and layout on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmseol.camvid.layout import CAMVID_PIXELS, CAMVID_VOID_PIXELS, CLASSES, VOID, new_folder
from mmseol.camvid.toy import people
from mmseol.camvid.toy import street as things
from mmseol.camvid.toy.scene import Scene, value_noise

__all__ = ["make_scene", "make_toy", "share_table"]

_SPLITS = ("train", "val", "test")


def _sky_and_far(scene: Scene) -> None:
    rng, camera, shape = scene.rng, scene.camera, (scene.height, scene.width)
    rows = np.arange(scene.height, dtype=np.float32)[:, None] / np.float32(camera.horizon)
    clouds = value_noise(rng, *shape, 5) + 0.5 * value_noise(rng, *shape, 13)
    blue = rng.uniform(0, 45)
    top = scene.air - np.array([blue, 0.5 * blue, -0.2 * blue], np.float32)
    sky = top + (scene.air - top) * np.clip(rows, 0, 1)[..., None] + rng.uniform(3, 16) * clouds[..., None]
    everywhere = np.ones(shape, bool)
    scene.put(everywhere, sky, "sky", 0.0, grain=1.5)
    blocks = np.repeat(rng.uniform(-1, 1, 30), -(-scene.width // 30))[: scene.width]
    for name, color, bumps in (
        ("building", scene.paint_color(), blocks),
        ("tree", np.array([60, 75, 45], np.float32), 1.3 * value_noise(rng, *shape, 18)[0]),
    ):
        top_row = camera.horizon - (1 + 2 * rng.random() + bumps) * camera.focal / 45
        scene.put(np.arange(scene.height)[:, None] >= top_row[None], color, name, 60.0, grain=8)


def _ground(scene: Scene, left: float, right: float, walk: float) -> None:
    rng, shape = scene.rng, (scene.height, scene.width)
    x, z, below = scene.ground()
    tarmac = np.float32(rng.uniform(70, 125)) + rng.uniform(-8, 8, 3).astype(np.float32)
    grass = np.array([rng.uniform(60, 100), rng.uniform(75, 105), rng.uniform(40, 60)], np.float32)
    patches = (1 + 0.08 * value_noise(rng, *shape, 7) + 0.05 * value_noise(rng, *shape, 31))[..., None]
    scene.put(below, grass * patches, "tree", z, grain=10)
    stone = tarmac * np.float32(rng.uniform(0.85, 1.3)) + rng.uniform(-10, 10, 3).astype(np.float32)
    slabs = ((z % 0.9) < 0.07) | ((x % 0.9) < 0.06)
    paving = np.where((slabs & (z < 14))[..., None], 0.82 * stone, stone) * patches
    on_walk = below & (x > left - walk) & (x < right + walk)
    scene.put(on_walk, paving, "sidewalk", z)
    scene.put(on_walk & ((np.abs(x - left) < 0.14) | (np.abs(x - right) < 0.14)), 1.25 * stone, "sidewalk", z)
    road = below & (x > left) & (x < right)
    scene.put(road, tarmac * patches, "road", z)
    centre, white = (left + right) / 2 + rng.uniform(-0.5, 0.5), tarmac + np.float32(rng.uniform(30, 90))
    scene.put(road & (np.abs(x - centre) < 0.08) & ((z + rng.uniform(0, 6)) % 6 < 3), white, "road", z)
    if rng.random() < 0.5:
        scene.put(
            road & (np.minimum(x - left, right - x) < 0.5) & (np.minimum(x - left, right - x) > 0.36),
            white,
            "road",
            z,
        )


def _shade(scene: Scene) -> None:
    """Throw shadows over the ground, across whatever lies there."""
    x, z, below = scene.ground()
    for _ in range(scene.rng.integers(0, 4)):
        start, slant = scene.rng.uniform(3, 25), scene.rng.uniform(-0.6, 0.6)
        edge = z + slant * x + 0.6 * value_noise(scene.rng, scene.height, scene.width, 20)
        dark = below & (edge > start) & (edge < start + scene.rng.uniform(1, 5))
        scene.image[dark] *= np.float32(scene.rng.uniform(0.5, 0.8))


def _stand(scene: Scene, left: float, right: float, walk: float, rider: bool) -> None:
    """Place and paint, far to near, all that stands on the road and beside it."""
    rng = scene.rng
    edge = {-1: left - walk, 1: right + walk}
    placed: list[tuple[float, str, int]] = []
    for kind, low, high, near, far in (
        ("tree", 3, 9, 7, 40),
        ("pole", 2, 5, 7, 40),
        ("sign", 2, 6, 5, 20),
        ("board", 1, 4, 7, 25),
        ("fence", 0, 4, 6, 25),
        ("parked", 1, 5, 7, 40),
        ("driving", 0, 3, 7, 40),
        ("pedestrian", 1, 5, 6.5, 26),
        ("junk", 1, 5, 4.5, 14),
    ):
        for _ in range(rng.integers(low, high)):
            distance = np.exp(rng.uniform(np.log(near), np.log(far)))
            placed.append((float(distance), kind, 1 if rng.random() < 0.5 else -1))
    if rider:
        placed.append((float(rng.uniform(7, 18)), "bicyclist", 1))
    for side in (-1, 1):
        at = rng.uniform(4, 12)
        while at < 60:
            if rng.random() < 0.75:
                placed.append((float(at), "building", side))
            at += rng.uniform(8, 18)
    for z, kind, side in sorted(placed, key=lambda item: -item[0]):
        kerb, wall = (left if side < 0 else right), edge[side]
        beside = kerb + side * rng.uniform(0.3, max(0.5, walk - 0.3))
        if kind == "building":
            things.building(scene, wall + side * 0.5, z, z + rng.uniform(7, 17), rng.uniform(5, 13))
        elif kind == "board":
            things.sign_board(scene, wall + side * 0.45, z)
        elif kind == "tree":
            things.tree(scene, kerb + side * rng.uniform(1.0, walk + 2), z, rng.uniform(4, 9))
        elif kind == "pole":
            things.pole(scene, beside, z, rng.uniform(4.5, 8))
        elif kind == "sign":
            things.sign(scene, beside, z)
        elif kind == "fence":
            things.fence(scene, kerb + side * rng.choice([0.2, walk - 0.1]), z, z + rng.uniform(4, 14))
        elif kind == "parked":
            things.car(scene, kerb - side * 1.0, z, int(rng.choice(3, p=[0.7, 0.25, 0.05])))
        elif kind == "driving":
            things.car(
                scene, rng.uniform(left + 1.2, right - 1.2), z, int(rng.choice(3, p=[0.75, 0.15, 0.1]))
            )
        elif kind == "pedestrian":
            people.pedestrian(
                scene, beside if rng.random() < 0.8 else rng.uniform(left, right), z, rng.uniform(1.5, 1.95)
            )
        elif kind == "bicyclist":
            place = rng.uniform(left + 0.3, right - 0.3)
            people.bicyclist(scene, place, z, bool(rng.random() < 0.6))
        else:
            things.junk(scene, beside, z)


def _unlabelled_edges(label: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the label map with void along some borders of sky, building, road, sidewalk and tree."""
    stuff = np.isin(label, [CLASSES.index(name) for name in ("sky", "building", "road", "sidewalk", "tree")])
    border = np.zeros_like(where)
    for axis in (0, 1):
        differs = (np.diff(label.astype(np.int16), axis=axis) != 0) & (
            np.diff(stuff.astype(np.int8), axis=axis) == 0
        )
        border |= np.pad(differs, [(0, 1) if i == axis else (0, 0) for i in (0, 1)])
    return np.where(border & stuff & where, np.uint8(VOID), label)


def make_scene(
    rng: np.random.Generator, height: int, width: int, rider: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a random scene: RGB image (H, W, 3) and label map (H, W) of 0..10 and 11 for void.

    The scene is painted at twice the size; the image is averaged, the label map keeps every second pixel.

    >>> image, labels = make_scene(np.random.default_rng(0), height=32, width=48)
    >>> image.shape, labels.shape
    ((32, 48, 3), (32, 48))

    Args:
        rider: Whether the scene has a bicyclist, CamVid's rarest class.
    """
    scene = Scene(rng, 2 * height, 2 * width)
    shape = (scene.height, scene.width)
    wide, offset, walk = rng.uniform(5.5, 8.5), rng.uniform(-1.2, 1.2), rng.uniform(2.0, 4.0)
    left, right = offset - wide / 2, offset + wide / 2
    _sky_and_far(scene)
    _ground(scene, left, right, walk)
    _shade(scene)
    _stand(scene, left, right, walk, rider)
    label = _unlabelled_edges(scene.label, value_noise(rng, *shape, 9) > -0.2)[::2, ::2]
    light = np.float32(rng.uniform(0.7, 1.2)) * (1 + 0.15 * value_noise(rng, *shape, 2))[..., None]
    image = scene.image * light * rng.uniform(0.93, 1.07, 3).astype(np.float32)
    image = image.reshape(height, 2, width, 2, 3).mean(axis=(1, 3))
    image = 255 * np.clip(image / 255, 0, 1) ** np.float32(rng.uniform(0.8, 1.25))
    image += rng.normal(0, rng.uniform(2, 6), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), np.ascontiguousarray(label)


def make_toy(
    out: str | Path,
    num_train: int = 160,
    num_val: int = 32,
    num_test: int = 32,
    size: tuple[int, int] = (120, 160),
    seed: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Write a toy data set and return the pixels of each class and of void in each split, (12,).

    Image i of a split depends on ``seed``, the split, i and ``size`` alone. Every second image has a
    bicyclist.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pixels = make_toy(f"{folder}/toy", num_train=1, num_val=1, num_test=0, size=(32, 48))
    >>> pixels["train"].sum().item()
    1536

    Args:
        out: Folder to make; it appears after all files are written.
        size: Height and width in pixels, each at least 32.

    Raises:
        ValueError: If a number is negative, all are zero, or ``size`` is too small.
        FileExistsError: If ``out`` is not empty.
    """
    from PIL import Image

    numbers = dict(zip(_SPLITS, (num_train, num_val, num_test), strict=True))
    if min(numbers.values()) < 0 or not any(numbers.values()):
        raise ValueError(
            f"`num_train`, `num_val`, `num_test` must not be negative nor all zero, got {numbers}."
        )
    if len(size) != 2 or min(size) < 32:
        raise ValueError(f"`size` must be height and width of at least 32 pixels, got {tuple(size)}.")
    if seed < 0:
        raise ValueError(f"`seed` must not be negative, got {seed}.")
    pixels = {split: np.zeros(VOID + 1, np.int64) for split in _SPLITS}
    with new_folder(out) as folder:
        for key, split in enumerate(_SPLITS):
            (folder / split).mkdir()
            (folder / f"{split}annot").mkdir()
            for i in range(numbers[split]):
                image, label = make_scene(np.random.default_rng([seed, key, i]), *size, rider=i % 2 == 0)
                Image.fromarray(image).save(folder / split / f"toy_{i:05d}.png")
                Image.fromarray(label).save(folder / f"{split}annot" / f"toy_{i:05d}.png")
                pixels[split] += np.bincount(label.ravel(), minlength=VOID + 1)
    return pixels


def share_table(pixels: Mapping[str, NDArray[np.int64]]) -> str:
    """Return a table of each class's fraction of the labelled pixels beside CamVid's, in per cent.

    >>> print(share_table({"train": np.ones(12)})[:40])
    class                train  CamVid train
    """
    columns = {split: counts for split, counts in pixels.items() if counts.any()}
    columns["CamVid train"] = np.append(CAMVID_PIXELS, CAMVID_VOID_PIXELS)
    lines = [f"{'class':<12}" + "".join(f"{name:>14}" for name in columns)]
    for k, name in enumerate((*CLASSES, "(void, of all)")):
        shares = [
            counts[k] / (counts.sum() if k == VOID else counts[:VOID].sum()) for counts in columns.values()
        ]
        lines.append(f"{name:<14}"[:14].ljust(12) + "".join(f"{100 * share:>14.2f}" for share in shares))
    return "\n".join(lines)
