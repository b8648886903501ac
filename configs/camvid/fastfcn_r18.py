"""CamVid on a CPU: FastFCN-R18 from scratch at half resolution, crop 160, batch 8, 16 epochs.

Not in the paper. Images of half size fit the scene into a crop that two cores can train on; predictions are
scored at full size. An iteration takes about a second on one CPU thread. The run of 46 iterations per epoch
takes 20 minutes with validation; results/camvid_r18 records it.

    python tools/train.py configs/camvid/fastfcn_r18.py --loss outlying_mse --seed 1 --data-root DIR
"""

_base_ = ["./fastfcn_r50.py"]

crop_size = (160, 160)
half_size = dict(type="Resize", scale_factor=0.5, keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="mmseol.CheckLabelSize"),
    half_size,
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion", hue_delta=1),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    half_size,
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]

norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    pretrained=None,
    backbone=dict(depth=18, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=(128, 256, 512), jpu_channels=128, channels=128, context="fcn", norm_cfg=norm_cfg
    ),
    auxiliary_head=dict(in_channels=256, channels=64, norm_cfg=norm_cfg),
)

train_dataloader = dict(batch_size=8, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline))
train_cfg = dict(max_epochs=16, val_interval=2)
