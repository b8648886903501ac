"""The literature's protocol on long-tailed CIFAR at ratio 100, with weight decay and learning rate tuned.

ResNet-32, 200 epochs, the cut of LDAM-DRW. Published accuracies on CIFAR-10 and CIFAR-100: cross entropy
71.25 and 38.06, LDAM-DRW 77.97 and 42.73, VS 80.29 and 42.67, VS with tuned weight decay 81.62 and 46.26.
Those are of the epoch that is best on the test split, which is a second column here; our own choose nothing
there. ``cifar_lt_resnet32_published.py`` has the published settings. Every loss tries the same 12 points, 12
for 50 epochs, 3 of them for 200.

    python tools/sweep.py configs/sweeps/cifar_lt_resnet32.py --data-root DIR --only ce vs outlying_mse
    python tools/sweep.py configs/sweeps/cifar_lt_resnet32.py --data-root DIR
    python tools/tables.py work_dirs/sweeps/cifar_lt_resnet32* --parts tablelt scores comparison runs
"""

configs = ["cifar/resnet32_cifar10.py", "cifar/resnet32_cifar100.py"]
imbalances = ["long_tailed:100:protocol=cao2019"]
losses = [
    "ce",
    "vs",
    "outlying_mse",
    "balanced_softmax",
    "logit_adjusted",
    "ldam",
    "focal",
    "lade",
    "seesaw",
    "mse",
]

tune = {"lr": [0.01, 0.03, 0.1], "wd": [2e-4, 5e-4, 2e-3, 5e-3]}
rungs = [{"epochs": 50, "keep": 3}, {"epochs": 200, "keep": 1}]

epochs = 200
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
best_on_test = True
