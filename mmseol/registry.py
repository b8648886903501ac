"""Child registries with scope ``mmseol``: ``type='mmseol.X'`` works in any OpenMMLab 2.x config.

mmengine imports ``mmseol.registry`` the first time it meets the scope, and a child registry imports
its locations on the first look-up, so no ``custom_imports`` is needed. Only the parts that need no
host stand in ``locations``. ``mmseol.segmentation`` (needs mmseg) and ``mmseol.classification``
(needs mmpretrain) are imported when one of their names is looked up: a loss is found where neither
host is installed, and looking it up imports neither.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.registry import DATA_SAMPLERS as ROOT_DATA_SAMPLERS
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import FUNCTIONS as ROOT_FUNCTIONS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import METRICS as ROOT_METRICS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import PARAM_SCHEDULERS as ROOT_PARAM_SCHEDULERS
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS
from mmengine.registry import Registry

__all__ = [
    "DATASETS",
    "DATA_SAMPLERS",
    "FUNCTIONS",
    "HOOKS",
    "METRICS",
    "MODELS",
    "PARAM_SCHEDULERS",
    "TRANSFORMS",
]

_HOSTS = {"mmseg": "mmseol.segmentation", "mmpretrain": "mmseol.classification"}


class HostRegistry(Registry):
    """Registry that imports a host-dependent package only for a name of that package."""

    def get(self, key: str) -> Any:
        """Return the class registered as ``key`` (with or without the scope), or ``None``."""
        self.import_from_location()
        name = key.rsplit(".", 1)[-1]
        if name not in self.module_dict:
            for host, location in _HOSTS.items():
                if name in _public_names(location) and find_spec(host) is not None:
                    import_module(location)
        return super().get(key)


@cache
def _public_names(package: str) -> frozenset[str]:
    """Return the names that the package's ``__init__`` imports, read without running it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return frozenset()
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return frozenset(alias.name for node in imports for alias in node.names)


def _child(name: str, parent: Registry, *locations: str) -> HostRegistry:
    return HostRegistry(name, parent=parent, scope="mmseol", locations=list(locations))


MODELS = _child("model", ROOT_MODELS, "mmseol.losses", "mmseol.classifiers")
HOOKS = _child("hook", ROOT_HOOKS, "mmseol.hooks", "mmseol.analysis.live")
PARAM_SCHEDULERS = _child("parameter scheduler", ROOT_PARAM_SCHEDULERS, "mmseol.hooks")
DATASETS = _child("dataset", ROOT_DATASETS, "mmseol.datasets")
DATA_SAMPLERS = _child("data sampler", ROOT_DATA_SAMPLERS, "mmseol.samplers")
FUNCTIONS = _child("function", ROOT_FUNCTIONS, "mmseol.datasets")
TRANSFORMS = _child("transform", ROOT_TRANSFORMS)
METRICS = _child("metric", ROOT_METRICS, "mmseol.metrics")
