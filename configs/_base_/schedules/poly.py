"""SGD with momentum 0.9, poly 0.9 stepped by epoch (Eq. 6); weight decay 5e-4 is our choice.

The scheduler ends at ``train_cfg.max_epochs``. mmengine's poly is 0 throughout the last epoch, Eq. 6 only
after it. A run of few epochs loses less with ``param_scheduler.0.convert_to_iter_based=True``, which
decays by iteration.
"""

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, by_epoch=True)]
train_cfg = dict(by_epoch=True, val_interval=1)
val_cfg = dict()
test_cfg = dict()
