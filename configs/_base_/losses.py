"""Every loss by the name that ``--loss`` takes, with the values of its paper; the package owns the list.

A data set sets its own alpha, or threshold, in its fragment.
"""

_base_ = []  # mmengine reads a file with an import and without this as a config of its new style

from mmseol.experiment.loss import LOSSES as losses  # noqa: E402, F401
