"""CamVid for mmseg: 11 classes, void (11) read as 255."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import TRANSFORMS

from mmseol.camvid.layout import CLASSES, HELP, PALETTE, VOID, Pair, check_pair_headers, find_pairs
from mmseol.registry import DATASETS

__all__ = ["CamVidDataset"]

IGNORE = 255


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid (Brostow et al., PRL 2009) with SegNet's 11 classes, laid out as in :mod:`mmseol.camvid.layout`.

    Void (11 in the files) becomes 255, the label that mmseg's padding, crop, heads and ``IoUMetric`` ignore;
    255 in a file stays 255. ``metainfo=dict(classes=...)`` selects a subset or another order; other classes
    become 255. On a local disk, the data set checks that every image has a label map of its size when it
    reads the list, so that an incomplete copy is found before training starts.

    >>> CamVidDataset.METAINFO["classes"][:3]
    ('sky', 'building', 'pole')
    >>> CamVidDataset.get_label_map()
    {11: 255}

    Args:
        ann_file: File with the names of images, without suffix, one per line; ``''``: all in the folder.
        img_suffix: End of the image files' names.
        seg_map_suffix: End of the label maps' names.
        reduce_zero_label: Only ``False``.
        **kwargs: Further arguments of :class:`mmseg.datasets.BaseSegDataset`, such as
            ``data_prefix=dict(img_path='train', seg_map_path='trainannot')``; without ``seg_map_path`` the
            images have no labels.

    Raises:
        FileNotFoundError: If a folder is missing or empty, or an image or label map has no partner.
        ValueError: If a label map is not of its image's size or not single-channel, if both prefixes name
            one folder, or if ``reduce_zero_label`` is set.
    """

    METAINFO: ClassVar[dict[str, Any]] = {"classes": CLASSES, "palette": [list(color) for color in PALETTE]}

    def __init__(
        self,
        ann_file: str = "",
        img_suffix: str = ".png",
        seg_map_suffix: str = ".png",
        reduce_zero_label: bool = False,
        **kwargs: Any,
    ) -> None:
        if reduce_zero_label:
            raise ValueError(
                "`reduce_zero_label` must be False for CamVid, got True: label 0 is the class sky. Void is "
                f"{VOID} and is ignored already."
            )
        self._label_loader: Any = None
        super().__init__(ann_file, img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """Return the labels that ``LoadAnnotations`` replaces by 255: void and unselected classes."""
        return {**(super().get_label_map(new_classes) or {}), VOID: IGNORE}

    def _update_palette(self) -> list[list[int]]:
        """Return the palette in the order of the classes; mmseg does not reorder it if all are selected."""
        palette, classes = self._metainfo["palette"], self._metainfo["classes"]
        if palette == self.METAINFO["palette"]:
            return [list(PALETTE[CLASSES.index(name)]) for name in classes]
        return super()._update_palette()

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return one record per image, after checking that the files fit together."""
        image_dir, label_dir = self.data_prefix.get("img_path"), self.data_prefix.get("seg_map_path")
        if image_dir == label_dir:
            raise ValueError(
                "`data_prefix` must name an image folder and a label folder, such as dict(img_path='train', "
                f"seg_map_path='trainannot'), got {self.data_prefix!r}."
            )
        local = self.backend_args is None or self.backend_args.get("backend", "local") == "local"
        if not local or "://" in str(image_dir):
            return super().load_data_list()
        if not Path(image_dir).is_dir():
            raise FileNotFoundError(f"The image folder {str(image_dir)!r} does not exist. {HELP}")
        records: list[dict[str, Any]] = super().load_data_list()
        if label_dir is None:
            if not records:
                raise FileNotFoundError(
                    f"The image folder {str(image_dir)!r} holds no '*{self.img_suffix}' file. {HELP}"
                )
            return records
        listed = [
            Path(record["img_path"]).relative_to(image_dir).as_posix()[: -len(self.img_suffix)]
            for record in records
        ]
        pairs: list[Pair] = find_pairs(
            image_dir,
            label_dir,
            self.img_suffix,
            self.seg_map_suffix,
            names=listed if self.ann_file else None,
        )
        check_pair_headers(pairs)
        return records

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes in the label map of image ``idx``, ascending, without void.

        :class:`mmengine.dataset.ClassBalancedDataset` needs it. The label map is read by
        ``LoadAnnotations``, before any augmentation.
        """
        info: Mapping[str, Any] = self.get_data_info(idx)
        if "seg_map_path" not in info:
            raise ValueError(
                "`get_cat_ids` needs label maps: give `data_prefix` a `seg_map_path`, such as 'trainannot'."
            )
        if self._label_loader is None:
            self._label_loader = TRANSFORMS.build(
                {"type": "LoadAnnotations", "backend_args": self.backend_args}
            )
        present = np.unique(self._label_loader(dict(info))["gt_seg_map"])
        return [int(value) for value in present if value < len(self._metainfo["classes"])]
