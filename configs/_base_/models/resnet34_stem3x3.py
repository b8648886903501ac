"""ResNet-34 from scratch with a 3x3 stem without stride or pooling, for images of 32x32."""

_base_ = ["./resnet34.py"]

model = dict(backbone=dict(type="ResNet_CIFAR"))
