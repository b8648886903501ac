"""CamVid's 32 original colours, and the 11 classes that SegNet made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmseol.camvid.layout import CLASSES, VOID

__all__ = ["ORIGINAL_CLASSES", "color_to_label"]

ORIGINAL_CLASSES: Mapping[str, tuple[tuple[int, int, int], str | None]] = {
    "Animal": ((64, 128, 64), "pedestrian"),
    "Archway": ((192, 0, 128), "building"),
    "Bicyclist": ((0, 128, 192), "bicyclist"),
    "Bridge": ((0, 128, 64), "building"),
    "Building": ((128, 0, 0), "building"),
    "Car": ((64, 0, 128), "car"),
    "CartLuggagePram": ((64, 0, 192), "pedestrian"),
    "Child": ((192, 128, 64), "pedestrian"),
    "Column_Pole": ((192, 192, 128), "pole"),
    "Fence": ((64, 64, 128), "fence"),
    "LaneMkgsDriv": ((128, 0, 192), "road"),
    "LaneMkgsNonDriv": ((192, 0, 64), "road"),
    "Misc_Text": ((128, 128, 64), "sign"),
    "MotorcycleScooter": ((192, 0, 192), "bicyclist"),
    "OtherMoving": ((128, 64, 64), "car"),
    "ParkingBlock": ((64, 192, 128), "sidewalk"),
    "Pedestrian": ((64, 64, 0), "pedestrian"),
    "Road": ((128, 64, 128), "road"),
    "RoadShoulder": ((128, 128, 192), "sidewalk"),
    "Sidewalk": ((0, 0, 192), "sidewalk"),
    "SignSymbol": ((192, 128, 128), "sign"),
    "Sky": ((128, 128, 128), "sky"),
    "SUVPickupTruck": ((64, 128, 192), "car"),
    "TrafficCone": ((0, 0, 64), "pole"),
    "TrafficLight": ((0, 64, 64), "sign"),
    "Train": ((192, 64, 128), "car"),
    "Tree": ((128, 128, 0), "tree"),
    "Truck_Bus": ((192, 128, 192), "car"),
    "Tunnel": ((64, 0, 64), "building"),
    "VegetationMisc": ((192, 192, 0), "tree"),
    "Void": ((0, 0, 0), None),
    "Wall": ((64, 192, 0), "building"),
}
"""The 32 original classes: RGB as in CamVid's ``label_colors.txt``, and SegNet's class that it belongs to
(``None``: void). The grouping is that of MathWorks' CamVid example for SegNet."""


def _codes(colors: NDArray[np.uint8]) -> NDArray[np.int64]:
    return colors.astype(np.int64) @ np.array([65536, 256, 1])


_ORDER = sorted(ORIGINAL_CLASSES.values())
_KNOWN = _codes(np.array([color for color, _ in _ORDER], dtype=np.uint8))
_TARGET = np.array([VOID if name is None else CLASSES.index(name) for _, name in _ORDER], dtype=np.uint8)


def color_to_label(
    colors: NDArray[np.uint8], path: str | Path, unknown_as_void: bool = False
) -> NDArray[np.uint8]:
    """Return the 11-class label map (H, W) of an original colour map (H, W, 3).

    >>> road, void = (128, 64, 128), (0, 0, 0)
    >>> color_to_label(np.array([[road, void]], dtype=np.uint8), "map.png")
    array([[ 3, 11]], dtype=uint8)

    Raises:
        ValueError: If a colour is none of the 32 and ``unknown_as_void`` is not set; names ``path``.
    """
    codes = _codes(colors)
    position = np.minimum(np.searchsorted(_KNOWN, codes), len(_KNOWN) - 1)
    unknown = _KNOWN[position] != codes
    label: NDArray[np.uint8] = _TARGET[position]
    if unknown.any():
        if not unknown_as_void:
            strange, pixels = np.unique(colors[unknown], axis=0, return_counts=True)
            shown = ", ".join(
                f"{tuple(color)} ({count} pixels)"
                for color, count in zip(strange[:5].tolist(), pixels[:5].tolist(), strict=True)
            )
            raise ValueError(
                f"The label map {str(path)!r} has {len(strange)} colour(s) that are none of CamVid's 32: "
                f"{shown}. Use the original PNG files, or take such pixels as void with `--unknown-as-void`."
            )
        label[unknown] = VOID
    return label
