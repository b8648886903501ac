"""Make tables of the records of sweeps; the same as ``python -m mmseol tables``.

python tools/tables.py WORK_DIR
python tools/tables.py WORK_DIR OTHER_WORK_DIR --out DIR --reference ce
python tools/tables.py WORK_DIR --record results/NAME/record.json --title "CamVid, FastFCN-R18"
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("tables")
