"""Child registries with scope ``mmseol``: ``type='mmseol.X'`` works in any OpenMMLab 2.x config.

mmengine imports ``mmseol.registry`` the first time it meets the scope, and a child registry imports
its locations on the first look-up, so no ``custom_imports`` is needed. Only the parts that need no
host stand in ``locations``; ``mmseol.segmentation`` (needs mmseg) and ``mmseol.classification``
(needs mmpretrain) are imported when a name is found nowhere else, so that a loss can be looked up
where neither host is installed, and costs no import of them where they are.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

__all__ = ["DATASETS", "DATA_SAMPLERS", "FUNCTIONS", "HOOKS", "METRICS", "MODELS", "TRANSFORMS"]

_HOSTS = {"mmseg": "mmseol.segmentation", "mmpretrain": "mmseol.classification"}


class HostRegistry(Registry):
    """Registry that imports the host-dependent packages only for names it cannot find without."""

    def get(self, key: str) -> Any:
        """Return the class registered as ``key`` (with or without the scope), or ``None``."""
        self.import_from_location()
        name = key.rsplit(".", 1)[-1]
        for host, location in _HOSTS.items():
            if name in self.module_dict:
                break
            if find_spec(host) is not None and find_spec(location) is not None:
                import_module(location)
        return super().get(key)


def _child(name: str, parent: Registry, *locations: str) -> HostRegistry:
    return HostRegistry(name, parent=parent, scope="mmseol", locations=list(locations))


MODELS = _child("model", ROOT_MODELS, "mmseol.losses", "mmseol.classifiers")
HOOKS = _child("hook", ROOT_HOOKS, "mmseol.hooks")
DATASETS = _child("dataset", ROOT_DATASETS, "mmseol.datasets")
DATA_SAMPLERS = _child("data sampler", ROOT_DATA_SAMPLERS, "mmseol.samplers")
FUNCTIONS = _child("function", ROOT_FUNCTIONS, "mmseol.datasets")
TRANSFORMS = _child("transform", ROOT_TRANSFORMS)
METRICS = _child("metric", ROOT_METRICS, "mmseol.metrics")
