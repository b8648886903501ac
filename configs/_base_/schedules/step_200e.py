"""SGD 0.1 with momentum 0.9 and weight decay 2e-4, 5 epochs of warm-up, x0.01 at epochs 160 and 180 of 200.

The schedule of LDAM-DRW (Cao et al., NeurIPS 2019) and of later papers that compare with it.
"""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=2e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.2, by_epoch=True, begin=0, end=5),
    dict(type="MultiStepLR", milestones=[160, 180], gamma=0.01, by_epoch=True),
]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict()
test_cfg = dict()
