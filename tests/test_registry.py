"""``type='mmseol.X'`` from either host, and what importing costs."""

import subprocess
import sys
from importlib import import_module

import pytest
from mmengine.registry import DefaultScope

from mmseol.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS

HEAVY = ("mmseg", "mmpretrain", "mmcv", "cv2", "matplotlib")
SLOW = ("torch._dynamo", "scipy.stats")  # seconds; building a model may load them, importing losses must not


def modules_after(code: str, modules: tuple[str, ...] = HEAVY) -> list[str]:
    """Return which of the modules a fresh interpreter has loaded after ``code``."""
    script = f"{code}\nimport sys\nprint(*(m for m in {modules!r} if m in sys.modules))"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    return output.splitlines()[-1].split()


def test_importing_the_package_loads_no_host_and_nothing_slow():
    code = "import mmseol, mmseol.registry, mmseol.losses, mmseol.counting.counts"
    assert modules_after(code, HEAVY + SLOW) == []


def test_looking_a_loss_up_loads_no_host():
    code = "from mmengine.registry import MODELS\nMODELS.build(dict(type='mmseol.OutlyingMSELoss', alpha=2))"
    assert modules_after(code) == []


def test_looking_a_classification_part_up_does_not_load_mmseg():
    code = "from mmseol.registry import MODELS\nassert MODELS.get('mmseol.SmallResNet') is not None"
    loaded = modules_after(code)
    assert "mmpretrain" in loaded
    assert "mmseg" not in loaded


def test_every_registered_part_of_a_host_is_a_name_of_its_package():
    """The registry imports a package for the names in its ``__init__``."""
    for location in ("mmseol.segmentation", "mmseol.classification"):
        package = import_module(location)
        for registry in (DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS):
            for name, part in registry.module_dict.items():
                assert not part.__module__.startswith(location) or name in package.__all__


def test_a_loss_is_found_where_no_host_is_installed():
    missing = (
        "import sys\nhosts = ('mmseg', 'mmpretrain', 'mmcv')\nsys.modules.update(dict.fromkeys(hosts))\n"
    )
    build = "from mmengine.registry import MODELS\nMODELS.build(dict(type='mmseol.OneHotMSELoss'))\n"
    assert modules_after(missing + build + "for host in hosts: del sys.modules[host]") == []


@pytest.mark.parametrize("host", ["mmseg", "mmpretrain"])
def test_names_resolve_from_either_host(host):
    registry = __import__(f"{host}.registry", fromlist=["MODELS"])
    with DefaultScope.overwrite_default_scope(host):
        assert registry.MODELS.build(dict(type="mmseol.OneHotMSELoss")).loss_name == "loss_one_hot_mse"
        assert registry.HOOKS.get("mmseol.ClassCountHook").__name__ == "ClassCountHook"
        assert registry.HOOKS.get("mmseol.NonFiniteLossHook").__name__ == "NonFiniteLossHook"
        assert registry.DATASETS.get("mmseol.CamVidDataset").__name__ == "CamVidDataset"
        assert registry.TRANSFORMS.get("mmseol.CheckLabelSize").__name__ == "CheckLabelSize"
        assert registry.MODELS.get("mmseol.JPUHead").__name__ == "JPUHead"
        assert registry.MODELS.get("mmseol.SegScoreTTAModel").__name__ == "SegScoreTTAModel"
        assert registry.MODELS.get("mmseol.CalibratedLinearClsHead").__name__ == "CalibratedLinearClsHead"
        assert registry.MODELS.get("mmseol.ClsScoreTTAModel").__name__ == "ClsScoreTTAModel"
        assert registry.HOOKS.get("mmseol.TemperatureHook").__name__ == "TemperatureHook"
        assert registry.DATASETS.get("mmseol.DigitsDataset").__name__ == "DigitsDataset"
        with pytest.raises(KeyError, match="OutlyingMSELos"):
            registry.MODELS.build(dict(type="mmseol.OutlyingMSELos"))


def test_host_names_stay_theirs():
    assert "CrossEntropyLoss" in MODELS.module_dict
    from mmseg.registry import MODELS as HOST

    with DefaultScope.overwrite_default_scope("mmseg"):
        assert HOST.get("CrossEntropyLoss").__module__.startswith("mmseg.")
