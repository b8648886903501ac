"""SGD 1e-2 with momentum 0.9, poly 0.9 stepped by epoch (Eq. 6), 200 epochs; weight decay 5e-4 is our choice.

The scheduler's end follows ``train_cfg.max_epochs``. mmengine's poly is 0 throughout the last epoch, where
Eq. 6 is 0 after it; a run of few epochs wastes less with ``param_scheduler.0.convert_to_iter_based=True``,
which decays by iteration.
"""

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1e-2, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True)]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
