"""Choose the decision of a checkpoint on validation data; the same as ``python -m mmseol tune-decision``.

python tools/tune_decision.py CONFIG CHECKPOINT --loss outlying_mse:alpha=6 --data-root DIR
python tools/tune_decision.py CONFIG CHECKPOINT --objective macro_f1 --floor accuracy=90
python tools/tune_decision.py CONFIG CHECKPOINT --free    # also a factor per class, if they gain out of fold
python tools/tune_decision.py CONFIG CHECKPOINT --value 1    # what the formula asks for, without a search

It writes decision.json, decision.png and a checkpoint whose classifier carries the decision, which any test
tool loads. The test split is not read.
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("tune-decision")
