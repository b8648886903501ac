"""Table 5 of arXiv 2107.02393: accuracy and F-measure of three losses on Food-101-LT.

ResNet-50 from ImageNet weights, 300 epochs. Printed: accuracy 50.98 with weighted cross entropy, 52.41 with
outlying MSE. Every loss tries the same 8 points on the 5,050 validation images: 8 for 10 epochs, 2 of them
for 40. Cross entropy is not in the paper's table; it is the reference of the differences.

    python tools/sweep.py configs/sweeps/table5_food101.py --data-root DIR
    python tools/tables.py work_dirs/sweeps/table5_food101 --parts table5 scores comparison runs
"""

configs = ["food101/resnet50.py"]
losses = ["ce", "outlying_mse", "weighted_ce_effective_number", "focal"]

tune = {"lr": [3e-3, 1e-2, 3e-2, 1e-1], "wd": [5e-5, 5e-4]}
rungs = [{"epochs": 10, "keep": 2}, {"epochs": 40, "keep": 1}]

epochs = 300
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
