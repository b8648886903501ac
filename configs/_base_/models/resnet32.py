"""ResNet-32 for CIFAR (He et al., CVPR 2016, sec. 4.2), 0.46 million parameters."""

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmseol.SmallResNet", depth=32),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="mmseol.CalibratedLinearClsHead",
        in_channels=64,
        loss=dict(type="mmseol.OutlyingMSELoss"),
    ),
)
