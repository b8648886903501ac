"""Food-101-LT, 224 px: 50 images per class are held out, the rest is cut long-tailed at ratio 100.

15,359 training images remain. Alpha 1 is the paper's choice on this data; the equalization loss takes
CIFAR-100's threshold. Random crops and flips for training and the centre crop at 256 px for testing are our
choice. ``data_root`` is the unpacked archive, with ``images/`` and ``meta/``.
"""

_base_ = ["../losses.py"]

data_root = "data/food-101"
losses = dict(outlying_mse=dict(alpha=1.0), equalization=dict(threshold=0.005))
data_preprocessor = dict(
    num_classes=101, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)

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
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=256, edge="short"),
    dict(type="CenterCrop", crop_size=224),
    dict(
        type="TestTimeAug",
        transforms=[[dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)], [dict(type="PackInputs")]],
    ),
]
tta_model = dict(type="mmseol.ClsScoreTTAModel")

train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmseol.ImbalancedDataset",
        profile="long_tailed",
        ratio=100,
        dataset=dict(
            type="mmseol.HoldOut",
            per_class=50,
            side="train",
            dataset=dict(type="Food101", data_root=data_root, split="train", pipeline=train_pipeline),
        ),
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmseol.HoldOut",
        per_class=50,
        side="val",
        dataset=dict(type="Food101", data_root=data_root, split="train", pipeline=test_pipeline),
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="Food101", data_root=data_root, split="test", pipeline=test_pipeline),
)
val_evaluator = dict(type="mmseol.ClassBalanceMetric")
test_evaluator = val_evaluator
