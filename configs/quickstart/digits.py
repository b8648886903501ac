"""scikit-learn's digits cut long-tailed: a narrow ResNet-8, a minute on a CPU, nothing to download.

`bash tools/quickstart_digits.sh` trains with cross entropy, MSE and outlying MSE, and compares them. By hand:

    python tools/train.py configs/quickstart/digits.py --loss outlying_mse --seed 1
    python tools/test.py configs/quickstart/digits.py CHECKPOINT --split test
"""

_base_ = [
    "../_base_/datasets/digits.py",
    "../_base_/models/resnet32.py",
    "../_base_/cls_runtime.py",
]

model = dict(
    backbone=dict(depth=8, base_channels=8),
    head=dict(
        num_classes={{_base_.data_preprocessor.num_classes}},
        in_channels=32,
        loss={{_base_.losses.outlying_mse}},
    ),
)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=5e-3))
param_scheduler = [dict(type="mmseol.PolynomialLR", power=0.9)]
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=5)
val_cfg = dict()
test_cfg = dict()
