"""Table 6 of arXiv 2107.02393: mean IoU of seven losses on CamVid.

FastFCN-R50, crop 320, 200 epochs, three seeds. Printed: 67.49 with weighted cross entropy, 69.75 with Dice,
72.69 with outlying MSE. Every loss tries the same 8 points on the validation split: 8 for 20 epochs, 2 of
them for 60. Cross entropy is not in the paper's table; it is the reference of the differences.

    python tools/sweep.py configs/sweeps/table6_camvid.py --data-root data/camvid
    python tools/tables.py work_dirs/sweeps/table6_camvid --parts table6 scores comparison classes runs
"""

configs = ["camvid/fastfcn_r50.py"]
losses = [
    "ce",
    "outlying_mse",
    "weighted_ce_median_frequency",
    "dice",
    "lovasz_hinge",
    "iou",
    "weighted_focal",
    "tversky",
]

tune = {"lr": [3e-3, 1e-2, 3e-2, 1e-1], "wd": [5e-5, 5e-4]}
rungs = [{"epochs": 20, "keep": 2}, {"epochs": 60, "keep": 1}]

epochs = 200
seeds = [1, 2, 3]
metric = "mIoU"
split = "test"
