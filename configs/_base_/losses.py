"""Every loss by the name that ``--loss`` takes, with the values of its paper.

Names are the rows of the paper's tables. A data set sets its own alpha in its fragment.
"""

losses = dict(
    ce=dict(type="mmseol.CrossEntropyLoss"),
    weighted_ce_median_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="median_frequency"),
    weighted_ce_inverse_frequency=dict(type="mmseol.CrossEntropyLoss", class_weight="inverse_frequency"),
    weighted_ce_effective_number=dict(
        type="mmseol.CrossEntropyLoss", class_weight="effective_number", beta=0.9999
    ),
    mse=dict(type="mmseol.OneHotMSELoss"),
    outlying_mse=dict(type="mmseol.OutlyingMSELoss", alpha=1.0),
)
