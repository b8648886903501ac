"""Every loss by the name that ``--loss`` takes, with the values of its paper.

Names are the rows of the paper's tables. A data set sets its own alpha, or threshold, in its fragment.
"""

losses = dict(
    ce=dict(type="mmseol.CrossEntropyLoss"),
    weighted_ce_median_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="median_frequency"),
    weighted_ce_inverse_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="inverse_frequency"),
    weighted_ce_effective_number=dict(
        type="mmseol.CrossEntropyLoss", class_weight="effective_number", beta=0.9999
    ),
    focal=dict(type="mmseol.FocalLoss", gamma=2.0),
    weighted_focal=dict(type="mmseol.FocalLoss", gamma=2.0, class_weight="median_frequency"),
    focal_sigmoid=dict(type="mmseol.SigmoidFocalLoss", alpha=0.25, gamma=2.0),
    dice=dict(type="mmseol.DiceLoss", power=2),
    iou=dict(type="mmseol.IoULoss"),
    tversky=dict(type="mmseol.TverskyLoss", alpha=0.3, beta=0.7),
    lovasz_softmax=dict(type="mmseol.LovaszSoftmaxLoss"),
    lovasz_hinge=dict(type="mmseol.LovaszHingeLoss"),
    cdb_ce=dict(type="mmseol.CDBLoss", tau=1.5),
    equalization=dict(type="mmseol.EqualizationLoss", gamma=0.9, threshold=0.05),
    equalization_sigmoid=dict(type="mmseol.SigmoidEqualizationLoss", threshold=0.00177),
    seesaw=dict(type="mmseol.SeesawLoss", p=0.8, q=2.0),
    ghmc=dict(type="mmseol.GHMCLoss", bins=10, momentum=0.0),
    influence_balanced=dict(type="mmseol.InfluenceBalancedLoss", scale=1000.0, start_epoch=100),
    mse=dict(type="mmseol.OneHotMSELoss"),
    ldam=dict(type="mmseol.LDAMLoss", max_margin=0.5, scale=30.0),
    elm=dict(type="mmseol.EnlargedMarginLoss", enlargement=1.0, max_margin=0.5, scale=30.0),
    balanced_softmax=dict(type="mmseol.BalancedSoftmaxLoss"),
    logit_adjusted=dict(type="mmseol.LogitAdjustedLoss", tau=1.0),
    vs=dict(type="mmseol.VSLoss", gamma=0.3, tau=1.0),
    lade=dict(type="mmseol.LADELoss", remine_weight=0.1, remine_lambda=0.1),
    outlying_mse=dict(type="mmseol.OutlyingMSELoss", alpha=1.0),
)
