"""Predict one image and draw the label map over it; the same as ``python -m mmseol predict``.

python tools/predict.py CONFIG CHECKPOINT IMAGE --out prediction.png
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("predict")
