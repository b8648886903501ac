"""Paint the people of a toy scene, on foot and on bicycles, at a place given in metres."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmseol.camvid.toy.scene import Float, Scene

__all__ = ["bicyclist", "pedestrian"]


def _limbs(
    scene: Scene,
    points: NDArray[np.float64],
    foot: tuple[float, float, float],
    thick: float,
    color: Float,
    name: str,
    z: float,
) -> None:
    column, row, scale = foot
    for start, end in pairwise(points):
        a, b = ((column + p[0] * scale, row - p[1] * scale) for p in (start, end))
        scene.put(scene.line(a, b, max(1.0, thick * scale)), color, name, z)


def pedestrian(scene: Scene, x: float, z: float, tall: float) -> None:
    """Paint a walking person: legs, torso, arms and head.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> pedestrian(scene, 0.5, 8.0, 1.75)
    >>> 9 in scene.label
    True
    """
    rng = scene.rng
    place = scene.upright(x, z)
    skin = np.array([190, 145, 120], np.float32) * np.float32(rng.uniform(0.35, 1.1))
    coat, trousers, stride = scene.paint_color(), scene.paint_color(), rng.uniform(0.05, 0.35)
    for end in (-1, 1):
        leg = np.array([(0, 0.5), (end * stride * 0.6, 0.25), (end * stride, 0.0)]) * [1, tall]
        _limbs(scene, leg, place, 0.17, trousers, "pedestrian", z)
        arm = np.array([(end * 0.2, 0.78), (end * (0.28 + stride / 4), 0.6), (end * 0.24, 0.45)]) * [1, tall]
        _limbs(scene, arm, place, 0.13, coat * np.float32(0.85), "pedestrian", z)
    column, foot, scale = place
    torso = [(-0.24, 0.82), (0.24, 0.82), (0.2, 0.44), (-0.2, 0.44)]
    scene.put(
        scene.polygon([(column + a * scale, foot - b * tall * scale) for a, b in torso]),
        coat,
        "pedestrian",
        z,
    )
    scene.put(
        scene.ellipse(column, foot - 0.91 * tall * scale, 0.12 * scale, 0.15 * scale), skin, "pedestrian", z
    )


def bicyclist(scene: Scene, x: float, z: float, sideways: bool) -> None:
    """Paint a rider with the bicycle, from the side or from behind.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> bicyclist(scene, 0.5, 8.0, sideways=True)
    >>> 10 in scene.label
    True
    """
    rng = scene.rng
    place = column, foot, scale = scene.upright(x, z)
    coat, trousers, frame = scene.paint_color(), scene.paint_color(), scene.paint_color()
    skin = np.array([190, 145, 120], np.float32) * np.float32(rng.uniform(0.35, 1.1))
    facing = 1.0 if rng.random() < 0.5 else -1.0
    for end in (-1, 1) if sideways else (0,):
        wide = 0.34 if sideways else 0.05
        wheel = scene.ellipse(
            column + 0.52 * end * scale, foot - 0.34 * scale, max(1.0, wide * scale), 0.34 * scale
        )
        hole = scene.ellipse(
            column + 0.52 * end * scale, foot - 0.34 * scale, (wide - 0.07) * scale, 0.27 * scale
        )
        scene.put(wheel & ~(hole & sideways), (25.0, 25.0, 27.0), "bicyclist", z)
        scene.put(wheel & hole & sideways, 0.9 * scene.image, "bicyclist", 0.0, grain=0.0)
    reach = facing if sideways else 0.1
    bars = np.array([(-0.52 * reach, 0.34), (-0.1 * reach, 0.85), (0.42 * reach, 0.85), (0.52 * reach, 0.34)])
    _limbs(scene, bars, place, 0.06, frame, "bicyclist", z)
    for shift in (-0.1, 0.1):
        leg = np.array([(-0.15 * reach, 0.95), (0.2 * reach + shift, 0.65), (shift, 0.25)])
        _limbs(scene, leg, place, 0.17, trousers, "bicyclist", z)
    _limbs(scene, np.array([(-0.17 * reach, 0.95), (0.15 * reach, 1.42)]), place, 0.4, coat, "bicyclist", z)
    _limbs(
        scene,
        np.array([(0.15 * reach, 1.38), (0.46 * reach, 1.0)]),
        place,
        0.12,
        coat * np.float32(0.85),
        "bicyclist",
        z,
    )
    scene.put(
        scene.ellipse(column + 0.24 * reach * scale, foot - 1.62 * scale, 0.13 * scale, 0.15 * scale),
        skin,
        "bicyclist",
        z,
    )
