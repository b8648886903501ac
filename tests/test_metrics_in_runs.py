"""The metrics in real Runners: groups, files, checkpoints and two processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributed import run_ranks
from helpers.metric_samples import NAMES, map_sample, random_maps
from helpers.tiny_runner import TinyDataset, TinyModel, log_of, outlying, tiny_runner
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.structures import LabelData

from mmseol.metrics import SegClassBalanceMetric


class Predicting(TinyModel):
    """TinyModel that predicts the label, except for points of class b, and keeps its inputs."""

    def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
        if mode != "predict":
            return super().forward(inputs, label, mode)
        found = [int(value) for value in label]
        return [
            LabelData(metainfo={}, gt_label=torch.tensor([k]), pred_label=torch.tensor([0 if k == 1 else k]))
            for k in found
        ]


def loader(values: list[int]) -> dict[str, Any]:
    sampler = {"type": "DefaultSampler", "shuffle": False}
    return {
        "batch_size": 2,
        "num_workers": 0,
        "sampler": sampler,
        "dataset": TinyDataset(values),
        "collate_fn": pseudo_collate,
    }


def run_config(**kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a Runner that also validates and tests."""
    metric = {"type": "mmseol.ClassBalanceMetric", "limits": (2, 4)}
    checkpoint = {"type": "CheckpointHook", "interval": 1, "save_best": "many/accuracy", "rule": "greater"}
    return {
        "train_cfg": {"by_epoch": True, "max_epochs": 2, "val_interval": 1},
        "val_dataloader": loader([0, 1, 2, 3, 3]),
        "val_cfg": {},
        "val_evaluator": metric,
        "test_dataloader": loader([0, 1, 2, 3, 3]),
        "test_cfg": {},
        "test_evaluator": metric,
        "default_hooks": {"checkpoint": checkpoint},
        **kwargs,
    }


def groups(path: Path) -> list[tuple[str | None, int | None]]:
    return [(row["group"], row["training"]) for row in json.loads(path.read_text())["classes"]]


EXPECTED = [("many", 8), ("medium", 4), ("medium", 3), ("few", 1)]


def test_a_run_groups_by_its_training_data_and_a_test_by_the_checkpoint(tmp_path: Path) -> None:
    runner = tiny_runner(tmp_path / "a", Predicting([outlying()], []), **run_config())
    runner.train()
    folder = Path(runner.log_dir)
    for epoch in (1, 2):
        path = folder / f"class_scores_val_epoch_{epoch}.json"
        assert groups(path) == EXPECTED
        record = json.loads(path.read_text())
        assert (record["stage"], record["epoch"], record["iter"]) == ("val", epoch, 4 * epoch)
    assert record["scores"]["medium/accuracy"] == 50
    assert "val] medium/accuracy" not in log_of(runner)
    assert "medium/accuracy: 50.0000" in log_of(runner)
    (best,) = (tmp_path / "a").glob("best_many_accuracy_epoch_1.pth")

    again = tiny_runner(
        tmp_path / "b", Predicting([outlying()], []), load_from=str(best), **run_config(train_dataloader=None,
        train_cfg=None, optim_wrapper=None)
    )  # fmt: skip
    scores = again.test()
    assert groups(Path(again.log_dir) / "class_scores_test.json") == EXPECTED
    assert scores == record["scores"]
    assert "No training counts" not in log_of(again)


def test_a_model_without_our_losses_is_counted_for_the_metric(tmp_path: Path) -> None:
    class Stock(Predicting):
        def forward(self, inputs: Any, label: Any, mode: str = "tensor") -> Any:
            if mode != "loss":
                return super().forward(inputs, label, mode)
            return {"loss": self.decode_head.fc(torch.stack(list(inputs))).sum()}

    runner = tiny_runner(tmp_path, Stock([], []), **run_config())
    runner.train()
    assert groups(Path(runner.log_dir) / "class_scores_val_epoch_1.json") == EXPECTED
    given = dict(run_config()["val_evaluator"], class_counts=[1, 9, 9, 9])
    runner = tiny_runner(tmp_path / "given", Stock([], []), **run_config(val_evaluator=given))
    runner.train()
    (path, _) = sorted(Path(runner.log_dir).glob("class_scores_*.json"))
    assert groups(path)[0] == ("few", 1)
    assert not (tmp_path / "given" / "class_counts.json").exists()  # the counts of the data were not needed


def test_counts_of_other_classes_stop_the_run_before_it_trains(tmp_path: Path) -> None:
    hook = {"type": "mmseol.ClassCountHook", "num_classes": 5}
    runner = tiny_runner(tmp_path, Predicting([outlying()], [], (5, 5)), **run_config(custom_hooks=[hook]))
    with pytest.raises(ValueError, match="5 entries for 4 classes"), pytest.warns(match="no training sample"):
        runner.train()
    assert runner.iter == 0


def test_iteration_based_runs_name_their_files_by_iteration(tmp_path: Path) -> None:
    cfg = run_config(train_cfg={"by_epoch": False, "max_iters": 4, "val_interval": 2}, default_hooks=None)
    runner = tiny_runner(tmp_path, Predicting([outlying()], []), **cfg)
    runner.train()
    names = sorted(path.name for path in Path(runner.log_dir).glob("*.json"))
    assert [name for name in names if "class_scores" in name] == [
        "class_scores_val_iter_2.json",
        "class_scores_val_iter_4.json",
    ]


# ------------------------------------------------------------------ two processes


def _evaluate(rank: int, world: int, folder: Path) -> dict[str, float]:
    """Return the scores of a Runner's validation of 7 points, by this rank."""
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    extra: dict[str, Any] = {}
    if world > 1:
        extra = {"cfg": ConfigDict(model_wrapper_cfg=wrapper), "launcher": "pytorch"}
        extra["env_cfg"] = {"dist_cfg": {"backend": "gloo"}}
    cfg = run_config(val_dataloader=loader([0, 2, 3, 0, 2, 3, 1]), default_hooks=None, **extra)
    evaluator = dict(cfg["val_evaluator"], class_counts=[8, 4, 3, 1], collect_dir=str(folder / "parts"))
    cfg["val_evaluator"] = evaluator
    runner = tiny_runner(folder, Predicting([outlying()], []), **cfg)
    return runner.val()


def _evaluate_maps(rank: int, world: int, folder: Path) -> dict[str, float]:
    """Return the scores of 7 label maps, dealt out as ``DefaultSampler`` does."""
    maps = random_maps(7, seed=3)
    samples = [*maps, maps[0]][rank::world] if world > 1 else maps
    metric = SegClassBalanceMetric(collect_dir=str(folder / "parts"), table_dir=folder / "tables")
    evaluator = Evaluator([metric])
    evaluator.dataset_meta = {"classes": NAMES}
    for pair in samples:
        evaluator.process([map_sample(*pair)])
    return evaluator.evaluate(7)


@pytest.mark.parametrize("evaluate", [_evaluate, _evaluate_maps])
def test_two_processes_score_an_odd_data_set_as_one(tmp_path: Path, evaluate: Any) -> None:
    one = evaluate(0, 1, tmp_path / "one")
    ranks = run_ranks(evaluate, 2, tmp_path / "two")
    assert ranks == [one, one]
    (path,) = (tmp_path / "two").rglob("class_scores*.json")
    (alone,) = (tmp_path / "one").rglob("class_scores*.json")
    assert path.read_text() == alone.read_text()
