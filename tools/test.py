"""Score a checkpoint on the validation split, or on the test split when all choices are made.

The same as ``python -m mmseol test``.

python tools/test.py CONFIG CHECKPOINT --data-root DIR
python tools/test.py CONFIG CHECKPOINT --split test --data-root DIR
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("test")
