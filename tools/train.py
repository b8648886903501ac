"""Train a config of mmseol, MMSegmentation or MMPretrain; the same as ``python -m mmseol train``.

python tools/train.py CONFIG --loss outlying_mse:alpha=6 --seed 1 --data-root DIR
python tools/train.py CONFIG --loss ce --imbalance long_tailed:100 --seed 1 --data-root DIR
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("train")
