"""CIFAR-100, cut and held out like ``cifar10.py``; alpha 1 and the threshold are the papers' choices."""

_base_ = ["./cifar10.py"]

data_root = "data/cifar100"
losses = dict(outlying_mse=dict(alpha=1.0), equalization=dict(threshold=0.005))
data_preprocessor = dict(num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418])

for dataset in (
    _base_.train_dataloader.dataset,
    _base_.val_dataloader.dataset,
    _base_.test_dataloader.dataset,
):
    while "dataset" in dataset:  # the innermost one, whatever wraps it
        dataset = dataset.dataset
    dataset.update(type="mmseol.CIFAR100", data_root=data_root)
del dataset
