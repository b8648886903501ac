"""FastFCN (Wu et al., arXiv 1903.11816): an undilated ResNet-50, joint pyramid upsampling, EncNet context.

arXiv 2107.02393 does not state depth, context, auxiliary head (FCN, weight 0.4) and initial weights
(ImageNet); they are our choice. To start without ImageNet weights, for instance offline, add
``--cfg-options model.pretrained=None``. A config that uses this fragment sets ``num_classes`` of both heads.
"""

norm_cfg = dict(type="SyncBN", requires_grad=True)
loss = dict(type="mmseol.OutlyingMSELoss")

model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    pretrained="open-mmlab://resnet50_v1c",
    backbone=dict(
        type="ResNetV1c",
        depth=50,
        num_stages=4,
        out_indices=(1, 2, 3),
        dilations=(1, 1, 1, 1),
        strides=(1, 2, 2, 2),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
    ),
    decode_head=dict(
        type="mmseol.JPUHead",
        in_channels=(512, 1024, 2048),
        in_index=(0, 1, 2),
        jpu_channels=512,
        channels=512,
        context="enc",
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=loss,
    ),
    auxiliary_head=dict(
        type="FCNHead",
        in_channels=1024,
        in_index=1,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode={**loss, "loss_weight": 0.4},
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
