"""Count the classes of a data set as training sees it, with all wrappers and repetitions."""

from mmseol.counting.dataset import count_dataset, image_classes
from mmseol.counting.decode import image_size
from mmseol.counting.label_maps import LabelMapCounts, count_label_maps
from mmseol.counting.wrappers import LabelError

__all__ = ["LabelError", "LabelMapCounts", "count_dataset", "count_label_maps", "image_classes", "image_size"]
