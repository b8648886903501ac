"""Check an installation, or a config before it is trained; the same as ``python -m mmseol doctor``.

python tools/doctor.py
python tools/doctor.py CONFIG --data-root DIR --loss outlying_mse:alpha=6
python tools/doctor.py CONFIG --no-model --json
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("doctor")
