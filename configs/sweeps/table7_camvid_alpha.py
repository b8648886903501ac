"""Table 7 of arXiv 2107.02393: mean IoU of outlying MSE on CamVid by alpha.

FastFCN-R50 as in ``table6_camvid.py``. Printed on the test split: 69.49 at alpha 1, 72.69 at 6, 70.63 at 8.
The gradient grows with alpha, so every alpha has a learning rate of its own. The table describes how scores
depend on alpha; to choose an alpha, use ``tools/select_alpha.py``, which reads validation data alone.

    python tools/sweep.py configs/sweeps/table7_camvid_alpha.py --data-root data/camvid
    python tools/tables.py work_dirs/sweeps/table7_camvid_alpha --parts table7 runs
"""

configs = ["camvid/fastfcn_r50.py"]
losses = [
    "outlying_mse:alpha=6",
    "outlying_mse:alpha=1",
    "outlying_mse:alpha=8",
    "outlying_mse:alpha=4",
    "outlying_mse:alpha=2",
    "outlying_mse:alpha=3",
    "outlying_mse:alpha=5",
    "outlying_mse:alpha=7",
]

tune = {"lr": [1e-3, 3e-3, 1e-2, 3e-2]}
rungs = [{"epochs": 20, "keep": 2}, {"epochs": 60, "keep": 1}]

epochs = 200
seeds = [1, 2, 3]
metric = "mIoU"
split = "test"
