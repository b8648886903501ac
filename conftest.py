"""The data set of the examples in docstrings: ``dataset``, seven images of cats and three of dogs."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.dataset import BaseDataset


class CatsAndDogs(BaseDataset):
    """Labels without files."""

    METAINFO = {"classes": ("cat", "dog")}  # noqa: RUF012

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"img_path": f"{i}.jpg", "gt_label": int(i > 6)} for i in range(10)]


@pytest.fixture(scope="session", autouse=True)
def _example_data(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["dataset"] = CatsAndDogs()
