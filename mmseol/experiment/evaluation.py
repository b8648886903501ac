"""Settings of a test: split, outputs, test-time augmentation."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from mmseol.experiment.data import leaf_datasets, set_dataloader_defaults
from mmseol.utils.checks import choice

__all__ = [
    "check_classifier",
    "set_prediction_folder",
    "set_show_folder",
    "set_split",
    "set_test_time_augmentation",
]


def check_classifier(cfg: Config, checkpoint: str) -> None:
    """Refuse to score a checkpoint of cosine classifiers with plain ones, which would load and score badly.

    Raises:
        ValueError: If only the config in the checkpoint has ``mmseol.CosineClassifierHead``.
    """
    meta = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu").get("meta", {})
    if "CosineClassifierHead" in str(meta.get("cfg")) and "CosineClassifierHead" not in str(cfg.model):
        raise ValueError(
            f"`checkpoint` {checkpoint!r} was trained with mmseol.CosineClassifierHead, which this config "
            "lacks. Give the loss it was trained with, as --loss ldam, or the config in its work directory."
        )


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
    """Write the predicted label maps into ``folder``, which must be empty or new.

    >>> cfg = Config(dict(test_evaluator=dict(type="mmseol.SegClassBalanceMetric")))
    >>> set_prediction_folder(cfg, "new_folder")
    >>> cfg.test_evaluator.output_dir
    'new_folder'

    Raises:
        ValueError: If the folder holds files.
    """
    _require_empty("--out", folder)
    cfg.test_evaluator["output_dir"] = folder
    cfg.test_evaluator["keep_results"] = True


def set_show_folder(cfg: Config, folder: str) -> None:
    """Write pictures of the predictions into ``folder``, which must be empty or new.

    >>> hooks = dict(visualization=dict(type="SegVisualizationHook"))
    >>> cfg = Config(dict(default_hooks=hooks, visualizer=dict(type="SegLocalVisualizer")))
    >>> set_show_folder(cfg, "new_folder")
    >>> cfg.default_hooks.visualization.draw, cfg.visualizer.save_dir
    (True, 'new_folder')

    Raises:
        ValueError: If the folder holds files, or the config has no visualization hook.
    """
    _require_empty("--show-dir", folder)
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None:
        raise ValueError("`--show-dir` needs `default_hooks.visualization` in the config.")
    hook["draw" if "SegVisualizationHook" in hook["type"] else "enable"] = True
    cfg.visualizer["save_dir"] = folder


def _require_empty(argument: str, folder: str) -> None:
    if Path(folder).exists() and any(Path(folder).iterdir()):
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
