"""The command ``predict``: images -> label maps or classes, scores and pictures."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mmseol.analysis.pictures import captioned, overlay
from mmseol.experiment.checkpoint_pass import built_model
from mmseol.experiment.commands import load_config
from mmseol.experiment.data import leaf_datasets
from mmseol.experiment.evaluation import require_empty
from mmseol.experiment.weights import check_classifier
from mmseol.utils.checks import number
from mmseol.utils.files import replacing
from mmseol.utils.unpickling import load_checkpoint, plain_data_only

__all__ = ["prepare_predict"]

_LABEL_STEPS = ("LoadAnnotations", "CheckLabelSize")
_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def prepare_predict(args: Namespace) -> Config:
    """Return the config of the model, and find the images.

    >>> prepare_predict(Namespace(image="missing.png"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: `image` must be an image or a folder with images (...), got 'missing.png'.

    Raises:
        ValueError: If an argument does not fit the config, or the output exists.
        FileNotFoundError: If there is no such config, checkpoint or image.
    """
    args.images = find_images(args.image)
    number("--opacity", args.opacity, at_least=0, at_most=1)
    if args.out is None:
        args.out = "prediction.png" if Path(args.image).is_file() else "predictions"
    if Path(args.out).suffix == ".png":
        if Path(args.out).exists():
            raise ValueError(f"`--out` {args.out!r} exists; name another file or remove it first.")
        if len(args.images) > 1 or args.scores:
            raise ValueError(f"`--out` must be a new or empty folder here, got the file {args.out!r}.")
    else:
        require_empty("--out", args.out)
    args.loaded = load_checkpoint(args.checkpoint, unsafe=args.unsafe_load)
    cfg = load_config(args)
    check_classifier(cfg, args.checkpoint, args.loaded)
    return cfg


def find_images(path: str) -> dict[str, Path]:
    """Return the image file, or the images in a folder and its subfolders, by name without suffix.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (4, 4)).save(folder / "a.png")
    >>> list(find_images(str(folder)))
    ['a']

    Raises:
        ValueError: If a file is not an image, or two images have the same name.
        FileNotFoundError: If there is no image.
    """
    root = Path(path)
    if root.is_file():
        root, paths = root.parent, [root]
    else:
        paths = sorted(file for file in root.rglob("*") if file.suffix.lower() in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"`image` must be an image or a folder with images ({', '.join(_SUFFIXES)}), got {path!r}."
        )
    images: dict[str, Path] = {}
    for file in paths:
        try:
            Image.open(file).close()
        except (OSError, UnidentifiedImageError) as error:
            raise ValueError(f"`image` {str(file)!r} cannot be read as an image: {error}") from error
        name = file.relative_to(root).with_suffix("").as_posix()
        if name in images:
            raise ValueError(
                f"`image` must have one image per name, got {str(images[name])!r} and {str(file)!r}."
            )
        images[name] = file
    return images


def run_predict(cfg: Config, args: Namespace) -> None:
    """Predict the images; write ``predictions.json``, label maps, scores and pictures into the folder.

    Raises:
        ValueError: If the checkpoint does not fit the config, or an image cannot be read.
    """
    with plain_data_only(args.unsafe_load):
        model = built_model(cfg, args.checkpoint, args.loaded, args.device)
        if cfg.get("default_scope") == "mmseg":
            from mmseol.segmentation import predict_upsample_free  # imports mmseg

            predict_upsample_free(model)
        dataset = next(leaf_datasets(cfg.test_dataloader.dataset))
        meta = (args.loaded.get("meta") or {}).get("dataset_meta")
        meta = meta or getattr(DATASETS.get(dataset.type), "METAINFO", {})  # weights of another program
        records = {}
        for name, result, image in _results(cfg, model, args):
            write = _write_label_map if "pred_sem_seg" in result else _write_class
            records[name] = write(name, result, image, meta, args)
    if Path(args.out).suffix != ".png":
        with replacing(Path(args.out) / "predictions.json", "w") as file:
            file.write(json.dumps(records, indent=1) + "\n")
    print(f"Wrote {args.out}.")


def _results(cfg: Config, model: Any, args: Namespace) -> Iterator[tuple[str, Any, NDArray[np.uint8]]]:
    from mmengine.dataset import Compose, pseudo_collate  # import OpenCV

    steps = list(next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline)
    loads = str(steps[0]["type"]).rpartition(".")[-1].startswith("Load")
    pipeline = Compose([step for step in steps if str(step["type"]).rpartition(".")[-1] not in _LABEL_STEPS])
    for name, path in args.images.items():
        try:
            with Image.open(path) as file:
                image = np.array(ImageOps.exif_transpose(file).convert("RGB"))
        except OSError as error:
            raise ValueError(f"`image` {str(path)!r} cannot be read: {error}") from error
        data: dict[str, Any] = {"img_path": str(path)}
        if not loads:  # the data set holds its images in memory, in RGB
            data |= {"img": image, "img_shape": image.shape[:2], "ori_shape": image.shape[:2]}
        with torch.no_grad():
            (result,) = model.test_step(pseudo_collate([pipeline(data)]))
        yield name, result, image


def _write_label_map(
    name: str, result: Any, image: NDArray[np.uint8], meta: dict[str, Any], args: Namespace
) -> dict[str, float]:
    """Write the files of one image; return the per cent of pixels of each class."""
    labels = result.pred_sem_seg.data[0].cpu().numpy()
    classes = meta.get("classes") or [str(k) for k in range(max(int(labels.max()) + 1, 2))]
    palette = np.asarray(meta.get("palette") if meta.get("palette") is not None else [])
    if not palette.size:
        palette = np.random.default_rng(0).integers(0, 256, (len(classes), 3))
    picture = overlay(image, labels, palette, args.opacity)
    if Path(args.out).suffix == ".png":
        _save(Path(args.out), picture)
    else:
        out = Path(args.out)
        _save(out / "overlays" / f"{name}.png", picture)
        _save(
            out / "label_maps" / f"{name}.png", labels.astype(np.uint8 if len(classes) <= 256 else np.uint16)
        )
        if args.scores:
            scores = result.seg_logits.data.float().cpu().numpy()
            with replacing(out / "scores" / f"{name}.npz") as file:
                np.savez_compressed(file, scores=scores)
    pixels = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size * 100
    return {cls: round(float(percent), 3) for cls, percent in zip(classes, pixels, strict=False) if percent}


def _write_class(
    name: str, result: Any, image: NDArray[np.uint8], meta: dict[str, Any], args: Namespace
) -> dict[str, Any]:
    """Write the picture of one image; return its class and scores."""
    scores = result.pred_score.float().cpu().numpy()
    label = int(result.pred_label)
    classes = meta.get("classes") or [str(k) for k in range(len(scores))]
    picture = captioned(image, f"{classes[label]} {scores[label]:.2f}")
    out = Path(args.out)
    _save(out if out.suffix == ".png" else out / "pictures" / f"{name}.png", picture)
    if args.scores:
        with replacing(out / "scores" / f"{name}.npz") as file:
            np.savez_compressed(file, scores=scores)
    return {"label": label, "class": classes[label], "score": round(float(scores[label]), 6)}


def _save(path: Path, pixels: NDArray[Any]) -> None:
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="png")
