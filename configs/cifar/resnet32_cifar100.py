"""CIFAR-100 as the literature on long tails trains it: ResNet-32, 200 epochs, crops padded by 4 and flips.

``resnet32_cifar10.py`` describes the protocol.

    python tools/train.py configs/cifar/resnet32_cifar100.py --loss ce --seed 1 --data-root DIR
    python tools/test.py configs/cifar/resnet32_cifar100.py CHECKPOINT --split test --data-root DIR
"""

_base_ = [
    "../_base_/datasets/cifar100.py",
    "../_base_/models/resnet32.py",
    "../_base_/schedules/step_200e.py",
    "../_base_/cls_runtime.py",
]

train_set = _base_.train_dataloader.dataset
while "dataset" in train_set:  # the innermost one, whatever wraps it
    train_set = train_set.dataset
train_set.pipeline = _base_.crop_and_flip
del train_set
model = dict(
    head=dict(num_classes={{_base_.data_preprocessor.num_classes}}, loss={{_base_.losses.outlying_mse}})
)
