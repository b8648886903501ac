"""Images as arrays: a model's input as a picture, label maps in colours over it, captions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from mmseol.utils.checks import number
from mmseol.utils.modules import unwrap

__all__ = ["captioned", "check_palette", "input_image", "overlay"]

NEUTRAL = (255, 255, 255)
"""RGB of void: white, which common palettes use for no class."""


def check_palette(palette: ArrayLike) -> NDArray[np.uint8]:
    """Return a palette as RGB, uint8 of shape (K, 3).

    >>> check_palette([[200, 100, 0]]).tolist()
    [[200, 100, 0]]

    Raises:
        ValueError: If it has another shape, or values outside 0..255.
    """
    colors = np.asarray(palette)
    if colors.ndim != 2 or colors.shape[1] != 3 or colors.min() < 0 or colors.max() > 255:
        raise ValueError(
            f"`palette` must be RGB within 0..255 of shape (K, 3), got an array of shape {colors.shape}."
        )
    return colors.astype(np.uint8)


def overlay(
    image: NDArray[Any], label_map: NDArray[Any], palette: ArrayLike, alpha: float = 1.0
) -> NDArray[np.uint8]:
    """Return the label map in colours over its image, uint8 of shape (H, W, 3).

    >>> image = np.zeros((1, 2, 3))
    >>> overlay(image, np.array([[0, 255]]), palette=[[200, 100, 0]], alpha=0.5).tolist()
    [[[100, 50, 0], [128, 128, 128]]]

    Args:
        image: RGB, 0..255, (H, W, 3).
        label_map: Integers, (H, W); labels outside 0..K-1 are void and drawn in :data:`NEUTRAL`.
        palette: RGB of each class, 0..255, (K, 3).
        alpha: Weight of the label colours against the image; 1 shows the label map alone.

    Raises:
        ValueError: If shapes do not fit or ``alpha`` lies outside 0..1.
    """
    number("alpha", alpha, at_least=0, at_most=1)
    image, label_map = np.asarray(image), np.asarray(label_map)
    if image.ndim != 3 or image.shape[2] != 3 or label_map.shape != image.shape[:2]:
        raise ValueError(
            f"`image` must be of shape (H, W, 3) and `label_map` of shape (H, W), got {image.shape} and "
            f"{label_map.shape}."
        )
    colors = np.concatenate([check_palette(palette), np.array([NEUTRAL], np.uint8)])
    void = len(colors) - 1
    index = np.where((label_map >= 0) & (label_map < void), label_map, void).astype(np.int64)
    mixed = alpha * colors[index].astype(np.float64) + (1 - alpha) * image
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def input_image(inputs: Any, model: Any) -> NDArray[np.uint8]:
    """Return an input of a host's model, before its preprocessor, as RGB, 0..255, (H, W, 3).

    Values outside 0..255, which a pipeline has normalised, are stretched to that range.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> bgr = SimpleNamespace(data_preprocessor=SimpleNamespace(channel_conversion=True))
    >>> input_image(torch.tensor([[[1]], [[2]], [[3]]], dtype=torch.uint8), bgr).tolist()
    [[[3, 2, 1]]]

    Args:
        inputs: Tensor (C, H, W) with one channel, or with three first.
        model: Model whose preprocessor says whether the channels are BGR.
    """
    array = inputs.detach().cpu().numpy()
    array = np.repeat(array, 3, axis=0) if array.shape[0] == 1 else array[:3]
    preprocessor = getattr(unwrap(model), "data_preprocessor", None)
    names = ("_channel_conversion", "channel_conversion", "to_rgb")  # of mmengine, mmseg 1.2, mmpretrain
    if any(getattr(preprocessor, name, False) is True for name in names):
        array = array[::-1]
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if low < 0 or high > 255:
            array = (array - low) * (255 / max(high - low, 1e-12))
    return np.ascontiguousarray(array.transpose(1, 2, 0)).round().astype(np.uint8)


def captioned(image: NDArray[Any], text: str, width: int = 160) -> NDArray[np.uint8]:
    """Return the image, enlarged to at least ``width`` columns, with a line of text below.

    >>> captioned(np.zeros((8, 16, 3)), "cat 0.9").shape
    (96, 160, 3)

    Args:
        image: RGB, 0..255, (H, W, 3).
        text: Caption.
        width: Smallest width in pixels.
    """
    picture = Image.fromarray(np.asarray(image).astype(np.uint8))
    factor = -(-width // picture.width)
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    framed = Image.new("RGB", (picture.width, picture.height + 16), NEUTRAL)
    framed.paste(picture)
    ImageDraw.Draw(framed).text((3, picture.height + 2), text, fill=(0, 0, 0))
    return np.asarray(framed)
