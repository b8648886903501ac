"""What is done to the last layer of a host's head: cosines, retraining, adjustment after training."""

from mmseol.classifiers.checkpoints import adjust_checkpoint
from mmseol.classifiers.cosine import CosineConv1d, CosineConv2d, CosineLinear, cosine_classifier_head
from mmseol.classifiers.posthoc import find_classifier, logit_adjustment, tau_normalized
from mmseol.classifiers.retraining import ClassifierRetraining, LearnableWeightScaling

__all__ = [
    "ClassifierRetraining",
    "CosineConv1d",
    "CosineConv2d",
    "CosineLinear",
    "LearnableWeightScaling",
    "adjust_checkpoint",
    "cosine_classifier_head",
    "find_classifier",
    "logit_adjustment",
    "tau_normalized",
]
