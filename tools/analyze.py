"""Draw features, predictions and scores; the same as ``python -m mmseol analyze``.

python tools/analyze.py --help
python tools/analyze.py features CONFIG CHECKPOINT --out ce.npz
python tools/analyze.py tsne ce.npz outlying_mse.npz --out features.png
python tools/analyze.py predictions CONFIG CHECKPOINT OTHER_CONFIG OTHER_CHECKPOINT --out predictions.png
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("analyze")
