"""ClassDifficultyHook in real Runners: what the losses are told, resuming, averaging, two ranks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.distributed import run_ranks
from helpers.tiny_runner import TinyDataset, TinyModel, log_of, tiny_runner
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook
from mmengine.structures import LabelData
from sklearn.metrics import recall_score

CDB = {"type": "mmseol.CDBLoss"}
POINTS = [0, 1, 1, 2, 2, 2, 3, 3, 3]


class Guessing(TinyModel):
    """TinyModel whose guesses depend on its weights, some right and some wrong, and that keeps them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.guesses: list[tuple[int, int]] = []
        self.weights: list[list[float]] = []

    def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
        if mode == "loss":
            self.weights.append(self.decode_head.losses[0].class_weight.tolist())
        if mode != "predict":
            return super().forward(inputs, label, mode)
        bits = self.decode_head.fc.weight.detach().sum().double().mul(2**30).long().item()
        found = []
        for place, value in enumerate(label):
            right = (bits >> (len(self.guesses) % 9 + place)) & 1
            guess = int(value) if right else (int(value) + 1) % 4
            found.append((int(value), guess))
        self.guesses += found
        return [
            LabelData(metainfo={}, gt_label=torch.tensor([y]), pred_label=torch.tensor([p])) for y, p in found
        ]


def run_config(points: list[int] = POINTS, metric: Any = None, **kwargs: Any) -> dict[str, Any]:
    sampler = {"type": "DefaultSampler", "shuffle": False}
    loader = {"batch_size": 2, "num_workers": 0, "sampler": sampler, "dataset": TinyDataset(points)}
    return {
        "epochs": 3,
        "val_dataloader": {**loader, "collate_fn": pseudo_collate},
        "val_cfg": {},
        "val_evaluator": metric or {"type": "mmseol.ClassBalanceMetric"},
        "default_hooks": {"checkpoint": {"type": "CheckpointHook", "interval": 1}},
        "custom_hooks": [{"type": "mmseol.ClassCountHook"}, {"type": "mmseol.ClassDifficultyHook"}],
        "randomness": {"seed": 0},
        **kwargs,
    }


def runner_of(folder: Path, net: TinyModel, interval: int = 1, epochs: int = 3, **kwargs: Any) -> Any:
    config = run_config(**kwargs)
    train = {"by_epoch": True, "max_epochs": epochs, "val_interval": interval}
    return tiny_runner(folder, net, **{"train_cfg": train, **config, "epochs": epochs})


def model(losses: list[dict[str, Any]] | None = None) -> Guessing:
    torch.manual_seed(0)
    return Guessing([CDB] if losses is None else losses, [CDB])


def told(net: Any) -> list[list[float]]:
    return [head.losses[0].class_difficulty.tolist() for head in (net.decode_head, net.auxiliary_head)]


def difficulty(guesses: list[tuple[int, int]]) -> list[float]:
    """Return 1 - recall by scikit-learn."""
    truth, predicted = zip(*guesses, strict=True)
    return (1 - recall_score(truth, predicted, labels=range(4), average=None, zero_division=0)).tolist()


def test_every_loss_is_told_one_minus_recall_after_each_validation(tmp_path: Path) -> None:
    net = model()
    runner = runner_of(tmp_path, net)
    runner.train()
    rounds = [difficulty(net.guesses[k : k + 9]) for k in (0, 9, 18)]
    assert len({tuple(found) for found in rounds}) > 1
    assert told(net) == [pytest.approx(rounds[-1])] * 2
    for epoch, known in enumerate([[1.0] * 4, *rounds[:-1]]):  # four iterations an epoch
        raised = np.power(known, 1.5)
        for weights in net.weights[4 * epoch : 4 * epoch + 4]:
            np.testing.assert_allclose(weights, 4 * raised / raised.sum() if raised.any() else np.ones(4))
    assert log_of(runner).count("Class difficulty is set from this validation") == 3


def test_classes_that_the_validation_lacks_keep_their_difficulty(tmp_path: Path) -> None:
    net = model()
    runner_of(tmp_path, net, points=[0, 1, 1], epochs=2).train()
    assert told(net)[0][2:] == [1, 1]
    assert told(net)[0][:2] == pytest.approx(difficulty(net.guesses[-3:])[:2])


@pytest.mark.parametrize(("interval", "epochs"), [(1, [1]), (2, [2, 3])])
def test_a_resumed_run_goes_on_as_one_that_was_not_interrupted(
    tmp_path: Path, interval: int, epochs: list[int]
) -> None:
    whole = model()
    runner_of(tmp_path / "whole", whole, interval, epochs=4).train()
    for epoch in epochs:
        resumed = model()
        checkpoint = str(tmp_path / "whole" / f"epoch_{epoch}.pth")
        folder = tmp_path / f"resumed_{epoch}"
        runner = runner_of(folder, resumed, interval, epochs=4, load_from=checkpoint, resume=True)
        runner.train()
        due = epoch % interval == 0
        assert log_of(runner).count("was saved before a scheduled validation") == due
        assert resumed.weights == whole.weights[4 * epoch :]
        assert told(resumed) == told(whole)
        for name, value in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], value), name


def test_a_checkpoint_saved_after_its_validation_is_not_validated_again(tmp_path: Path) -> None:
    hooks = {"checkpoint": {"type": "CheckpointHook", "save_best": "accuracy", "rule": "greater"}}
    net = model()
    runner_of(tmp_path / "a", net, epochs=1, default_hooks=hooks).train()
    (best,) = (tmp_path / "a").glob("best_*.pth")
    state = torch.load(best, map_location="cpu", weights_only=False)["state_dict"]
    assert state["decode_head.losses.0.class_difficulty"].tolist() == told(net)[0]
    runner = runner_of(tmp_path / "b", model(), epochs=2, load_from=str(best), resume=True)
    runner.train()
    assert "was saved before a scheduled validation" not in log_of(runner)


def test_fine_tuning_starts_at_difficulty_one(tmp_path: Path) -> None:
    runner_of(tmp_path / "a", model(), epochs=2).train()
    net = model()
    runner_of(tmp_path / "b", net, epochs=1, load_from=str(tmp_path / "a" / "epoch_2.pth")).train()
    assert net.weights[0] == [1] * 4


def test_iteration_based_runs_resume_alike(tmp_path: Path) -> None:
    train = {"by_epoch": False, "max_iters": 6, "val_interval": 2}
    hooks = {"checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False}}
    settings: dict[str, Any] = dict(train_cfg=train, default_hooks=hooks)
    whole, resumed = model(), model()
    tiny_runner(tmp_path / "whole", whole, **run_config(**settings)).train()
    checkpoint = str(tmp_path / "whole" / "iter_4.pth")
    config = run_config(load_from=checkpoint, resume=True, **settings)
    tiny_runner(tmp_path / "resumed", resumed, **config).train()
    assert resumed.weights == whole.weights[4:]
    assert told(resumed) == told(whole)


@pytest.mark.parametrize("update_buffers", [False, True])
def test_averaged_models_are_told_too(tmp_path: Path, update_buffers: bool) -> None:
    ema = {"type": "EMAHook", "update_buffers": update_buffers, "momentum": 0.5}
    hooks = [ema, *run_config()["custom_hooks"][update_buffers:]]  # with and without ClassCountHook
    net, resumed = model(), model()
    runner = runner_of(tmp_path / "a", net, custom_hooks=hooks)
    runner.train()
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert told(net) == [pytest.approx(difficulty(net.guesses[-9:]))] * 2
    assert told(hook.ema_model.module) == told(net)
    checkpoint = str(tmp_path / "a" / "epoch_2.pth")
    runner_of(tmp_path / "b", resumed, custom_hooks=hooks, load_from=checkpoint, resume=True).train()
    np.testing.assert_allclose(resumed.weights, net.weights[8:], atol=1e-12)


class Stock(BaseMetric):
    """Stand in for mmpretrain's metrics with scores per class."""

    def __init__(self, kind: str) -> None:
        super().__init__(prefix="single-label" if kind == "recall_classwise" else "confusion_matrix")
        self.kind, self.items, self.average = kind, ("recall",), None

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [(int(s["gt_label"]), int(s["pred_label"])) for s in data_samples]

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        if self.kind == "result":
            matrix = torch.zeros(4, 4, dtype=torch.long)
            for y, p in results:
                matrix[y, p] += 1
            return {"result": matrix}
        return {"recall_classwise": [100 * (1 - d) for d in difficulty(results)]}


class ConfusionMatrix(Stock):
    """Known by its name."""


def test_stock_metrics_with_scores_per_class_will_do(tmp_path: Path) -> None:
    for metric in (Stock("recall_classwise"), ConfusionMatrix("result")):
        net = model()
        runner_of(tmp_path / metric.kind, net, epochs=1, metric=[metric]).train()
        assert told(net) == [pytest.approx(difficulty(net.guesses))] * 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mmpretrains_metrics_name_their_results_so() -> None:
    from mmpretrain.evaluation import ConfusionMatrix as HostMatrix
    from mmpretrain.evaluation import SingleLabelMetric

    from mmseol.hooks.class_difficulty import _gives_recall, _recall

    data = [(0, 0), (1, 1), (1, 2), (2, 0), (2, 2), (2, 2), (3, 3)]
    samples = [dict(gt_label=torch.tensor([y]), pred_label=torch.tensor([p]), num_classes=4) for y, p in data]
    for metric in (HostMatrix(num_classes=4), SingleLabelMetric(average=None, num_classes=4)):
        assert _gives_recall(metric)
        metric.process(None, samples)
        found = _recall([metric], metric.evaluate(len(samples)))
        np.testing.assert_allclose(1 - found, difficulty(data), atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matrix = torch.diag(torch.tensor([2, 1, 0, 3]))
        absent = _recall([HostMatrix(num_classes=4)], {"confusion_matrix/result": matrix})
    np.testing.assert_array_equal(absent, [1, 1, np.nan, 1])
    assert not _gives_recall(SingleLabelMetric(average="macro"))


class Silent(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        return {"score": 1.0}


def test_runs_without_scores_per_class_end_at_the_door(tmp_path: Path) -> None:
    net = model()
    with pytest.raises(RuntimeError, match=r"no metric of the validation computes it.*ClassBalanceMetric"):
        runner_of(tmp_path / "a", net, metric=[Silent()]).train()
    without = dict(val_dataloader=None, val_cfg=None, val_evaluator=None)
    with pytest.raises(RuntimeError, match="needs a validation, and the run has none"):
        tiny_runner(tmp_path / "b", net, **{**run_config(), **without}).train()
    assert net.weights == []


def test_without_a_loss_that_takes_difficulties_it_does_nothing(tmp_path: Path) -> None:
    class Plain(TinyModel):
        forward_loss = TinyModel.forward

        def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
            return [LabelData()] if mode == "predict" else self.forward_loss(inputs, label, mode)

    net = Plain([{"type": "mmseol.CrossEntropyLoss"}], [])
    runner = runner_of(tmp_path, net, epochs=1, metric=[Silent()])
    runner.train()
    assert "Class difficulty" not in log_of(runner)


def _train_on(rank: int, folder: Path) -> list[list[float]]:
    net = model()
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    metric = {"type": "mmseol.ClassBalanceMetric", "collect_dir": str(folder / "parts")}
    runner = runner_of(
        folder,
        net,
        epochs=2,
        metric=metric,
        cfg=ConfigDict(model_wrapper_cfg=wrapper),
        launcher="pytorch",
        env_cfg={"dist_cfg": {"backend": "gloo"}},
    )
    runner.train()
    return [*told(net), net.guesses]


def test_two_ranks_are_told_the_same(tmp_path: Path) -> None:
    first, second = run_ranks(_train_on, tmp_path)
    assert first[:2] == second[:2]
    mine, others = (part[-5:] for part in (first[2], second[2]))
    assert mine != others
    together = [pair for both in zip(mine, others, strict=True) for pair in both][:9]
    assert first[0] == first[1] == pytest.approx(difficulty(together))
