"""Table 5 of arXiv 2107.02393: Food-101-LT, ResNet-50 from ImageNet weights, batch 64, 300 epochs, poly 0.9.

Expected on the test split with outlying MSE, alpha 1 (as printed there): accuracy 52.41, F-measure 49.50.
Weight decay 5e-4 and augmentation are our choice, because the paper does not state them. To start without
ImageNet weights, for instance offline, add ``--cfg-options model.backbone.init_cfg=None``.

    python tools/train.py configs/food101/resnet50.py --loss outlying_mse:alpha=1 --seed 1 --data-root DIR
    python tools/test.py configs/food101/resnet50.py CHECKPOINT --split test --data-root DIR
"""

_base_ = [
    "../_base_/datasets/food101.py",
    "../_base_/models/resnet50.py",
    "../_base_/schedules/poly_300e.py",
    "../_base_/cls_runtime.py",
]

model = dict(
    head=dict(num_classes={{_base_.data_preprocessor.num_classes}}, loss={{_base_.losses.outlying_mse}})
)
