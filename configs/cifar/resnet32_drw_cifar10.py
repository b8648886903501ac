"""``resnet32_cifar10.py`` with deferred re-weighting: effective-number weights from epoch 160 of 200 on.

LDAM-DRW of Cao et al., NeurIPS 2019. Expected on the test split, as published, at ratio 100: accuracy 77.97
with LDAM, of the epoch that is best there. With other epochs, set ``custom_hooks.4.begin`` to 0.8 of them.

    python tools/train.py configs/cifar/resnet32_drw_cifar10.py --loss ldam --seed 1 --data-root DIR
    python tools/test.py configs/cifar/resnet32_drw_cifar10.py CHECKPOINT --split test --data-root DIR
"""

_base_ = ["./resnet32_cifar10.py"]

custom_hooks = [*_base_.custom_hooks, dict(type="mmseol.DeferredReweightHook", begin=160)]
