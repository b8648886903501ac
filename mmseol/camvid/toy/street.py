"""Paint the things of a toy scene, each at a place given in metres."""

from __future__ import annotations

import numpy as np

from mmseol.camvid.toy.scene import Float, Mask, Scene, value_noise

__all__ = [
    "building",
    "car",
    "fence",
    "junk",
    "pole",
    "sign",
    "sign_board",
    "tree",
]


def box(column: float, foot: float, half: float, low: float, high: float) -> list[tuple[float, float]]:
    """Return the corners of a rectangle about ``column``, ``low`` to ``high`` pixels above ``foot``."""
    return [
        (column - half, foot - low),
        (column + half, foot - low),
        (column + half, foot - high),
        (column - half, foot - high),
    ]


def _grid(u: Float, v: Float, pitch: tuple[float, float], share: tuple[float, float]) -> Mask:
    return np.asarray(((u % pitch[0]) < pitch[0] * share[0]) & ((v % pitch[1]) < pitch[1] * share[1]))


def building(scene: Scene, x: float, near: float, far: float, high: float) -> None:
    """Paint a building whose facade is the plane ``x`` from ``near`` to ``far``.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> building(scene, 3.0, 10.0, 20.0, 8.0)
    >>> 1 in scene.label
    True
    """
    rng, camera = scene.rng, scene.camera
    wall = scene.paint_color() * 0.85 + 25
    glass = rng.uniform(20, 110, 3).astype(np.float32) if rng.random() < 0.7 else wall + 55
    lit = 1.0 if (x < 0) != scene.sun_left else 0.68
    scale = camera.scale(near)
    outer = x + np.sign(x) * 12.0
    left, right = sorted((camera.vanish + x * scale, camera.vanish + outer * scale))
    top, foot = camera.horizon + (camera.above - high) * scale, camera.horizon + camera.above * scale
    end = scene.polygon([(left, top), (right, top), (right, foot), (left, foot)])
    scene.put(end, wall * (1.6 - lit) * 0.8, "building", near)
    depth, height, mask = scene.side_plane(x, near, far)
    mask = mask & (height >= 0) & (height <= high)
    texture = np.broadcast_to(wall * lit, (*mask.shape, 3)).copy()
    if rng.random() < 0.5:
        texture[_grid(depth, height, (40.0, 0.5), (1.0, 0.3))] *= 0.92
    pitch = rng.uniform(2.0, 3.6), rng.uniform(2.6, 3.4)
    windows = _grid(
        depth + rng.uniform(0, 3), height - 0.9, pitch, (rng.uniform(0.3, 0.65), rng.uniform(0.4, 0.6))
    )
    texture[windows & (height > 0.8) & (height < high - 0.6)] = glass * (0.7 + 0.3 * lit)
    scene.put(mask, texture, "building", depth)


def sign_board(scene: Scene, x: float, z: float) -> None:
    """Paint a shop board with letters onto the facade at ``x``.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> sign_board(scene, 3.0, 8.0)
    >>> 6 in scene.label
    True
    """
    rng = scene.rng
    low, high = rng.uniform(2.4, 3.2), rng.uniform(3.6, 4.6)
    depth, height, mask = scene.side_plane(x, z, z + rng.uniform(2.5, 6))
    mask = mask & (height > low) & (height < high)
    board, ink = scene.paint_color(), scene.paint_color()
    texture = np.broadcast_to(board, (*mask.shape, 3)).copy()
    middle = (height > low + 0.3) & (height < high - 0.3)
    texture[middle & _grid(depth, height, (0.55, 50.0), (0.6, 1.0))] = ink
    scene.put(mask, texture, "sign", depth)


def tree(scene: Scene, x: float, z: float, high: float) -> None:
    """Paint a tree: trunk and a crown of leafy blobs; some are bare or autumn-brown.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> tree(scene, 1.0, 8.0, 5.0)
    >>> 5 in scene.label
    True
    """
    rng = scene.rng
    column, foot, scale = scene.upright(x, z)
    trunk = scene.line(
        (column, foot), (column + rng.uniform(-0.3, 0.3) * scale, foot - 0.6 * high * scale), 0.3 * scale
    )
    scene.put(trunk, (70.0, 58.0, 45.0), "tree", z, grain=9)
    leaves = np.array([rng.uniform(35, 110), rng.uniform(55, 105), rng.uniform(20, 55)], np.float32)
    radius = 0.3 * high * scale
    for _ in range(7):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.75) * radius
        blob = scene.ellipse(
            column + reach * np.cos(angle),
            foot - 0.68 * high * scale + reach * np.sin(angle),
            radius * rng.uniform(0.45, 0.75),
            radius * rng.uniform(0.4, 0.7),
        )
        scene.put(blob, leaves * rng.uniform(0.75, 1.15), "tree", z, grain=22)


def pole(scene: Scene, x: float, z: float, high: float) -> None:
    """Paint a lamp post, some with an arm over the road.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> pole(scene, 1.0, 8.0, 5.0)
    >>> 2 in scene.label
    True
    """
    rng = scene.rng
    column, foot, scale = scene.upright(x, z)
    color, thick = scene.paint_color(), max(1.6, rng.uniform(0.14, 0.3) * scale)
    top = foot - high * scale
    scene.put(scene.line((column, foot), (column, top), thick), color, "pole", z)
    if rng.random() < 0.5:
        reach = -np.sign(x) * rng.uniform(0.8, 1.8) * scale
        scene.put(
            scene.line((column, top), (column + reach, top - 0.2 * scale), 0.6 * thick), color, "pole", z
        )


def sign(scene: Scene, x: float, z: float) -> None:
    """Paint a traffic sign (disc, triangle or plate) or traffic light on its post.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> sign(scene, 1.0, 8.0)
    >>> 6 in scene.label
    True
    """
    rng = scene.rng
    column, foot, scale = scene.upright(x, z)
    middle, half = foot - rng.uniform(2.0, 3.2) * scale, max(2.0, rng.uniform(0.35, 0.65) * scale)
    scene.put(
        scene.line((column, foot), (column, middle), max(1.5, 0.1 * scale)), scene.paint_color(), "pole", z
    )
    rim, face = scene.paint_color(), scene.paint_color() + 40
    kind = rng.integers(4)
    if kind == 3:  # traffic light
        points = [(-0.5, -1.3), (0.5, -1.3), (0.5, 1.3), (-0.5, 1.3)]
        box = np.array([(column + a * half, middle + b * half) for a, b in points])
        scene.put(scene.polygon(box), (28.0, 30.0, 30.0), "sign", z)
        for i, lamp in enumerate([(200, 40, 30), (210, 150, 30), (40, 190, 90)]):
            on = 1.0 if i == rng.integers(3) else 0.35
            disc = scene.ellipse(column, middle + (i - 1) * 0.8 * half, 0.3 * half, 0.3 * half)
            scene.put(disc, np.array(lamp, np.float32) * np.float32(on), "sign", z)
        return
    for size, color in ((half, rim), (0.65 * half, face)):
        if kind == 0:
            shape = scene.ellipse(column, middle, size, size)
        elif kind == 1:
            shape = scene.polygon(
                [
                    (column - size, middle + 0.7 * size),
                    (column + size, middle + 0.7 * size),
                    (column, middle - size),
                ]
            )
        else:
            shape = scene.polygon(
                [
                    (column + a * size, middle + b * size)
                    for a, b in ((-1, -0.8), (1, -0.8), (1, 0.8), (-1, 0.8))
                ]
            )
        scene.put(shape, color, "sign", z)


def fence(scene: Scene, x: float, near: float, far: float) -> None:
    """Paint a fence along the road: bars and rails, with the background visible between them.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> fence(scene, 3.0, 8.0, 15.0)
    >>> 7 in scene.label
    True
    """
    rng = scene.rng
    depth, height, mask = scene.side_plane(x, near, far)
    high = rng.uniform(1.0, 1.7)
    mask = mask & (height >= 0) & (height <= high)
    pitch = rng.uniform(0.25, 0.6)
    bars = (
        ((depth % pitch) < 0.4 * pitch)
        | (np.abs(height - 0.12 * high) < 0.07)
        | (np.abs(height - 0.93 * high) < 0.08)
    )
    through = scene.image.copy()
    scene.put(mask, 0.85 * through, "fence", 0.0, grain=0.0)
    scene.put(mask & bars, scene.paint_color(), "fence", depth)


def car(scene: Scene, x: float, z: float, kind: int) -> None:
    """Paint a car (0), van (1) or bus (2): its end, and the side that faces the camera.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> car(scene, 1.0, 10.0, kind=0)
    >>> 8 in scene.label
    True
    """
    rng = scene.rng
    wide, high, long = ((1.75, 1.45, 4.2), (1.95, 2.1, 4.8), (2.45, 3.1, 9.5))[kind]
    body, dark = scene.paint_color(), np.array([28, 30, 34], np.float32) + np.float32(rng.uniform(0, 40))
    column, foot, scale = scene.upright(x, z)
    scene.put(
        scene.polygon(box(column, foot, 0.55 * wide * scale, -0.1 * scale, 0.22 * scale)),
        (25.0, 25.0, 28.0),
        None,
        z,
    )
    side = x - np.sign(x) * wide / 2
    if abs(x) > wide / 2 + 0.2:
        depth, height, mask = scene.side_plane(side, z, z + long)
        along = (depth - z) / long
        roof = high - (0.45 * high * ((along < 0.15) | (along > 0.72)) if kind == 0 else 0.0)
        shell = mask & (height > 0.25) & (height < roof)
        scene.put(shell, body * np.float32(0.8), "car", depth)
        pane = (
            (height > 0.58 * high) & (height < 0.9 * high) & (along > 0.2) & (along < 0.7 + 0.2 * (kind > 0))
        )
        scene.put(mask & pane & ((along * 5 % 1) > 0.12), dark, "car", depth)
        for axle in (0.18, 0.8):
            tyre = ((depth - z - axle * long) / 0.36) ** 2 + ((height - 0.33) / 0.34) ** 2 < 1
            scene.put(mask & tyre, (22.0, 22.0, 24.0), "car", depth)
    half = wide / 2 * scale
    for tyre_column in (column - 0.75 * half, column + 0.75 * half):
        scene.put(
            scene.polygon(box(tyre_column, foot, 0.2 * half, 0, 0.4 * scale)), (22.0, 22.0, 24.0), "car", z
        )
    waist = 0.62 * high * scale
    scene.put(scene.polygon(box(column, foot, half, 0.22 * scale, waist)), body, "car", z)
    slope = 0.82 if kind == 0 else 0.97
    top = [
        (column - half, foot - waist),
        (column + half, foot - waist),
        (column + slope * half, foot - high * scale),
        (column - slope * half, foot - high * scale),
    ]
    scene.put(scene.polygon(top), body, "car", z)
    inner = np.array(top) * 0.8 + np.mean(top, axis=0) * 0.2
    scene.put(scene.polygon(inner), dark, "car", z)
    lamp = np.array([190, 40, 35] if rng.random() < 0.6 else [235, 230, 205], np.float32)
    for end in (-1, 1):
        scene.put(
            scene.polygon(box(column + end * 0.8 * half, foot, 0.14 * half, 0.45 * scale, 0.7 * scale)),
            lamp,
            "car",
            z,
        )
    scene.put(
        scene.polygon(box(column, foot, 0.28 * half, 0.42 * scale, 0.56 * scale)),
        (205.0, 200.0, 150.0),
        "car",
        z,
    )


def junk(scene: Scene, x: float, z: float) -> None:
    """Paint a bin or box that CamVid would leave unlabelled.

    >>> scene = Scene(np.random.default_rng(0), 64, 96)
    >>> junk(scene, 1.0, 8.0)
    >>> 11 in scene.label
    True
    """
    column, foot, scale = scene.upright(x, z)
    half, high = scene.rng.uniform(0.25, 0.5) * scale, scene.rng.uniform(0.7, 1.3) * scale
    color = scene.paint_color() * (1 + 0.2 * value_noise(scene.rng, scene.height, scene.width, 40))[..., None]
    scene.put(scene.polygon(box(column, foot, half, 0, high)), color, "void", z)
