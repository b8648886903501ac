"""``poly.py`` with learning rate 1e-2 and 200 epochs."""

_base_ = ["./poly.py"]

optim_wrapper = dict(optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs=200)
