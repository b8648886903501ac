"""The data sets of the examples in docstrings.

``dataset`` has ten images, of which seven are cats and three dogs; ``road_scenes`` has four label maps of 2x2
pixels, of which one has a bicyclist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger


class CatsAndDogs(BaseDataset):
    """Labels without files."""

    METAINFO = {"classes": ("cat", "dog")}  # noqa: RUF012

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": f"{i}.jpg", "gt_label": int(i > 6)} for i in range(10)]


class LoadAnnotations:
    """Make a label map in place of reading a file."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        labels = np.zeros((2, 2), dtype=np.uint8)
        labels[0, 0] = results["seg_map_path"] == "3.png"
        return {**results, "gt_seg_map": labels}


class RoadScenes(BaseDataset):
    """Label maps without files."""

    METAINFO = {"classes": ("road", "bicyclist")}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(pipeline=[LoadAnnotations()])

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": f"{i}.jpg", "seg_map_path": f"{i}.png"} for i in range(4)]


@pytest.fixture(scope="session", autouse=True)
def _example_data(doctest_namespace: dict[str, Any]) -> None:
    MMLogger.get_current_instance()  # writes to the standard output of now, not to that of an example
    doctest_namespace.update(dataset=CatsAndDogs(), road_scenes=RoadScenes())
