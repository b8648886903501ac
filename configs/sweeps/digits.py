"""Which loss classifies the rare digits best, each at its own learning rate and weight decay?

scikit-learn's digits cut long-tailed at ratio 20 (332 training images), a narrow ResNet-8. Every loss tries
12 points on the 200 validation images: 12 for 15 epochs, then the best 4 for 60. Three seeds are trained with
the chosen point and scored once on the 599 test images. A final training takes about 12 s on one idle core,
the sweep about 50 minutes. The final checkpoints are kept, since ``tools/analyze.py outlying-label`` reads
them.

    python tools/sweep.py configs/sweeps/digits.py --slots 2
    python tools/sweep.py status work_dirs/sweeps/digits

Influence-balanced loss starts to reweight after 8 epochs, so that the short rung has it, too. cdb_ce takes
its weights from validation after every epoch.
"""

configs = ["quickstart/digits.py"]
imbalances = ["long_tailed:20"]
losses = [
    "ce",
    "mse",
    "outlying_mse",
    "weighted_ce_inverse_frequency",
    "weighted_ce_median_frequency",
    "weighted_ce_effective_number",
    "focal",
    "weighted_focal",
    "focal_sigmoid",
    "ldam",
    "elm",
    "balanced_softmax",
    "logit_adjusted",
    "vs",
    "lade",
    "cdb_ce",
    "equalization",
    "equalization_sigmoid",
    "seesaw",
    "ghmc",
    "influence_balanced:start_epoch=8",
]
options_of = {"cdb_ce": ["train_cfg.val_interval=1"]}

tune = {"lr": [1e-3, 3e-3, 1e-2, 3e-2], "wd": [0.0, 1e-4, 1e-3]}
tune_losses = {"outlying_mse": {"alpha": [0.3, 1.0, 3.0]}}
points = 12
rungs = [{"epochs": 15, "keep": 4}, {"epochs": 60, "keep": 1}]

epochs = 60
seeds = [1, 2, 3]
metric = "accuracy"
split = "test"
keep_checkpoints = True
