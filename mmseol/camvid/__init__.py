"""CamVid's classes and files, and a toy in its image; nothing here needs torch, mmengine or mmseg."""
