"""Random road scenes with CamVid's classes, imbalance and layout on disk."""

from mmseol.camvid.toy.make import CAMVID_PIXELS, make_scene, make_toy, share_table

__all__ = ["CAMVID_PIXELS", "make_scene", "make_toy", "share_table"]
