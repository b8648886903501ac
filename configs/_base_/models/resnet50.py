"""ResNet-50 from torchvision's ImageNet weights.

Start without them, for instance offline: ``--cfg-options model.backbone.init_cfg=None``.
"""

model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="ResNet", depth=50, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50")
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="mmseol.CalibratedLinearClsHead",
        in_channels=2048,
        loss=dict(type="mmseol.OutlyingMSELoss"),
    ),
)
