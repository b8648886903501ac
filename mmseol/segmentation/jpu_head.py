"""FastFCN as one decode head: joint pyramid upsampling (JPU), then a context head of mmseg.

FastFCN is Wu et al., "FastFCN: Rethinking Dilated Convolution in the Backbone for Semantic
Segmentation", arXiv 1903.11816. In mmseg it consists of a neck ``JPU`` and a head. This head contains the
same modules under the same names, so that a checkpoint of mmseg's FastFCN loads with
``revise_keys=[(r'^neck\\.', 'decode_head.jpu.')]`` (an argument of mmengine's ``load_checkpoint``); all other
keys stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmseg.models.decode_heads import ASPPHead, EncHead, FCNHead, PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS as HOST_MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmseol.registry import MODELS

__all__ = ["JPUASPPHead", "JPUEncHead", "JPUFCNHead", "JPUHead", "JPUPSPHead"]


@MODELS.register_module()
class JPUHead(BaseDecodeHead):
    """FastFCN head (arXiv 1903.11816): the last three stages -> JPU at stride 8 -> context -> classes.

    ``JPUHead(context=...)`` builds one of its subclasses, as ``pathlib.Path`` does: :class:`JPUFCNHead`,
    :class:`JPUPSPHead`, :class:`JPUASPPHead` or :class:`JPUEncHead`. Derive own heads from those. ``forward``
    returns (N, out_channels, H/8, W/8).

    >>> head = JPUHead(
    ...     in_channels=(8, 16, 32), in_index=(0, 1, 2), jpu_channels=8, channels=8, num_classes=4,
    ...     loss_decode=dict(type="mmseol.OneHotMSELoss"),
    ... )
    >>> head([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), torch.zeros(2, 32, 2, 2)]).shape
    torch.Size([2, 4, 8, 8])

    Args:
        in_channels: Channels of the stages of stride 8, 16 and 32, in this order.
        in_index: Indices of these stages among the backbone's outputs.
        jpu_channels: Channels of each of the ``len(jpu_dilations)`` branches of the JPU.
        context: ``'fcn'``, ``'psp'``, ``'aspp'`` or ``'enc'``.
        norm_cfg: Normalisation of the head.
        channels: Channels before the classifier.
        num_classes: Number of classes.
        context_cfg: Options of mmseg's head of that context. Missing options have FastFCN's values
            (``defaults`` of each class), which may differ from mmseg's.
        jpu_dilations: Dilations of the JPU's branches.
        jpu_norm_cfg: Normalisation of the JPU; ``None``: ``norm_cfg`` if that is a batch norm of any kind,
            else BN, so that its weights have the names of mmseg's neck.
        input_transform: Only ``'multiple_select'``.
        **kwargs: Further arguments of mmseg's ``BaseDecodeHead``.

    Raises:
        ValueError: If a context or an option is unknown, or there are not three stages.
    """

    contexts: ClassVar[dict[str, type[JPUHead]]] = {}
    context: ClassVar[str]
    defaults: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, context: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if context is not None:
            cls.context = context
            JPUHead.contexts[context] = cls

    def __new__(
        cls,
        in_channels: Sequence[int] = (),
        in_index: Sequence[int] = (),
        jpu_channels: int = 512,
        context: str = "fcn",
        *args: Any,
        **kwargs: Any,
    ) -> JPUHead:
        if cls is not JPUHead:
            return super().__new__(cls)
        if context not in cls.contexts:
            raise ValueError(f"`context` must be one of {sorted(cls.contexts)}, got {context!r}.")
        return super().__new__(cls.contexts[context])

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int],
        jpu_channels: int = 512,
        context: str | None = None,
        norm_cfg: Mapping[str, Any] | None = MappingProxyType({"type": "BN"}),
        *,
        channels: int = 512,
        num_classes: int,
        context_cfg: Mapping[str, Any] | None = None,
        jpu_dilations: Sequence[int] = (1, 2, 4, 8),
        jpu_norm_cfg: Mapping[str, Any] | None = None,
        input_transform: str = "multiple_select",
        **kwargs: Any,
    ) -> None:
        stages = _ints("in_channels", in_channels, positive=True, length=3)
        index = _ints("in_index", in_index, length=3)
        dilations = _ints("jpu_dilations", jpu_dilations, positive=True)
        width = len(dilations) * _ints("jpu_channels", [jpu_channels], positive=True)[0]
        if context not in (None, self.context):
            raise ValueError(f"`context` of {type(self).__name__} must be {self.context!r}, got {context!r}.")
        if input_transform != "multiple_select":
            raise ValueError(
                f"`input_transform` must be 'multiple_select', got {input_transform!r}. Leave it out: the "
                "JPU reads its three stages one by one."
            )
        options = self._options(context_cfg, kwargs)
        if options.get("num_convs") == 0 and width != channels:
            raise ValueError(
                f"`channels` must be {width}, the JPU's width, where num_convs=0, got {channels}."
            )
        norm_cfg = None if norm_cfg is None else dict(norm_cfg)
        super().__init__(
            **self._host_inputs([*stages[:-1], width]),
            channels=channels,
            num_classes=num_classes,
            norm_cfg=norm_cfg,
            **options,
            **kwargs,
        )
        self.in_channels, self.in_index, self.input_transform = list(stages), list(index), input_transform
        if jpu_norm_cfg is None:
            jpu_norm_cfg = norm_cfg if _is_batch_norm(norm_cfg) else {"type": "BN"}
        self.jpu = HOST_MODELS.build(
            {
                "type": "mmseg.JPU",
                "in_channels": stages,
                "mid_channels": jpu_channels,
                "dilations": dilations,
                "align_corners": self.align_corners,
                "conv_cfg": self.conv_cfg,
                "norm_cfg": jpu_norm_cfg,
                "act_cfg": self.act_cfg,
            }
        )

    @classmethod
    def _options(cls, given: Mapping[str, Any] | None, others: Mapping[str, Any]) -> dict[str, Any]:
        """Return the context's options with defaults; refuse unknown and misplaced ones."""
        options = {**cls.defaults, **(given or {})}
        if unknown := sorted(options.keys() - cls.defaults.keys()):
            raise ValueError(
                f"`context_cfg` must hold options of the context {cls.context!r}, which are "
                f"{sorted(cls.defaults)}, got {unknown}."
            )
        if misplaced := sorted({name for c in cls.contexts.values() for name in c.defaults} & others.keys()):
            raise ValueError(
                f"`context_cfg` must hold the options of the context {cls.context!r}, which are "
                f"{sorted(cls.defaults)}, got {misplaced} outside of it (`jpu_dilations` are the JPU's)."
            )
        for name in ("pool_scales", "dilations"):
            if name in options:
                options[name] = _ints(name, options[name], positive=True)
        return options

    @staticmethod
    def _host_inputs(in_channels: list[int]) -> dict[str, Any]:
        """Return the host head's input arguments; ``in_channels`` are those of the JPU's three outputs."""
        return {"in_channels": in_channels[-1], "in_index": 0}

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Return the input of mmseg's head: the JPU's map (N, 4 * jpu_channels by default, H/8, W/8)."""
        return self.jpu(BaseDecodeHead._transform_inputs(self, inputs))[-1]


class JPUFCNHead(JPUHead, FCNHead, context="fcn"):
    """JPU and ``FCNHead``, by default with the one 3x3 convolution of FastFCN's FCN.

    >>> loss = dict(type="mmseol.OneHotMSELoss")
    >>> head = JPUFCNHead((8, 16, 32), (0, 1, 2), 8, channels=8, num_classes=4, loss_decode=loss)
    >>> head([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), torch.zeros(2, 32, 2, 2)]).shape
    torch.Size([2, 4, 8, 8])
    """

    defaults: ClassVar[dict[str, Any]] = {
        "num_convs": 1,
        "kernel_size": 3,
        "concat_input": False,
        "dilation": 1,
    }


class JPUPSPHead(JPUHead, PSPHead, context="psp"):
    """JPU and ``PSPHead`` (arXiv 1612.01105).

    >>> options = dict(context_cfg=dict(pool_scales=(1, 2)), loss_decode=dict(type="mmseol.OneHotMSELoss"))
    >>> head = JPUPSPHead((8, 16, 32), (0, 1, 2), 8, channels=8, num_classes=4, **options)
    >>> head([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), torch.zeros(2, 32, 2, 2)]).shape
    torch.Size([2, 4, 8, 8])
    """

    defaults: ClassVar[dict[str, Any]] = {"pool_scales": (1, 2, 3, 6)}


class JPUASPPHead(JPUHead, ASPPHead, context="aspp"):
    """JPU and ``ASPPHead`` (arXiv 1706.05587), by default with the dilations for stride 8.

    >>> options = dict(context_cfg=dict(dilations=(1, 6)), loss_decode=dict(type="mmseol.OneHotMSELoss"))
    >>> head = JPUASPPHead((8, 16, 32), (0, 1, 2), 8, channels=8, num_classes=4, **options)
    >>> head([torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), torch.zeros(2, 32, 2, 2)]).shape
    torch.Size([2, 4, 8, 8])
    """

    defaults: ClassVar[dict[str, Any]] = {"dilations": (1, 12, 24, 36)}


class JPUEncHead(JPUHead, EncHead, context="enc"):
    """JPU and ``EncHead`` (arXiv 1803.08904), with its SE loss: BCE over the classes present in the image.

    >>> from mmengine.registry import DefaultScope
    >>> with DefaultScope.overwrite_default_scope("mmseg"):  # of its default losses
    ...     head = JPUEncHead((8, 16, 32), (0, 1, 2), jpu_channels=8, channels=8, num_classes=4)
    >>> inputs = [torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4), torch.zeros(2, 32, 2, 2)]
    >>> [outputs.shape for outputs in head(inputs)]
    [torch.Size([2, 4, 8, 8]), torch.Size([2, 4])]
    """

    defaults: ClassVar[dict[str, Any]] = {
        "num_codes": 32,
        "use_se_loss": True,
        "add_lateral": False,
        "loss_se_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 0.2},
    }

    @staticmethod
    def _host_inputs(in_channels: list[int]) -> dict[str, Any]:
        return {"in_channels": in_channels, "in_index": [0, 1, 2]}

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(self.jpu(BaseDecodeHead._transform_inputs(self, inputs)))  # strides 8, 16, and the map

    def _encode(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the image's encoding (N, channels) and the re-weighted map (N, channels, H/8, W/8)."""
        *stages, x = self._transform_inputs(inputs)
        x = self.bottleneck(x)
        if self.add_lateral:
            laterals = [
                resize(conv(stage), size=x.shape[2:], mode="bilinear", align_corners=self.align_corners)
                for conv, stage in zip(self.lateral_convs, stages, strict=True)
            ]
            x = self.fusion(torch.cat([x, *laterals], dim=1))
        encoding, x = self.enc_module(x)
        return encoding, x

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the map before the classifier, (N, channels, H/8, W/8)."""
        return self._encode(inputs)[1]

    def forward(self, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Return the outputs (N, out_channels, H/8, W/8), with the SE loss also its (N, num_classes)."""
        encoding, x = self._encode(inputs)
        outputs = self.cls_seg(x)
        return (outputs, self.se_layer(encoding)) if self.use_se_loss else outputs

    def loss_by_feat(
        self, seg_logit: Tensor | tuple[Tensor, Tensor], batch_data_samples: list, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return the losses. Unlike mmseg's, it works without SE loss and does not count void as a class."""
        outputs, se_outputs = seg_logit if self.use_se_loss else (seg_logit, None)
        losses = super(EncHead, self).loss_by_feat(outputs, batch_data_samples)
        if self.use_se_loss:
            labels = self._stack_batch_gt(batch_data_samples).long()
            if self.ignore_index is not None:
                labels = labels.masked_fill(labels == self.ignore_index, -1)  # histc skips labels below 0
            present = self._convert_to_onehot_labels(labels, self.num_classes)
            losses["loss_se"] = self.loss_se_decode(se_outputs, present)
        return losses


def _ints(name: str, value: Any, positive: bool = False, length: int | None = None) -> tuple[int, ...]:
    """Return ``value`` as a tuple of ints (configs hold lists); raise an error that names the argument."""
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not all(isinstance(v, int) and not isinstance(v, bool) and (v > 0 or not positive) for v in value)
        or not value
    ):
        raise ValueError(f"`{name}` must be a list of {'positive ' * positive}integers, got {value!r}.")
    if length is not None and len(value) != length:
        raise ValueError(
            f"`{name}` must name {length} stages, those of stride 8, 16 and 32, got {len(value)}: {value!r}."
        )
    return tuple(value)


def _is_batch_norm(norm_cfg: Mapping[str, Any] | None) -> bool:
    """Tell whether ``norm_cfg`` makes a batch norm of any kind (BN, SyncBN, ...)."""
    if norm_cfg is None:
        return False
    kind = norm_cfg["type"]
    layer = ROOT_MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(layer, type) and issubclass(layer, _BatchNorm)
