"""Tables 1 and 2 of arXiv 2107.02393: accuracy and F-measure of seven losses on imbalanced CIFAR-10.

ResNet-34 from scratch, Adam, 1000 epochs, three seeds. Printed at ratio 100, long-tailed: accuracy 44.50 with
cross entropy, 46.99 with outlying MSE. Unlike the paper, every loss has a learning rate and weight decay of
its own: 8 points for 50 epochs, 2 of them for 200, on the 50 validation images, whose accuracy moves in
steps of 2 per cent. What decides most comes first: ratio 100, long-tailed, cross entropy and outlying MSE:

    python tools/sweep.py configs/sweeps/table1_2_cifar10.py --data-root DIR \\
        --only ce outlying_mse long_tailed:100
    python tools/sweep.py configs/sweeps/table1_2_cifar10.py --data-root DIR
    python tools/tables.py work_dirs/sweeps/table1_2_cifar10 --parts table1 table2 comparison runs

A loss at one ratio takes 3,800 epochs of up to 12,400 images. On a CPU, take --epochs 20 and
--cfg-options model.backbone.depth=18. ``best_on_test = True`` adds the column that peers print, and keeps the
checkpoint of every validation on disk while a training runs.
"""

configs = ["cifar/resnet34_cifar10.py"]
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
