"""Draw features, predictions and scores; the same as ``python -m mmseol analyze``.

python tools/analyze.py --help
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("analyze")
