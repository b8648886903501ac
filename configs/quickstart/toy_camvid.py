"""Toy road scenes in CamVid's classes and imbalance: FastFCN-R18 with a narrow JPU, minutes on a CPU.

`bash tools/quickstart.sh` makes the data, trains with cross entropy and with outlying MSE, and compares them.
By hand:

    python tools/dataset_converters/make_toy_camvid.py --out data/toy_camvid
    python tools/train.py configs/quickstart/toy_camvid.py --loss outlying_mse --seed 1
"""

_base_ = ["../camvid/fastfcn_r18.py"]

data_root = "data/toy_camvid"
crop_size = (96, 96)
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
    dict(type="PackSegInputs"),
]

model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(jpu_channels=64, channels=64),
)
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
train_cfg = dict(max_epochs=16, val_interval=4)
