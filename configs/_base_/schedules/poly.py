"""SGD with momentum 0.9, poly 0.9 stepped by epoch (Eq. 6); weight decay 5e-4 is our choice.

The learning rate reaches 0 after the last epoch, ``train_cfg.max_epochs``.
``param_scheduler.0.convert_to_iter_based=True`` decays it by iteration.
"""

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type="mmseol.PolynomialLR", power=0.9)]
train_cfg = dict(by_epoch=True, val_interval=1)
val_cfg = dict()
test_cfg = dict()
