"""Turn a config and arguments into a resolved config; no other place edits configs.

The functions change the config that they are given. They work on any config of mmseg and mmpretrain.
"""

from mmseol.experiment.config_files import stock_config
from mmseol.experiment.data import parse_imbalance, set_data_root, set_dataloader_defaults, set_imbalance
from mmseol.experiment.evaluation import (
    set_prediction_folder,
    set_show_folder,
    set_split,
    set_test_time_augmentation,
)
from mmseol.experiment.loss import LOSSES, parse_loss, resolved_loss, set_loss
from mmseol.experiment.training import (
    explain_download,
    set_amp,
    set_classifier_retraining,
    set_cpu_distributed,
    set_seed,
    set_whole_checkpoints,
)
from mmseol.experiment.weights import check_classifier, check_initial_weights, check_weights
from mmseol.experiment.work_dir import check_work_dir

__all__ = [
    "LOSSES",
    "check_classifier",
    "check_initial_weights",
    "check_weights",
    "check_work_dir",
    "explain_download",
    "parse_imbalance",
    "parse_loss",
    "resolved_loss",
    "set_amp",
    "set_classifier_retraining",
    "set_cpu_distributed",
    "set_data_root",
    "set_dataloader_defaults",
    "set_imbalance",
    "set_loss",
    "set_prediction_folder",
    "set_seed",
    "set_show_folder",
    "set_split",
    "set_test_time_augmentation",
    "set_whole_checkpoints",
    "stock_config",
]
