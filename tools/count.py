"""Count the classes of a config's data; the same as ``python -m mmseol count``.

python tools/count.py CONFIG
python tools/count.py CONFIG --data-root DIR --split train val --out DIR
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("count")
