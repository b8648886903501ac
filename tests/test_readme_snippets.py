"""The README's Python runs as it stands: config lines over the hosts' stock configs, and plain PyTorch."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import HOOKS, METRICS, MODELS, DefaultScope
from mmengine.structures import PixelData
from torch import nn

from mmseol.experiment import LOSSES, stock_config

README = (Path(__file__).parents[1] / "README.md").read_text()
ONE_HEAD, PLAIN, STOCK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ALL_HEADS, CLASSIFIER = STOCK.split("# mmpretrain\n")
SEGMENTATION = {
    "fcn": "fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py",
    "upernet": "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py",
    "setr": "setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py",
    "segformer": "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "ocrnet": "ocrnet/ocrnet_hr18s_4xb4-80k_ade20k-512x512.py",
}
ONE_DECODE_HEAD = ("fcn", "upernet", "setr", "segformer")
CLASSIFICATION = {
    "resnet": "resnet/resnet18_8xb16_cifar10.py",
    "resnet_in1k": "resnet/resnet18_8xb32_in1k.py",
    "swin": "swin_transformer/swin-tiny_16xb64_in1k.py",
}
SMALLER = {  # SETR's ViT-L has 300 million parameters
    "setr": {
        "model.backbone.embed_dims": 32,
        "model.backbone.num_heads": 2,
        "model.backbone.img_size": (64, 64),
        "model.decode_head.in_channels": 32,
        "model.decode_head.channels": 16,
    }
}


def over_stock(code: str, host: str, path: str, folder: Path) -> Config:
    """Return the config whose base is a stock config and whose lines are the README's."""
    if "custom_hooks" not in code:  # "with the `custom_hooks` above"
        code += "\n".join(line for line in ONE_HEAD.splitlines() if line.startswith("custom_hooks"))
    (folder / "mine.py").write_text(f"_base_ = [{stock_config(host, path)!r}]\n{code}")
    return Config.fromfile(folder / "mine.py")


def list_of_heads(code: str, name: str) -> str:
    """Return the code with the line of one head replaced by that for a list, as the comment says."""
    listed = re.search(r"\n +# of decode heads too: auxiliary_head=(\[.*\],)\n", code)
    assert listed is not None
    line = f"\n    {name}={listed[1].replace('auxiliary_head', name)}"
    return re.sub(rf"\n +{name}=dict.*", line, code)


def without_auxiliary_head(code: str) -> str:
    """Return the code without its line for an auxiliary head."""
    return re.sub(r"\n +auxiliary_head=dict.*", "", code)


def build(cfg: Config, counts_of: int) -> nn.Module:
    """Build the model without pretrained weights, and tell its losses made-up counts, all different."""

    def forget(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("init_cfg"), dict) and node["init_cfg"].get("type") == "Pretrained":
                node["init_cfg"] = None
            for child in node.values():
                forget(child)
        elif isinstance(node, list):
            for child in node:
                forget(child)

    if "pretrained" in cfg.model:
        cfg.model.pretrained = None
    forget(cfg.model)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    losses = [module for module in model.modules() if hasattr(module, "set_class_counts")]
    assert losses
    for loss in losses:
        loss.set_class_counts([10 * (i + 1) for i in range(counts_of)])
    return model


def step(model: nn.Module, inputs: torch.Tensor, samples: list[Any]) -> dict[str, torch.Tensor]:
    """Run forward and backward; return the losses by name."""
    losses = model.loss(inputs, samples)
    terms = {name: value for name, value in losses.items() if "loss" in name}
    sum(terms.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    return terms


def check_parts(cfg: Config) -> None:
    """Build the hooks and the metrics."""
    for hook in cfg.custom_hooks:
        HOOKS.build(hook)
    for name in ("val_evaluator", "test_evaluator"):
        METRICS.build(cfg[name])


@pytest.mark.skipif(find_spec("mmseg") is None, reason="needs mmseg")
@pytest.mark.parametrize(
    ("stock", "all_heads"),
    [(stock, False) for stock in ONE_DECODE_HEAD] + [(stock, True) for stock in SEGMENTATION],
)
def test_segmentation(stock: str, all_heads: bool, tmp_path: Path) -> None:
    from mmseg.structures import SegDataSample

    code = ALL_HEADS if all_heads else ONE_HEAD
    if all_heads and stock == "setr":
        code = list_of_heads(code, "auxiliary_head")
    if all_heads and stock in ("segformer", "ocrnet"):
        code = without_auxiliary_head(code)
    if all_heads and stock == "ocrnet":
        code = list_of_heads(code, "decode_head")
    import_module("mmseg.models")
    with DefaultScope.overwrite_default_scope("mmseg"):
        cfg = over_stock(code, "mmseg", SEGMENTATION[stock], tmp_path)
        cfg.merge_from_dict(SMALLER.get(stock, {}))
        heads = cfg.model.get("auxiliary_head", [])
        for head in heads if isinstance(heads, list) else []:
            head.update(in_channels=32, channels=16)
        check_parts(cfg)
        model = build(cfg, 150)
        label = torch.arange(64)[:, None].expand(64, 64).clone()
        label[:8] = 255
        samples = [
            SegDataSample(metainfo=dict(img_shape=(64, 64)), gt_sem_seg=PixelData(data=label[None]))
            for _ in range(2)
        ]
        terms = step(model, torch.randn(2, 3, 64, 64), samples)
    main = [name for name in terms if "aux" not in name]
    assert len(main) == (2 if stock == "ocrnet" else 1)
    assert all("loss_outlying_mse" in name and terms[name] > 0 for name in main)
    auxiliary = [name for name in terms if "aux" in name]
    assert len(auxiliary) == {"fcn": 1, "upernet": 1, "setr": 3}.get(stock, 0)
    assert all(("outlying_mse" in name) == all_heads for name in auxiliary)


@pytest.mark.skipif(find_spec("mmpretrain") is None, reason="needs mmpretrain")
@pytest.mark.parametrize("stock", CLASSIFICATION)
def test_classification(stock: str, tmp_path: Path) -> None:
    from mmpretrain.structures import DataSample

    import_module("mmpretrain.models")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        cfg = over_stock(CLASSIFIER, "mmpretrain", CLASSIFICATION[stock], tmp_path)
        check_parts(cfg)
        classes = cfg.model.head.num_classes
        model = build(cfg, classes)
        samples = [DataSample().set_gt_label(i % classes) for i in range(4)]
        size = 32 if stock == "resnet" else 224
        terms = step(model, torch.randn(4, 3, size, size), samples)
    assert terms["loss"] > 0


def test_plain_pytorch() -> None:
    outputs = torch.randn(4, 3, 5, 5, requires_grad=True)
    target = torch.randint(3, (4, 5, 5))
    target[0] = 255
    values: dict[str, Any] = dict(pred=outputs, target=target)
    exec(PLAIN, values)
    values["loss"].backward()
    assert outputs.grad is not None
    assert not outputs.grad[0].any()
    assert outputs.grad[1:].any()


def exceptions(sentence: str) -> set[str]:
    """Return the names in backticks between the sentence and its end."""
    (rest,) = re.findall(re.escape(sentence) + r"([^.;|]*)", " ".join(README.split()))
    return set(re.findall(r"`(\w+)`", rest))


def test_losses_without_soft_labels_or_class_weights_are_listed() -> None:
    refuse_soft, refuse_weights = set(), set()
    for name, settings in LOSSES.items():
        loss = MODELS.build(dict(settings, class_counts=[50, 20, 10]))
        if not loss.soft_targets:
            refuse_soft.add(name)
        try:
            loss.set_class_weight([1.0, 2.0, 3.0])
        except ValueError:
            refuse_weights.add(name)
    assert exceptions("Soft labels (mixup, cutmix) are for all but") == refuse_soft
    assert exceptions("(DRW) for all losses but") == refuse_weights
    assert f"{len(LOSSES) - 1} other losses" in README
