"""Every registered loss keeps the contract of :mod:`mmseol.testing`; registering a loss enrols it."""

from __future__ import annotations

import pytest

from mmseol.losses import ClassLoss
from mmseol.registry import MODELS
from mmseol.testing import LossCheck, loss_checks

MODELS.import_from_location()
LOSSES = sorted(
    (cls for cls in MODELS.module_dict.values() if isinstance(cls, type) and issubclass(cls, ClassLoss)),
    key=lambda cls: cls.__name__,
)
# Settings under which a loss is a function of its arguments alone; state and chance have their own tests.
SETTINGS: dict[str, dict] = {
    "EqualizationLoss": dict(gamma=1.0, threshold=0.1, training=True),  # cross entropy in evaluation mode
    "SigmoidEqualizationLoss": dict(threshold=0.1),
}
# Checks that cannot apply to a loss, beside those of which the check itself says so, and why.
EXCEPTIONS = {
    ("gradient_is_the_difference_quotient", "SeesawLoss"): (
        "its factors are constants to the gradient, but not to a difference quotient"
    ),
}
ENROLLED = [
    pytest.param(check, loss, id=f"{check}-{loss.__name__}")
    for check in loss_checks()
    for loss in LOSSES
    if check.exception(loss) is None and (check.name, loss.__name__) not in EXCEPTIONS
]


def test_every_loss_is_enrolled() -> None:
    names = {loss.__name__ for loss in LOSSES}
    assert {"OutlyingMSELoss", "OneHotMSELoss", "CrossEntropyLoss"} <= names
    assert SETTINGS.keys() <= names
    assert EXCEPTIONS.keys() <= {(check.name, name) for check in loss_checks() for name in names}
    assert len(loss_checks()) == 26
    assert len(ENROLLED) > 0.95 * len(LOSSES) * len(loss_checks())


@pytest.mark.parametrize(("check", "loss"), ENROLLED)
def test_contract(check: LossCheck, loss: type[ClassLoss]) -> None:
    check(loss, **SETTINGS.get(loss.__name__, {}))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_built_by_name_from_a_config(loss: type[ClassLoss]) -> None:
    assert type(MODELS.build(dict(type=f"mmseol.{loss.__name__}"))) is loss
