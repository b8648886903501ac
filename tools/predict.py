"""Predict an image or a folder of images; the same as ``python -m mmseol predict``.

python tools/predict.py CONFIG CHECKPOINT IMAGE --out prediction.png
python tools/predict.py CONFIG CHECKPOINT FOLDER --out DIR --scores
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("predict")
