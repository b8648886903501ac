"""Augmentations that papers on mixed examples compare, by name.

A leaf picks one with ``_base_ = [LEAF, "../_base_/augments.py"]`` and
``model = dict(train_cfg=dict(augments=[{{_base_.batch_augments.ricap}}], probs=[0.5]))``. Those of images go
into the train pipeline, before ``PackInputs``. Batch augments need ``data_preprocessor.num_classes`` and make
soft labels.
"""

batch_augments = dict(
    mixup=dict(type="Mixup", alpha=1.0),
    cutmix=dict(type="CutMix", alpha=1.0),
    sample_pairing=dict(type="mmseol.classification.SamplePairing"),
    ricap=dict(type="mmseol.classification.RICAP", beta=0.3),
    vh_mixup=dict(type="mmseol.classification.VHMixup", alpha=1.0),
    vh_bc_plus=dict(type="mmseol.classification.VHBCPlus", alpha=1.0),
    mixed_concat=dict(type="mmseol.classification.MixedConcat", alpha=1.0),
    random_2x2=dict(type="mmseol.classification.Random2x2", alpha=1.0),
)
image_augments = dict(
    # Zhong et al., AAAI 2020: half of the images, 2 to 40 per cent of the area, random pixels.
    random_erasing=[
        dict(type="RandomErasing", erase_prob=0.5, mode="rand", min_area_ratio=0.02, max_area_ratio=0.4)
    ],
    # Geometric warping: rotation up to 15 degrees, shear 0.1, shift by a tenth.
    warping=[
        dict(type="Rotate", angle=15.0, random_negative_prob=0.5, prob=0.5),
        dict(type="Shear", magnitude=0.1, random_negative_prob=0.5, prob=0.5),
        dict(type="Shear", magnitude=0.1, random_negative_prob=0.5, prob=0.5, direction="vertical"),
        dict(type="Translate", magnitude=0.1, random_negative_prob=0.5, prob=0.5),
        dict(type="Translate", magnitude=0.1, random_negative_prob=0.5, prob=0.5, direction="vertical"),
    ],
)
