"""CIFAR-100, as CIFAR-10 beside it; alpha 1 and the threshold are the papers' choices on this data."""

_base_ = ["./cifar10.py"]

data_root = "data/cifar100"
losses = dict(outlying_mse=dict(alpha=1.0), equalization=dict(threshold=0.005))
data_preprocessor = dict(num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418])

cifar100 = dict(type="mmseol.CIFAR100", data_root=data_root)
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(dataset=cifar100))))
val_dataloader = dict(dataset=dict(dataset=dict(dataset=cifar100)))
test_dataloader = dict(dataset=dict(dataset=cifar100))
