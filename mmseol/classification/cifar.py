"""CIFAR-10 and CIFAR-100 from the original files or from folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.datasets import CIFAR10 as HostCIFAR10
from mmpretrain.datasets import CIFAR100 as HostCIFAR100
from PIL import Image

from mmseol.registry import DATASETS

__all__ = ["CIFAR10", "CIFAR100"]

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


@DATASETS.register_module()
class CIFAR10(HostCIFAR10):
    """CIFAR-10 in either of two layouts of ``data_root``; never downloaded.

    - ``cifar-10-batches-py/`` of the original archive, as in mmpretrain's class of this name;
    - ``{train,test}/<class>/*.png``, 32x32; folders have the names of the classes and may hold a part of the
      data, which is read in the order of the files' names.

    Images are kept in memory as uint8 RGB (32, 32, 3).

    >>> CIFAR10(data_root="nowhere", lazy_init=True).metainfo["classes"][:2]
    ('airplane', 'automobile')

    Args:
        data_root: The folder.
        split: ``'train'`` or ``'test'``.
        **kwargs: Further arguments of mmpretrain's ``CIFAR10``.

    Raises:
        FileNotFoundError: If ``data_root`` has neither layout.
        ValueError: If the folders are not the classes, one is empty, or an image is not 32x32.
    """

    def __init__(self, data_root: str, split: str = "train", **kwargs: Any) -> None:
        super().__init__(data_root=data_root, split=split, **{"download": False, **kwargs})

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return image and label of every sample."""
        folder = Path(self.data_root) / self.split
        if (Path(self.data_root) / self.base_folder).is_dir():
            return super().load_data_list()
        if folder.is_dir():
            return self._load_folders(folder)
        raise FileNotFoundError(
            f"`data_root` must hold {self.base_folder}/ (the original archive, unpacked) or "
            f"{self.split}/<class>/*.png, got {self.data_root!r} with neither. Give the right folder "
            "(--data-root), or download the archive from "
            f"{self.url}."
        )

    def _load_folders(self, folder: Path) -> list[dict[str, Any]]:
        classes = self.metainfo["classes"]
        found = {path.name for path in folder.iterdir() if path.is_dir()}
        if found != set(classes):
            missing, unknown = sorted(set(classes) - found), sorted(found - set(classes))
            raise ValueError(
                f"The folders in {folder} must be the {len(classes)} classes of {type(self).__name__}, got "
                f"{len(found)} folders; missing: {_some(missing)}; unknown: {_some(unknown)}."
            )
        data = []
        for label, name in enumerate(classes):
            files = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _IMAGES)
            if not files:
                raise ValueError(f"{folder / name} must hold images ({', '.join(_IMAGES)}), got none.")
            data += [{"img": _read(path), "gt_label": label, "img_path": str(path)} for path in files]
        return data


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100, as :class:`CIFAR10`; the folder of the original archive is ``cifar-100-python/``.

    >>> len(CIFAR100(data_root="nowhere", lazy_init=True).metainfo["classes"])
    100
    """

    base_folder = HostCIFAR100.base_folder
    url = HostCIFAR100.url
    filename = HostCIFAR100.filename
    tgz_md5 = HostCIFAR100.tgz_md5
    train_list = HostCIFAR100.train_list
    test_list = HostCIFAR100.test_list
    meta = HostCIFAR100.meta
    METAINFO = HostCIFAR100.METAINFO


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"{path} must be an image of 32x32, got {pixels.shape[1]}x{pixels.shape[0]}.")
    return pixels


def _some(names: list[str]) -> str:
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
    )
