"""Which loss classifies rare classes of natural images best, on a subset of CIFAR-10 that a CPU can train on?

Class folders with 500 images a class, cut long-tailed at ratio 100; ResNet-18 with the ImageNet stem and half
of its channels, Adam, 20 epochs. The 5 images per class that the protocol holds out cannot choose among 8
points, so that 50 are held out here and the largest class has 450. Every loss tries 8 points for 6 epochs;
three seeds are trained with the best point and scored once on the test images. An epoch takes about 2 s on
one idle core, the sweep 40 minutes on two.

    python tools/sweep.py configs/sweeps/cifar10_subset.py --data-root DIR --slots 2

DIR holds train/CLASS and test/CLASS. Influence-balanced loss starts to reweight after 3 epochs, so that the
short trainings have it, too. cdb_ce takes its weights from validation after every epoch. The final
checkpoints are kept, since ``tools/analyze.py outlying-label`` reads them.
"""

configs = ["cifar/resnet34_cifar10.py"]
imbalances = ["long_tailed:100"]
losses = [
    "ce",
    "mse",
    "outlying_mse",
    "weighted_ce_inverse_frequency",
    "weighted_ce_effective_number",
    "focal",
    "ldam",
    "balanced_softmax",
    "vs",
    "lade",
    "weighted_ce_median_frequency",
    "weighted_focal",
    "focal_sigmoid",
    "elm",
    "logit_adjusted",
    "cdb_ce",
    "equalization",
    "equalization_sigmoid",
    "seesaw",
    "ghmc",
    "influence_balanced:start_epoch=3",
]
options = [
    "model.backbone.depth=18",
    "model.backbone.stem_channels=32",
    "model.backbone.base_channels=32",
    "model.head.in_channels=256",
    "train_dataloader.batch_size=64",
    "train_dataloader.dataset.dataset.dataset.per_class=50",
    "val_dataloader.dataset.dataset.per_class=50",
    "train_cfg.val_interval=2",
]
options_of = {"cdb_ce": ["train_cfg.val_interval=1"]}

tune = {"lr": [1e-4, 3e-4, 1e-3, 3e-3], "wd": [0.0, 5e-4]}
tune_losses = {"outlying_mse": {"alpha": [1.0, 5.0]}}
points = 8
rungs = [{"epochs": 6, "keep": 1}]

epochs = 20
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
keep_checkpoints = True
seconds_per_epoch = 2.0
