"""Adam 1e-3, 1000 epochs; the paper does not state the constant rate and weight decay 5e-4 (our choice)."""

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3, weight_decay=5e-4))
param_scheduler = []
train_cfg = dict(by_epoch=True, max_epochs=1000, val_interval=5)
val_cfg = dict()
test_cfg = dict()
