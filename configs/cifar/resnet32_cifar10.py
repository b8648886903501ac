"""CIFAR-10 as the literature on long tails trains it: ResNet-32, 200 epochs, crops padded by 4 and flips.

Network, schedule and augmentation are those of LDAM-DRW (Cao et al., NeurIPS 2019); its cut is
``--imbalance long_tailed:100:protocol=cao2019``. One setting differs. LDAM-DRW and later papers report the
best epoch on the test split. Here 5 images per class are held out of the training data before the cut and
choose the best epoch, so every class is a little smaller.

    python tools/train.py configs/cifar/resnet32_cifar10.py --loss ce --seed 1 --data-root DIR
    python tools/test.py configs/cifar/resnet32_cifar10.py CHECKPOINT --split test --data-root DIR
"""

_base_ = [
    "../_base_/datasets/cifar10.py",
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
