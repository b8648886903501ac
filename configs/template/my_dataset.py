"""Segmentation of your own data, here with 7 classes: FastFCN-R50, crop 320, batch 8, poly 0.9.

Copy the file to any folder, edit the lines between the rules, then train and score:

    python tools/train.py configs/template/my_dataset.py --loss outlying_mse:alpha=1 --seed 1
    python tools/train.py configs/template/my_dataset.py --loss ce --seed 1
    python tools/test.py configs/template/my_dataset.py CHECKPOINT

A label map is a PNG file of 8 bits and one channel, with or without a palette, that holds the class of each
pixel, from 0 in the order of `classes`, or 255 for void. It has the size of its image, and its name and
subfolder apart from the suffix: images/train/a/1.jpg belongs to labels/train/a/1.png. When training starts,
the log shows the pixels of each class. Choose alpha and the learning rate on the validation data. To start
without ImageNet weights, for instance offline, add `--cfg-options model.pretrained=None`.
"""

_base_ = [
    "../_base_/models/fastfcn_r50.py",
    "../_base_/schedules/poly_200e.py",
    "../_base_/default_runtime.py",
]

# ---------------------------------------------------------------------------------------------- edit
data_root = "data/my_dataset"
train_folders = dict(img_path="images/train", seg_map_path="labels/train")
val_folders = dict(img_path="images/val", seg_map_path="labels/val")
suffixes = dict(img_suffix=".jpg", seg_map_suffix=".png")
classes = ("ground", "grass", "road", "water", "building", "vehicle", "person")
palette = [
    [90, 70, 50],
    [60, 140, 60],
    [120, 120, 120],
    [60, 90, 200],
    [170, 60, 60],
    [230, 180, 0],
    [250, 0, 120],
]
crop_size = (320, 320)
learning_rate, epochs = 1e-2, 200
# ----------------------------------------------------------------------------------------------------

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
dataset = dict(
    type="BaseSegDataset", data_root=data_root, metainfo=dict(classes=classes, palette=palette), **suffixes
)
train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(data_prefix=train_folders, pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,  # images may differ in size
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data_prefix=val_folders, pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmseol.SegClassBalanceMetric")
test_evaluator = val_evaluator

loss = dict(type="mmseol.OutlyingMSELoss", alpha=1.0)
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=len(classes), loss_decode=loss),
    auxiliary_head=dict(num_classes=len(classes), loss_decode=loss),
)
optim_wrapper = dict(optimizer=dict(lr=learning_rate))
train_cfg = dict(max_epochs=epochs)
del dataset, loss
