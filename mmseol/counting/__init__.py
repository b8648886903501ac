"""Class counts of a data set as training will see it: every wrapper, every repetition, no image decoded."""

from mmseol.counting.dataset import count_dataset, image_classes
from mmseol.counting.distributed import LabelError
from mmseol.counting.label_maps import LabelMapCounts, count_label_maps

__all__ = ["LabelError", "LabelMapCounts", "count_dataset", "count_label_maps", "image_classes"]
