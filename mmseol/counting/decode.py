"""Count the pixels of each value in the file of a label map, and read the sizes of images."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from mmengine import fileio
from numpy.typing import NDArray

__all__ = ["check_depth", "count_file", "count_values", "image_size", "is_local", "is_whole", "reads_file"]

# Settings of mmseg's LoadAnnotations that are known here. With any other its label maps are counted as it
# loads them.
_SETTINGS = {
    "with_bbox": False,
    "with_label": False,
    "with_seg": True,
    "with_keypoints": False,
    "file_client_args": None,
    "imdecode_backend": "pillow",
}
_LOADER = ("mmseg.datasets.transforms.loading", "LoadAnnotations")


def count_file(loader: Any, info: Mapping[str, Any]) -> tuple[dict[int, int], tuple[int, int]] | None:
    """Return the pixels of each label, and H and W, of the label map that ``loader`` would load for ``info``.

    mmseg's ``LoadAnnotations`` replaces labels (``reduce_zero_label``, ``label_map``) by passes over the
    pixels that take longer than decoding. Here the values in the file are counted as Pillow decodes them,
    and then the 256 values are replaced. Returns ``None`` for any other transform, decoder or kind of file.

    >>> from types import SimpleNamespace
    >>> count_file(loader=SimpleNamespace(), info={"seg_map_path": "map.png"}) is None
    True
    """
    from PIL import Image

    if not _is_stock(loader, info):
        return None
    with (
        io.BytesIO(fileio.get(info["seg_map_path"], backend_args=loader.backend_args)) as buffer,
        Image.open(buffer) as image,
    ):
        if image.mode not in ("L", "P") or 1 in image.size:
            return None
        size = image.height, image.width
        pixels = image.histogram()
    labels = _labels(bool(info["reduce_zero_label"]), tuple((info.get("label_map") or {}).items()))
    counts: dict[int, int] = {}
    for label, number in zip(labels, pixels, strict=True):  # of 256 values, a dict is as fast as an array
        if number:
            counts[label] = counts.get(label, 0) + number
    return counts, size


def check_depth(loader: Any, info: Mapping[str, Any]) -> None:
    """Check that no label of a file is lost where mmseg's ``LoadAnnotations`` casts it to 8 bits.

    >>> check_depth(loader=None, info={"seg_map_path": "map.png"})  # another loader does not cast

    Raises:
        ValueError: If the file holds a label above 255.
    """
    from PIL import Image

    if not reads_file(loader):
        return
    content = fileio.get(info["seg_map_path"], backend_args=loader.backend_args)
    with io.BytesIO(content) as buffer, Image.open(buffer) as image:
        if image.mode.startswith(("I", "F")):  # 16 or 32 bits
            highest = np.asarray(image).max()
            if highest > 255:
                raise ValueError(
                    f"holds the label {highest} in more than 8 bits, which mmseg's LoadAnnotations cuts to "
                    f"{int(highest) % 256}. Write label maps of 8 bits with classes from 0, and 255 for void."
                )


def reads_file(loader: Any) -> bool:
    """Return whether a transform reads the file ``seg_map_path`` as mmseg's ``LoadAnnotations`` does.

    >>> reads_file(loader=None)
    False
    """
    return getattr(getattr(loader, "_load_seg_map", None), "__module__", None) == _LOADER[0]


def is_local(path: str, loader: Any = None) -> bool:
    """Return whether a path names a file on a local disk, read by a transform with the local backend.

    >>> is_local("data/map.png"), is_local("s3://data/map.png")
    (True, False)
    """
    backends = [getattr(loader, name, None) for name in ("backend_args", "file_client_args")]
    return "://" not in path and all(
        not settings or settings.get("backend") in ("local", "disk") for settings in backends
    )


def is_whole(path: str | Path) -> bool:
    """Return whether a PNG file has its end; the hosts cannot decode a truncated one.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (48, 32)).save(f"{folder}/a.png")
    ...     is_whole(f"{folder}/a.png")
    True
    """
    with open(path, "rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return True  # of another format
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 4096))
        return b"IEND" in file.read()


def image_size(path: str | Path) -> tuple[int, int] | None:
    """Return height and width of a local image as the hosts decode it, from its header alone.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (48, 32)).save(f"{folder}/a.png")
    ...     image_size(f"{folder}/a.png")
    (32, 48)

    Returns:
        H and W, or ``None`` if Pillow does not know the format.

    Raises:
        OSError: If there is no such file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                size = image.height, image.width
                # OpenCV turns photographs upright; the tag 274 says by how much.
                turned = "exif" in image.info and image.getexif().get(274, 1) > 4
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return None
    return size[::-1] if turned else size


def _is_stock(loader: Any, info: Mapping[str, Any]) -> bool:
    """Return whether a transform is mmseg's ``LoadAnnotations`` with settings that are known here."""
    kind, settings = type(loader), vars(loader)
    return (
        (kind.__module__, kind.__qualname__) == _LOADER
        and kind._load_seg_map.__module__ == _LOADER[0]
        and settings.keys() == _SETTINGS.keys() | {"reduce_zero_label", "backend_args"}
        and all(settings[name] == value for name, value in _SETTINGS.items())
        and info.keys() >= {"seg_map_path", "reduce_zero_label", "seg_fields"}
        and settings["reduce_zero_label"] in (None, info["reduce_zero_label"])
    )


@lru_cache
def _labels(reduce_zero_label: bool, label_map: tuple[tuple[int, int], ...]) -> list[int]:
    """Return the label into which mmseg's ``LoadAnnotations`` turns each of the 256 values."""
    values = np.arange(256, dtype=np.uint8)
    if reduce_zero_label:  # 0 and 255 are ignored, the rest moves down by one
        values = np.where((values == 0) | (values == 255), 255, values - 1).astype(np.uint8)
    labels = values.copy()
    for old, new in label_map:
        labels[values == old] = new
    return labels.tolist()


def count_values(labels: NDArray[Any]) -> dict[int, int]:
    """Return how often each value occurs in an array of whole numbers.

    >>> count_values(np.array([[0, 0, 2]], dtype=np.uint8))
    {0: 2, 2: 1}
    """
    if labels.dtype != np.uint8:
        values, pixels = np.unique(labels, return_counts=True)
        return dict(zip(values.tolist(), pixels.tolist(), strict=True))
    from PIL import Image

    # np.bincount would first copy the map to eight times its size.
    flat = Image.frombuffer("L", (labels.size, 1), np.ascontiguousarray(labels), "raw", "L", 0, 1)
    return {value: number for value, number in enumerate(flat.histogram()) if number}
