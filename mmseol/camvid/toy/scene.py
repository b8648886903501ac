"""One toy road scene: a pinhole camera over a straight road, painted far to near.

Ground coordinates are metres: x to the right of the camera, z ahead, height above the road. Colours of
the classes overlap on purpose (walls, cars, clothes and signs share one set of paints, pavement and
sidewalk one grey), so that a class must be told by its shape, texture and surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mmseol.camvid.layout import CLASSES, VOID

__all__ = ["Scene", "value_noise"]

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
Color = tuple[float, float, float] | Float
LABEL = {name: i for i, name in enumerate(CLASSES)} | {"void": VOID}

PAINTS = np.array(
    [
        (120, 45, 40),
        (150, 110, 80),
        (185, 175, 155),
        (95, 95, 100),
        (60, 65, 75),
        (205, 200, 195),
        (50, 75, 120),
        (70, 95, 70),
        (35, 35, 40),
        (160, 60, 55),
        (190, 165, 80),
        (110, 105, 95),
    ],
    dtype=np.float32,
)
"""RGB that walls, cars, clothes, fences, poles and signs draw from."""


def value_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Float:
    """Return smooth noise of about ``cells`` bumps across, mean 0, between -1 and 1, (H, W).

    >>> value_noise(np.random.default_rng(0), height=4, width=6, cells=3).shape
    (4, 6)
    """
    rows = max(2, round(cells * height / width))
    grid = rng.uniform(-1, 1, (rows + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


@dataclass
class Camera:
    """Pinhole camera that looks along the road."""

    horizon: float
    vanish: float
    focal: float
    above: float

    def scale(self, z: float) -> float:
        """Return pixels per metre at distance ``z``."""
        return self.focal / z

    def point(self, x: float, height: float, z: float) -> tuple[float, float]:
        """Return the column and row of a point."""
        scale = self.scale(z)
        return self.vanish + x * scale, self.horizon + (self.above - height) * scale


class Scene:
    """Canvas of an image and its label map; whatever is painted covers things behind it.

    >>> scene = Scene(np.random.default_rng(0), 32, 48)
    >>> scene.image.shape, scene.label.shape
    ((32, 48, 3), (32, 48))

    Attributes:
        image: RGB, 0..255, float32 of shape (H, W, 3).
        label: uint8 of shape (H, W).
    """

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng = rng
        self.height, self.width = height, width
        self.image = np.zeros((height, width, 3), np.float32)
        self.label = np.full((height, width), VOID, np.uint8)
        self.camera = Camera(
            horizon=height * rng.uniform(0.4, 0.54),
            vanish=width * rng.uniform(0.25, 0.75),
            focal=width * rng.uniform(0.85, 1.1),
            above=rng.uniform(1.4, 1.9),
        )
        self.haze = rng.uniform(0.0, 0.012)
        self.air = np.float32(rng.uniform(160, 228)) + rng.uniform(-8, 8, 3).astype(np.float32)
        self.sun_left = bool(rng.random() < 0.5)
        self.fine = rng.normal(0, 1, (height, width)).astype(np.float32)

    def paint_color(self) -> Float:
        """Return a random paint, RGB."""
        color = PAINTS[self.rng.integers(len(PAINTS))] * self.rng.uniform(0.75, 1.2)
        return np.clip(color + self.rng.uniform(-15, 15, 3), 5, 245).astype(np.float32)

    def put(
        self, mask: Mask, color: Color, name: str | None, z: float | Float = 0.0, grain: float = 4.0
    ) -> None:
        """Paint ``color`` inside ``mask``, in a haze of ``z`` metres, and label it if ``name`` is given."""
        if not mask.any():
            return
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part = mask[box]
        paint = np.asarray(color, dtype=np.float32)
        paint = paint[box][part] if paint.ndim == 3 else np.broadcast_to(paint, (int(part.sum()), 3))
        clear = np.exp(-self.haze * np.broadcast_to(np.float32(z), mask.shape)[box][part])[:, None]
        grained = paint + grain * self.fine[box][part][:, None]
        self.image[box][part] = grained * clear + self.air * (1 - clear)
        if name is not None:
            self.label[box][part] = LABEL[name]

    def polygon(self, points: list[tuple[float, float]] | NDArray[np.float64]) -> Mask:
        """Return the mask of a polygon of (column, row) points."""
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.clip(np.round(points), -5000, 5000).astype(np.int32)], 1)
        return mask.astype(bool)

    def ellipse(self, column: float, row: float, wide: float, high: float) -> Mask:
        """Return the mask of an ellipse of the given half axes in pixels."""
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        return self.polygon(np.stack([column + wide * np.cos(angle), row + high * np.sin(angle)], 1))

    def line(self, start: tuple[float, float], end: tuple[float, float], thickness: float) -> Mask:
        """Return the mask of a thick line between (column, row) points.

        A polygon, because ``cv2.line`` draws otherwise in OpenCV 5 than in OpenCV 4.
        """
        (c0, r0), (c1, r1) = start, end
        reach = max(0.0, thickness - 1) / 2 / max(np.hypot(c1 - c0, r1 - r0), 1e-6)
        across, down = reach * (r1 - r0), reach * (c0 - c1)
        corners = [
            (c0 + across, r0 + down),
            (c1 + across, r1 + down),
            (c1 - across, r1 - down),
            (c0 - across, r0 - down),
        ]
        return self.polygon(corners)

    def upright(self, x: float, z: float) -> tuple[float, float, float]:
        """Return column and row of the ground at (x, z), and pixels per metre there."""
        return (*self.camera.point(x, 0.0, z), self.camera.scale(z))

    def side_plane(self, x: float, near: float, far: float) -> tuple[Float, Float, Mask]:
        """Return z (1, W), height (H, W) and mask (H, W) of the upright plane ``x``, ``near`` to ``far``."""
        columns = np.arange(self.width, dtype=np.float32) - np.float32(self.camera.vanish)
        scale = np.maximum(columns / np.float32(x), 1e-3)
        z = np.float32(self.camera.focal) / scale
        rows = np.arange(self.height, dtype=np.float32)[:, None]
        height = np.float32(self.camera.above) - (rows - np.float32(self.camera.horizon)) / scale[None]
        return z[None], height, np.broadcast_to((z >= near) & (z <= far) & (columns / x > 0), height.shape)

    def ground(self) -> tuple[Float, Float, Mask]:
        """Return x, z and mask of the pixels of the ground."""
        rows = np.arange(self.height, dtype=np.float32)[:, None] - np.float32(self.camera.horizon)
        scale = np.maximum(rows / np.float32(self.camera.above), 1e-3)
        columns = np.arange(self.width, dtype=np.float32)[None] - np.float32(self.camera.vanish)
        z = np.broadcast_to(np.float32(self.camera.focal) / scale, (self.height, self.width))
        return columns / scale, z, np.broadcast_to(rows > 0, (self.height, self.width))
