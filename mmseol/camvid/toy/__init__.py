"""Random road scenes with CamVid's classes, imbalance and layout on disk."""

from mmseol.camvid.toy.make import make_scene, make_toy, share_table

__all__ = ["make_scene", "make_toy", "share_table"]
