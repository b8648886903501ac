"""Write a page about runs or sweeps; the same as ``python -m mmseol report``.

python tools/report.py WORK_DIR --out report.html
python tools/report.py ce=WORK_DIR outlying=OTHER_WORK_DIR --out report.html report.md
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("report")
