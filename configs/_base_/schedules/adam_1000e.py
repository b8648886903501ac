"""Adam 1e-3, 1000 epochs; a constant rate and weight decay 5e-4 are our choice where the paper is silent."""

optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=1e-3, weight_decay=5e-4))
param_scheduler = []
train_cfg = dict(by_epoch=True, max_epochs=1000, val_interval=5)
val_cfg = dict()
test_cfg = dict()
