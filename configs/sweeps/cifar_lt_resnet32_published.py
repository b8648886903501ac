"""The literature's protocol on long-tailed CIFAR at ratio 100 with its published settings, nothing tuned.

Learning rate 0.1 and weight decay 2e-4 for every loss; the configs with ``drw`` re-weight from epoch 160 on.
Published accuracies on CIFAR-10 and CIFAR-100, of the epoch that is best on the test split: cross entropy
71.25 and 38.06, LDAM-DRW 77.97 and 42.73, VS 80.29 and 42.67. 36 trainings of 200 epochs.

    python tools/sweep.py configs/sweeps/cifar_lt_resnet32_published.py --data-root DIR
    python tools/tables.py work_dirs/sweeps/cifar_lt_resnet32_published --parts tablelt scores
"""

configs = [
    "cifar/resnet32_cifar10.py",
    "cifar/resnet32_cifar100.py",
    "cifar/resnet32_drw_cifar10.py",
    "cifar/resnet32_drw_cifar100.py",
]
imbalances = ["long_tailed:100:protocol=cao2019"]
losses = ["ce", "ldam", "vs"]

epochs = 200
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
best_on_test = True
