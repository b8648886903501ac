"""Settings of a test: split, outputs, test-time augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseol.experiment.data import leaf_datasets, set_dataloader_defaults
from mmseol.utils.checks import choice

__all__ = [
    "require_empty",
    "set_prediction_folder",
    "set_show_folder",
    "set_split",
    "set_test_time_augmentation",
]

_LABEL_MAP_METRICS = ("SegClassBalanceMetric", "IoUMetric")


def set_split(cfg: Config, split: str) -> None:
    """Test on the validation split (``'val'``) or on the test split (``'test'``).

    >>> cfg = Config(dict(val_dataloader=dict(batch_size=2), val_evaluator=dict(type="A")))
    >>> set_split(cfg, "val")
    >>> cfg.test_dataloader, cfg.test_evaluator
    ({'batch_size': 2}, {'type': 'A'})

    Raises:
        ValueError: If ``split`` is neither, or the config lacks it.
    """
    choice("--split", split, ("val", "test"))
    if cfg.get(f"{split}_dataloader") is None:
        raise ValueError(f"`--split {split}`: the config has no {split}_dataloader.")
    if split == "val":
        cfg.test_dataloader = cfg.val_dataloader
        cfg.test_evaluator = cfg.val_evaluator
        cfg.test_cfg = cfg.get("test_cfg") or dict()


def set_prediction_folder(cfg: Config, folder: str) -> None:
    """Let the metric of label maps write the predicted ones into ``folder``, which must be empty or new.

    >>> dataset = dict(type="A", data_root="data", data_prefix=dict(img_path="images"))
    >>> metric = dict(type="mmseol.SegClassBalanceMetric")
    >>> cfg = Config(dict(test_evaluator=metric, test_dataloader=dict(dataset=dataset)))
    >>> set_prediction_folder(cfg, "new_folder")
    >>> cfg.test_evaluator.output_dir, cfg.test_evaluator.image_root
    ('new_folder', 'data/images')

    Raises:
        ValueError: If the folder holds files, or no metric of the config can write label maps.
    """
    require_empty("--out", folder)
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    for evaluator in evaluators:
        if str(evaluator["type"]).rpartition(".")[-1] in _LABEL_MAP_METRICS:
            evaluator["output_dir"] = folder
            evaluator["keep_results"] = True
            roots = {_image_folder(dataset) for dataset in leaf_datasets(cfg.test_dataloader.dataset)}
            if len(roots) == 1 and "SegClassBalanceMetric" in str(evaluator["type"]):
                evaluator["image_root"] = roots.pop()
            return
    raise ValueError(
        f"`--out` needs a metric that writes label maps ({', '.join(_LABEL_MAP_METRICS)}) in "
        f"`test_evaluator`, got {', '.join(str(evaluator['type']) for evaluator in evaluators)}."
    )


def _image_folder(dataset: Mapping[str, Any]) -> str:
    prefix = (dataset.get("data_prefix") or {}).get("img_path") or ""
    return str(Path(dataset.get("data_root") or "", prefix))


def set_show_folder(cfg: Config, folder: str) -> None:
    """Let the host draw the label map of every image into ``folder``, which must be empty or new.

    >>> hooks = dict(visualization=dict(type="SegVisualizationHook"))
    >>> cfg = Config(dict(default_hooks=hooks, visualizer=dict(type="SegLocalVisualizer")))
    >>> set_show_folder(cfg, "new_folder")
    >>> cfg.default_hooks.visualization.interval, cfg.visualizer.save_dir
    (1, 'new_folder')

    Raises:
        ValueError: If the folder holds files, or the config has no visualization hook.
    """
    require_empty("--show-dir", folder)
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ValueError("`--show-dir` needs `default_hooks.visualization` in the config.")
    hook["draw"], hook["interval"] = True, 1
    cfg.visualizer["save_dir"] = folder


def require_empty(argument: str, folder: str) -> None:
    """Refuse a folder that holds files, or a file.

    >>> require_empty("--out", "new_folder")

    Raises:
        ValueError: If the folder is neither new nor empty.
    """
    if Path(folder).exists() and (Path(folder).is_file() or any(Path(folder).iterdir())):
        raise ValueError(f"`{argument}` must be a new or empty folder, got {folder!r}.")


def set_test_time_augmentation(cfg: Config) -> None:
    """Average over the views of ``cfg.tta_pipeline``: raw outputs in segmentation, scores in classification.

    >>> cfg = Config(dict(model=dict(type="A"), tta_model=dict(type="B"), tta_pipeline=[dict(type="C")]))
    >>> cfg.test_dataloader = dict(dataset=dict(type="D", pipeline=[]))
    >>> set_test_time_augmentation(cfg)
    >>> cfg.model, cfg.test_dataloader.dataset.pipeline
    ({'type': 'B', 'module': {'type': 'A'}}, [{'type': 'C'}])

    Raises:
        ValueError: If the config has no ``tta_model`` and ``tta_pipeline``.
    """
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        raise ValueError("`--tta` needs `tta_model` and `tta_pipeline` in the config; see configs/_base_.")
    loader = cfg.test_dataloader
    if loader.dataset["type"] == "mmseol.InMemoryDataset":  # cannot make several views of an image
        loader.dataset = loader.dataset.dataset
        del loader["collate_fn"]
        set_dataloader_defaults(cfg)
    for dataset in leaf_datasets(loader.dataset):
        dataset["pipeline"] = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model
