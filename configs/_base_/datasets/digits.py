"""scikit-learn's handwritten digits cut long-tailed at ratio 20; 20 images per class are held out before.

Training has about 100 images of the digit 0 down to 5 of the digit 9; validation has 200 images, test 599.
Nothing is downloaded. The validation images chose alpha 1.
"""

_base_ = ["../losses.py"]

losses = dict(outlying_mse=dict(alpha=1.0))
data_preprocessor = dict(num_classes=10, mean=[78.0] * 3, std=[94.0] * 3, to_rgb=False)

pipeline = [dict(type="PackInputs")]  # images are in memory
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="mmseol.ImbalancedDataset",
        profile="long_tailed",
        ratio=20,
        dataset=dict(
            type="mmseol.HoldOut",
            per_class=20,
            side="train",
            dataset=dict(type="mmseol.DigitsDataset", split="train", pipeline=pipeline),
        ),
    ),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmseol.HoldOut",
        per_class=20,
        side="val",
        dataset=dict(type="mmseol.DigitsDataset", split="train", pipeline=pipeline),
    ),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="mmseol.DigitsDataset", split="test", pipeline=pipeline),
)
val_evaluator = dict(type="mmseol.ClassBalanceMetric", limits=None)  # thirds of the classes
test_evaluator = val_evaluator
