"""Every part that needs the classifier finds the same layer, in the heads of both hosts and in others."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS as CLS_MODELS
from mmseg.registry import MODELS as SEG_MODELS
from torch import nn

from mmseol.classifiers import class_layers, find_classifier, head_of_loss
from mmseol.losses import OneHotMSELoss

K = 5
LOSS = dict(type="mmseol.OneHotMSELoss")
SEG = dict(channels=8, num_classes=K, norm_cfg=dict(type="BN"), loss_decode=LOSS)
SEG_HEADS = {
    "FCNHead": (dict(SEG, in_channels=16), ["conv_seg"]),
    "EncHead": (dict(SEG, in_channels=[8, 12, 16], in_index=[0, 1, 2]), ["conv_seg"]),
    "DAHead": (dict(SEG, in_channels=16, pam_channels=4), ["conv_seg", "pam_conv_seg", "cam_conv_seg"]),
    "DDRHead": (dict(SEG, in_channels=16, loss_decode=[LOSS] * 2), ["conv_seg", "aux_cls_seg"]),
    "PIDHead": (dict(SEG, in_channels=16, loss_decode=[LOSS] * 4), ["conv_seg", "p_cls_seg"]),
}
CLS = dict(num_classes=K, in_channels=8, loss=LOSS)
CLS_HEADS = {
    "LinearClsHead": (CLS, "fc"),
    "StackedLinearClsHead": (dict(CLS, mid_channels=[K]), "layers.1.fc"),
    "VisionTransformerClsHead": (dict(CLS, hidden_dim=6), "layers.head"),
    "EfficientFormerClsHead": (dict(CLS, distillation=False), "head"),
    "LeViTClsHead": (dict(CLS, distillation=False), "head.linear"),
    "ArcFaceClsHead": (CLS, "norm_product"),
    "VigClsHead": (dict(CLS, hidden_dim=6), "fc2"),
}


def built(kind: str, config: dict[str, Any], models: Any, scope: str) -> nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return models.build(ConfigDict(type=kind, **config))


def found_everywhere(head: nn.Module, key: str, name: str) -> None:
    """Check the search among a checkpoint's names, from the loss, and in the head."""
    (loss, *_) = [path for path, part in head.named_modules() if isinstance(part, OneHotMSELoss)]
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"fc": nn.Linear(2, K)}), key: head})
    assert find_classifier(model.state_dict()) == f"{key}.{name}"
    owner, layer = head_of_loss(model, f"{key}.{loss}")
    assert owner is head
    assert head.get_submodule(name) in layer.modules()  # StackedLinearClsHead's `fc` is the block around it
    assert name in class_layers(head)


@pytest.mark.parametrize("kind", SEG_HEADS)
def test_heads_of_mmseg(kind: str) -> None:
    config, layers = SEG_HEADS[kind]
    head = built(kind, config, SEG_MODELS, "mmseg")
    found_everywhere(head, "decode_head", layers[0])
    assert class_layers(head) == layers


@pytest.mark.parametrize("kind", CLS_HEADS)
def test_heads_of_mmpretrain(kind: str) -> None:
    config, layer = CLS_HEADS[kind]
    head = built(kind, config, CLS_MODELS, "mmpretrain")
    found_everywhere(head, "head", layer)
    assert class_layers(head) == [layer]


@pytest.mark.parametrize("name", ["conv_seg", "cls_seg", "fc_seg", "fc"])
def test_heads_of_a_user(name: str) -> None:
    head = nn.ModuleDict({name: nn.Conv2d(8, K, 1), "stem": nn.Conv2d(8, K, 1), "loss": OneHotMSELoss()})
    head.num_classes = K
    found_everywhere(head, "decode_head", name)
    assert class_layers(head) == [name]


@pytest.mark.parametrize("name", ["conv_seg", "fc"])
def test_a_layer_with_the_hosts_name_may_be_of_any_type(name: str) -> None:
    head = nn.ModuleDict({"other": nn.Linear(2, K), name: nn.Flatten(), "loss": OneHotMSELoss()})
    owner, layer = head_of_loss(nn.ModuleDict({"head": head}), "head.loss")
    assert (owner, layer) == (head, head[name])


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("DeiTClsHead", ["layers.head", "layers.head_dist"]),
        ("EfficientFormerClsHead", ["head", "dist_head"]),
        ("LeViTClsHead", ["head.linear", "head_dist.linear"]),
    ],
)
def test_two_layers_that_classify_together_are_no_answer(kind: str, layers: list[str]) -> None:
    """One of them is half of the classifier: adjusting or retraining it alone would be wrong."""
    head = built(kind, CLS, CLS_MODELS, "mmpretrain")
    model = nn.ModuleDict({"head": head})
    assert class_layers(head) == layers
    with pytest.raises(ValueError, match=r"`classifier` must be .* got None"):
        find_classifier(model.state_dict())
    with pytest.raises(ValueError, match=r"`classifier` must name .* got None"):
        head_of_loss(model, "head.loss_module")
    assert find_classifier(model.state_dict(), f"head.{layers[0]}") == f"head.{layers[0]}"


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (["backbone.fc", "decode_head.conv_seg", "auxiliary_head.conv_seg"], "decode_head.conv_seg"),
        (["decode_head.0.conv_seg", "decode_head.1.conv_seg"], "decode_head.1.conv_seg"),
        (
            ["decode_head.0.conv_seg", "decode_head.1.fcs.0.conv", "decode_head.1.fc_seg"],
            "decode_head.1.fc_seg",
        ),
        (["decode_head.conv_seg", "decode_head.attention.fc"], "decode_head.conv_seg"),
        (["decode_head.kernel_generate_head.conv_seg"], "decode_head.kernel_generate_head.conv_seg"),
        (["head.task_heads.a.fc", "head.task_heads.b.fc"], "head.task_heads.b.fc"),
    ],
)
def test_names_in_a_checkpoint(names: list[str], layer: str) -> None:
    weights = [f"{name}.weight" for name in names]
    assert find_classifier([*weights, f"{layer}.bias"]) == layer
    assert find_classifier(weights, names[0]) == names[0]


def test_a_classifier_of_the_head_of_a_loss_by_name() -> None:
    head = nn.ModuleDict({"fc": nn.Linear(2, K), "scores": nn.Linear(2, K), "loss": OneHotMSELoss()})
    model = nn.ModuleDict({"head": head})
    assert head_of_loss(model, "head.loss", ["nothing", "scores", "fc"]) == (head, head["scores"])
    with pytest.raises(ValueError, match=r"owns the loss head\.loss, got 'a', 'b', and no such layer"):
        head_of_loss(model, "head.loss", ["a", "b"])


def test_layers_of_other_widths_score_no_classes() -> None:
    head = nn.ModuleDict({"conv_seg": nn.Linear(2, K), "aux_conv_seg": nn.Linear(2, 3)})
    head["fc_seg"] = nn.BatchNorm1d(K)  # has weights, and no width
    head["cls_seg"] = nn.Flatten()
    head["cls_seg"].out_features = K  # has a width, and no weights
    assert class_layers(head) == ["conv_seg", "aux_conv_seg"]  # nobody says how many classes there are
    head.num_classes = K
    assert class_layers(head) == ["conv_seg"]


def test_what_is_not_there_is_listed() -> None:
    with pytest.raises(ValueError, match=r"got None\. Layers of heads here: head\.scores"):
        find_classifier(["head.scores.weight", "backbone.fc.weight"])
    with pytest.raises(ValueError, match=r"got 'head\.fc'\. Layers of heads here: head\.scores"):
        find_classifier(["head.scores.weight"], "head.fc")
    with pytest.raises(ValueError, match="Layers of heads here: none"):
        find_classifier([])
