"""CIFAR-100 as the literature on long tails trains it: ResNet-32, 200 epochs, crops padded by 4 and flips.

Network, schedule and augmentation of LDAM-DRW (Cao et al., NeurIPS 2019), whose cut is
``--imbalance long_tailed:100:protocol=cao2019``. One thing differs: they, and those after them, report the
best epoch on the test split; here 5 images a class are held out of the training data before the cut, the
best epoch is chosen on these, and classes are a little smaller for it.

    python tools/train.py configs/cifar/resnet32_cifar100.py --loss ce --seed 1 --data-root DIR
    python tools/test.py configs/cifar/resnet32_cifar100.py CHECKPOINT --split test --data-root DIR
"""

_base_ = [
    "../_base_/datasets/cifar100.py",
    "../_base_/models/resnet32.py",
    "../_base_/schedules/step_200e.py",
    "../_base_/cls_runtime.py",
]

train_pipeline = [
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))))
model = dict(head=dict(num_classes=100, loss={{_base_.losses.outlying_mse}}))
