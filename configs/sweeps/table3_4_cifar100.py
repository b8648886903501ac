"""Tables 3 and 4 of arXiv 2107.02393: accuracy and F-measure of seven losses on imbalanced CIFAR-100.

ResNet-34 from scratch, Adam, 1000 epochs, three seeds. Printed at ratio 100, long-tailed: accuracy 21.78 with
cross entropy, 26.65 with outlying MSE. ``table1_2_cifar10.py`` describes tuning and order; here 500
validation images choose.

    python tools/sweep.py configs/sweeps/table3_4_cifar100.py --data-root DIR \\
        --only ce outlying_mse long_tailed:100
    python tools/sweep.py configs/sweeps/table3_4_cifar100.py --data-root DIR
    python tools/tables.py work_dirs/sweeps/table3_4_cifar100 --parts table3 table4 comparison runs
"""

configs = ["cifar/resnet34_cifar100.py"]
imbalances = [
    "long_tailed:100",
    "step:100",
    "long_tailed:50",
    "long_tailed:10",
    "long_tailed:5",
    "step:50",
    "step:10",
    "step:5",
]
losses = ["ce", "outlying_mse", "focal", "ldam", "cdb_ce", "equalization", "mse"]

tune = {"lr": [1e-4, 3e-4, 1e-3, 3e-3], "wd": [0.0, 5e-4]}
rungs = [{"epochs": 50, "keep": 2}, {"epochs": 200, "keep": 1}]

epochs = 1000
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
