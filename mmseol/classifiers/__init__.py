"""The last layer of a host's head: find it, replace it by cosines, retrain it, adjust it after training."""

from mmseol.classifiers.checkpoints import adjust_checkpoint, write_decision
from mmseol.classifiers.cosine import CosineConv1d, CosineConv2d, CosineLinear, cosine_classifier_head
from mmseol.classifiers.find import class_layers, find_classifier, head_of_loss
from mmseol.classifiers.posthoc import logit_adjustment, tau_normalized
from mmseol.classifiers.retraining import classifier_retraining, learnable_weight_scaling

__all__ = [
    "CosineConv1d",
    "CosineConv2d",
    "CosineLinear",
    "adjust_checkpoint",
    "class_layers",
    "classifier_retraining",
    "cosine_classifier_head",
    "find_classifier",
    "head_of_loss",
    "learnable_weight_scaling",
    "logit_adjustment",
    "tau_normalized",
    "write_decision",
]
