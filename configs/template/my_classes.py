"""Classification of your own class folders, here 3 classes: ResNet-50 at 224 px, batch 32, poly 0.9.

Copy the file to any folder, edit the lines between the rules, then train and score:

    python tools/train.py configs/template/my_classes.py --loss outlying_mse:alpha=1 --seed 1
    python tools/train.py configs/template/my_classes.py --loss ce --seed 1
    python tools/test.py configs/template/my_classes.py CHECKPOINT

The images of a class lie in train/CLASS and val/CLASS below `data_root`, or in subfolders. When training
starts, the log shows the images of each class. Choose alpha and the learning rate on the validation data. To
start without ImageNet weights, for instance offline, add `--cfg-options model.backbone.init_cfg=None`.
"""

_base_ = ["../_base_/models/resnet50.py", "../_base_/schedules/poly.py", "../_base_/cls_runtime.py"]

# ---------------------------------------------------------------------------------------------- edit
data_root = "data/my_classes"
classes = ("bird", "cat", "dog")  # names of the folders in alphabetical order, capitals first
learning_rate, epochs = 1e-2, 100
# ----------------------------------------------------------------------------------------------------

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=224),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=256, edge="short"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
dataset = dict(type="CustomDataset", data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(data_prefix="train", pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data_prefix="val", pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmseol.ClassBalanceMetric")
test_evaluator = val_evaluator

data_preprocessor = dict(
    num_classes=len(classes), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
model = dict(
    head=dict(num_classes=len(classes), loss=dict(type="mmseol.OutlyingMSELoss", alpha=1.0)),
)
optim_wrapper = dict(optimizer=dict(lr=learning_rate))
train_cfg = dict(max_epochs=epochs)
del dataset
