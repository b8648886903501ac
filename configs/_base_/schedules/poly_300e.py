"""``poly.py`` with learning rate 0.1 and 300 epochs."""

_base_ = ["./poly.py"]

optim_wrapper = dict(optimizer=dict(lr=0.1))
train_cfg = dict(max_epochs=300)
