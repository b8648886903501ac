"""``resnet34_cifar100.py`` with the 3x3 stem that is usual for images of 32x32.

The paper does not state the stem. This one costs ten to twenty times the work of the stem for ImageNet.
"""

_base_ = [
    "../_base_/datasets/cifar100.py",
    "../_base_/models/resnet34_stem3x3.py",
    "../_base_/schedules/adam_1000e.py",
    "../_base_/cls_runtime.py",
]

model = dict(
    head=dict(num_classes={{_base_.data_preprocessor.num_classes}}, loss={{_base_.losses.outlying_mse}})
)
