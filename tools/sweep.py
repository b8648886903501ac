"""Tune and train every loss of a sweep file by the same budget; the same as ``python -m mmseol sweep``.

python tools/sweep.py configs/sweeps/digits.py --work-dir work_dirs/digits --slots 2
python tools/sweep.py status work_dirs/digits
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("sweep")
