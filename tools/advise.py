"""Say what recorded runs advise for the data of a config; the same as ``python -m mmseol advise``.

python tools/advise.py CONFIG --data-root DIR
python tools/advise.py CONFIG --imbalance long_tailed:100 --json
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("advise")
