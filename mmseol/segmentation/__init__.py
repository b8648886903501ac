"""What needs mmseg: data sets, heads and models for segmentation."""
