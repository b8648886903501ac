"""CIFAR-10 cut long-tailed at ratio 100; 5 images per class are held out for validation before the cut.

``--imbalance step:10`` chooses another profile. Alpha 5 is the paper's choice on this data. Mean and std
(mmpretrain's) and no augmentation are our choice. The test split is whole. ``mmseol.InMemoryDataset`` keeps
decoded images in memory and augments whole batches: the batches are the same and come sooner.
"""

_base_ = ["../losses.py"]

data_root = "data/cifar10"
losses = dict(outlying_mse=dict(alpha=5.0))
data_preprocessor = dict(
    num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=False
)

pipeline = [dict(type="PackInputs")]
crop_and_flip = [  # the augmentation of the literature: crops of images padded by 4, and flips
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
tta_pipeline = [
    dict(
        type="TestTimeAug",
        transforms=[[dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)], [dict(type="PackInputs")]],
    ),
]
tta_model = dict(type="mmseol.ClsScoreTTAModel")

train_set = dict(type="mmseol.CIFAR10", data_root=data_root, split="train", pipeline=pipeline)
test_set = dict(type="mmseol.CIFAR10", data_root=data_root, split="test", test_mode=True, pipeline=pipeline)
held_out = dict(type="mmseol.HoldOut", per_class=5, dataset=train_set)
cut = dict(type="mmseol.ImbalancedDataset", profile="long_tailed", ratio=100)

loader = dict(
    batch_size=128, num_workers=0, persistent_workers=False, collate_fn=dict(type="mmseol.whole_batch")
)
train_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="mmseol.InMemoryDataset", dataset=dict(**cut, dataset=dict(**held_out, side="train"))),
)
val_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="mmseol.InMemoryDataset", dataset=dict(**held_out, side="val")),
)
test_dataloader = dict(
    **loader,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="mmseol.InMemoryDataset", dataset=test_set),
)
val_evaluator = dict(type="mmseol.ClassBalanceMetric")
test_evaluator = val_evaluator
del train_set, test_set, held_out, cut, loader
