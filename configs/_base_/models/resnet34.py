"""ResNet-34 from scratch with the stem for ImageNet (7x7, stride 2, pooling), as the paper's name says.

On images of 32x32 the last map is a single pixel; ``resnet34_stem3x3.py`` is the usual change for CIFAR.
"""

model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=34),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="mmseol.CalibratedLinearClsHead",
        in_channels=512,
        loss=dict(type="mmseol.OutlyingMSELoss"),
    ),
)
