"""A small Runner for the tests of hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from mmseol.registry import MODELS

CLASSES = ("a", "b", "c", "d")
LABELS = [0] * 8 + [1] * 4 + [2] * 3 + [3]


class TinyDataset(BaseDataset):
    """Data set of labelled points."""

    METAINFO = {"classes": CLASSES}  # noqa: RUF012

    def __init__(self, labels: list[int], **kwargs: Any) -> None:
        self.labels = labels
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{"gt_label": label} for label in self.labels]

    def prepare_data(self, idx: int) -> dict[str, Any]:
        label = self.get_data_info(idx)["gt_label"]
        return {"inputs": torch.full((3,), float(label)), "label": torch.tensor(label)}


class Head(nn.Module):
    """A linear head that owns its losses, as the hosts' heads do."""

    def __init__(self, losses: list[dict[str, Any]], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(3, num_classes)
        self.losses = nn.ModuleList(MODELS.build(ConfigDict(loss)) for loss in losses)

    def loss(self, inputs: Tensor, labels: Tensor, prefix: str) -> dict[str, Tensor]:
        return {
            f"{prefix}.{loss.loss_name}": loss(self.fc(inputs), labels, ignore_index=255)
            for loss in self.losses
        }


class TinyModel(BaseModel):
    """Model with a main and an auxiliary head."""

    def __init__(
        self, main: list[dict[str, Any]], aux: list[dict[str, Any]], classes: tuple[int, int] = (4, 4)
    ):
        super().__init__()
        self.decode_head = Head(main, classes[0])
        self.auxiliary_head = Head(aux, classes[1])
        self.factor = 1.0

    def forward(self, inputs: list[Tensor], label: list[Tensor], mode: str = "tensor") -> Any:
        batch, labels = torch.stack(list(inputs)), torch.stack(list(label))
        if mode != "loss":
            return self.decode_head.fc(batch)
        losses = self.decode_head.loss(batch * self.factor, labels, "decode")
        return {**losses, **self.auxiliary_head.loss(batch, labels, "aux"), "acc": torch.tensor(float("nan"))}


def one_point(*_: Any) -> dict[str, Any]:
    """Stand in for ``TinyDataset.prepare_data`` where `get_data_info` must not be called."""
    return {"inputs": torch.ones(3), "label": torch.tensor(0)}


def outlying(**kwargs: Any) -> dict[str, Any]:
    """Return the config of the loss of the paper."""
    return {"type": "mmseol.OutlyingMSELoss", **kwargs}


def tiny_runner(
    work_dir: Path, model: nn.Module, labels: list[int] | None = None, epochs: int = 1, **kwargs: Any
) -> Runner:
    """Return a Runner that trains for ``epochs`` of four iterations on labelled points."""
    labels = LABELS if labels is None else labels
    config: dict[str, Any] = {
        "model": model,
        "work_dir": str(work_dir),
        "train_dataloader": {
            "batch_size": 4,
            "num_workers": 0,
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "dataset": TinyDataset(labels),
            "collate_fn": pseudo_collate,
        },
        "train_cfg": {"by_epoch": True, "max_epochs": epochs, "val_interval": 1000},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 1e-3}},
        "custom_hooks": [{"type": "mmseol.ClassCountHook"}],
        "default_scope": "mmengine",
        "experiment_name": f"tiny_{work_dir.name}_{id(model)}_{torch.randint(10**9, ()).item()}",
        **kwargs,
    }
    return Runner(**config)


def log_of(runner: Runner) -> str:
    """Return what the runner has logged."""
    (path,) = Path(runner.log_dir).glob("*.log")
    return path.read_text()
