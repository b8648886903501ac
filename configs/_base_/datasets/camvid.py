"""CamVid, 367/101/233 images of 360x480, 11 classes: crop 320x320, flip, brightness, contrast, saturation.

Batch 16 and alpha 6 are those of sec. 4.2 of arXiv 2107.02393.
"""

_base_ = ["../losses.py"]

data_root = "data/camvid"
losses = dict(outlying_mse=dict(alpha=6.0))
num_classes = 11
crop_size = (320, 320)

# mmseg's transform cannot leave the hue alone; 1 is its smallest change (at most 2 degrees).
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="mmseol.CheckLabelSize"),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion", hue_delta=1),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="mmseol.CheckLabelSize"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale_factor=factor, keep_ratio=True) for factor in (0.75, 1.0, 1.25)],
            [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
tta_model = dict(type="mmseol.SegScoreTTAModel")

train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmseol.CamVidDataset",
        data_root=data_root,
        data_prefix=dict(img_path="train", seg_map_path="trainannot"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmseol.CamVidDataset",
        data_root=data_root,
        data_prefix=dict(img_path="val", seg_map_path="valannot"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmseol.CamVidDataset",
        data_root=data_root,
        data_prefix=dict(img_path="test", seg_map_path="testannot"),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="mmseol.SegClassBalanceMetric")
test_evaluator = val_evaluator
