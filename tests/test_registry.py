"""``type='mmseol.X'`` from either host, and what importing costs."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest
from mmengine.registry import DefaultScope

from mmseol.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS

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


# A config that names no value keeps its data and its results with every version. The losses have a table of
# their own in test_losses.py.
DEFAULTS = {
    "ImbalancedDataset": dict(
        profile="long_tailed", ratio=100, counts=None, class_order=None, seed=0, protocol=None,
        indices_file=None, n_max=None, lazy_init=False,
    ),
    "InMemoryDataset": dict(max_bytes=8 * 1024**3, lazy_init=False),
    "RepeatRareDataset": dict(threshold=0.5, seed=0, ignore_index=255, lazy_init=False),
    "HoldOut": dict(per_class=5, side="train", seed=0, lazy_init=False),
    "StratifiedHoldOut": dict(fraction=0.1, side="train", seed=0, ignore_index=255, lazy_init=False),
    "StratifiedKFold": dict(fold=0, num_folds=5, side="train", seed=0, ignore_index=255, lazy_init=False),
    "CamVidDataset": dict(ann_file="", img_suffix=".png", seg_map_suffix=".png", reduce_zero_label=False),
    "CIFAR10": dict(split="train"),
    "CIFAR100": dict(split="train"),
    "DigitsDataset": dict(split="train", data_root=""),
    "ClassAwareSampler": dict(power=0.0, num_samples=None, seed=None),
    "ProgressivelyBalancedSampler": dict(num_samples=None, seed=None),
    "UnderSampler": dict(seed=None),
    "OverSampler": dict(seed=None),
    "DeferredSampler": dict(first=None, seed=None),
    "RareClassSampler": dict(temperature=0.01, min_pixels=1, ignore_index=255, num_samples=None, seed=None),
    "AlphaRampHook": dict(start=1.0, end=None, begin=0, until=10, by_epoch=True),
    "ClassScalarsHook": {"scores": ("IoU", "recall"), "at_most": 0, "separator": "."},
    "PredictionPicturesHook": {"number": 4, "images": None, "interval": 1},
    "ReportHook": {"name": "report.html"},
    "ClassCountHook": dict(
        count="samples", num_classes=None, ignore_index=None, workers=None, cache=True, cache_dir=None,
        check_labels=True,
    ),
    "ClassDifficultyHook": {},
    "ClassifierFeatureHook": dict(classifier=None),
    "ExactResumeHook": {},
    "DeferredReweightHook": dict(begin=160, by_epoch=True, weight="effective_number", beta=0.9999),
    "NonFiniteLossHook": dict(interval=None),
    "WholeCheckpointHook": dict(interval=-1, by_epoch=True),
    "StopSignalHook": dict(signals=("SIGTERM", "SIGINT")),
    "TunedDecisionHook": dict(objective=None, family="prior", kind=None, strengths=None, classifier=None),
    "UpsampleFreeLossHook": dict(accuracy="exact"),
    "UpsampleFreePredictionHook": {},
    "TemperatureHook": {},
    "PolynomialLR": dict(
        power=0.9,
        eta_min=0.0,
        begin=0,
        end=1000000000,
        last_step=-1,
        by_epoch=True,
        verbose=False,
    ),
    "ClassBalanceMetric": dict(
        class_counts=None, num_classes=None, limits=(20, 100), table_dir=None, collect_device="cpu",
        prefix=None, collect_dir=None,
    ),
    "SegClassBalanceMetric": dict(
        ignore_index=255, class_counts=None, num_classes=None, limits=None, table_dir=None, output_dir=None,
        keep_results=True, format_only=False, collect_device="cpu", prefix=None, collect_dir=None,
        image_root=None,
    ),
    "JPUHead": dict(in_channels=(), in_index=(), jpu_channels=512, context="fcn"),
    "SegScoreTTAModel": dict(data_preprocessor=None),
    "CalibratedLinearClsHead": dict(decision="argmax"),
    "ClsScoreTTAModel": dict(data_preprocessor=None),
    "SmallResNet": dict(depth=32, base_channels=16),
    "ClassifierRetraining": dict(classifier=None, data_preprocessor=None),
    "LearnableWeightScaling": dict(classifier=None, data_preprocessor=None),
    "CosineClassifierHead": dict(classifier=None),
    "CheckLabelSize": {},
    "ClassAwareCrop": dict(class_counts=None, power=1.0, prob=1.0, ignore_index=255),
}  # fmt: skip
REGISTRIES = (DATASETS, DATA_SAMPLERS, HOOKS, METRICS, MODELS, PARAM_SCHEDULERS, TRANSFORMS)


def components():
    """Return every registered component but the losses, by name."""
    found = {}
    for package in ("mmseol.classification", "mmseol.segmentation"):
        import_module(package)
    for registry in REGISTRIES:
        registry.import_from_location()
        found |= registry.module_dict
    ours = {name: part for name, part in found.items() if part.__module__.startswith("mmseol.")}
    return {name: part for name, part in ours.items() if not part.__module__.startswith("mmseol.losses")}


def test_defaults_of_the_components():
    found = components()
    assert found.keys() == DEFAULTS.keys()
    for name, part in found.items():
        parameters = inspect.signature(part).parameters.values()
        assert {p.name: p.default for p in parameters if p.default is not p.empty} == DEFAULTS[name], name
