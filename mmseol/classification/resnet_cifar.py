"""ResNets of He et al. for CIFAR: three stages of 16, 32 and 64 channels, depth 6n + 2."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from mmseol.registry import MODELS

__all__ = ["PadShortcut", "SmallResNet"]


class PadShortcut(nn.Module):
    """Shortcut without parameters ("option A"): take every ``stride``-th pixel, add channels of zeros.

    >>> import torch
    >>> PadShortcut(2, 4, stride=2)(torch.ones(1, 2, 4, 4)).sum(dim=(2, 3))
    tensor([[0., 4., 4., 0.]])

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, at least as many.
        stride: Step in both directions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.pad = (extra // 2, extra - extra // 2)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


@MODELS.register_module()
class SmallResNet(ResNet_CIFAR):
    """ResNet-8, 14, 20, 32, 44, 56 or 110 for 32x32 images (He et al., CVPR 2016, sec. 4.2).

    A 3x3 stem and three stages of n basic blocks with 16, 32 and 64 channels, depth 6n + 2, and
    :class:`PadShortcut`. ResNet-32 with a linear classifier of 10 classes has 464,154 parameters; the
    literature on long-tailed CIFAR uses it. The output is a tuple of one map, (N, 4 * base_channels, 8, 8)
    for images of 32x32.

    >>> import torch
    >>> (features,) = SmallResNet(depth=8)(torch.zeros(2, 3, 32, 32))
    >>> features.shape
    torch.Size([2, 64, 8, 8])

    Args:
        depth: Number of layers, one of the above.
        base_channels: Channels of the stem and the first stage.
        **kwargs: Further arguments of mmpretrain's ``ResNet_CIFAR``.

    Raises:
        ValueError: If there is no such depth.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n, n, n)) for n in (1, 2, 3, 5, 7, 9, 18)}  # noqa: RUF012

    def __init__(self, depth: int = 32, base_channels: int = 16, **kwargs: Any) -> None:
        if depth not in self.arch_settings:
            known = ", ".join(map(str, self.arch_settings))
            raise ValueError(f"`depth` must be one of {known}, got {depth!r}.")
        defaults = dict(
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
            zero_init_residual=False,
        )
        super().__init__(
            depth, stem_channels=base_channels, base_channels=base_channels, **{**defaults, **kwargs}
        )
        for name in self.res_layers:
            block = getattr(self, name)[0]
            if block.downsample is not None:
                block.downsample = PadShortcut(block.in_channels, block.out_channels, block.stride)
