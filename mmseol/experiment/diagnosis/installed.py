"""Checks of the installation: packages, hosts, registries and hardware."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import torch
from mmengine.registry import MODELS, DefaultScope

import mmseol
from mmseol.analysis.records.run_records import installed_versions
from mmseol.counting.cache import default_cache_dir
from mmseol.experiment.config_files import types_in
from mmseol.experiment.diagnosis.findings import Check, Finding, Subject, error_text
from mmseol.version import __version__

__all__ = ["INSTALLATION"]

_HOSTS = {"mmseg": "mmsegmentation", "mmpretrain": "mmpretrain"}
_OLD = ("mmcv-full", "mmcls")  # of OpenMMLab 1.x
_NEED_OPERATORS = ("CCHead", "PointHead", "PSAHead", "SANHead", "DCN", "DCNv2", "ModulatedDeformConv2dPack")
_PROBE = "mmseol.OutlyingMSELoss"


def packages(subject: Subject) -> Iterator[Finding]:
    """Name the versions; the original packages and the maintained ones must not be mixed."""
    versions = {"mmseol": __version__, **installed_versions()}
    text = ", ".join(f"{name} {number}" for name, number in versions.items())
    text = f"Python {sys.version.split()[0]}, {text}"
    families = {
        name: [kind for kind in (f"onedl-{name}", name, *lite) if _version(kind)]
        for name, *lite in (
            ("mmengine", "mmengine-lite"),
            ("mmcv", "mmcv-lite"),
            *map(_single, _HOSTS.values()),
        )
    }
    old = [name for name in _OLD if _version(name)]
    twice = [" and ".join(found) for found in families.values() if len(found) > 1]
    kinds = {kind.startswith("onedl-") for found in families.values() for kind in found}
    if old:
        yield Finding(
            "fault",
            f"{', '.join(old)} belong to OpenMMLab 1.x, whose module names the packages of 2.x share. Remove "
            f"them: pip uninstall {' '.join(old)}. {text}",
        )
    if twice:
        yield Finding(
            "fault",
            f"{'; '.join(twice)} own the same module, of which the last installed wins. Remove all of them, "
            f"and install one. {text}",
        )
    elif len(kinds) > 1:
        names = [kind for found in families.values() for kind in found]
        yield Finding(
            "fault",
            f"{', '.join(names)}: original packages and maintained ones (onedl-) are mixed. Keep one family, "
            f"best in a new environment. {text}",
        )
    elif not any(families[name] for name in _HOSTS.values()):
        yield Finding(
            "warning",
            "neither MMSegmentation nor MMPretrain is installed: losses work in plain PyTorch, configs do "
            f"not. Install one: pip install 'mmseol[mminstall]'. {text}",
        )
    elif not old:
        family = "maintained (onedl-)" if True in kinds else "original"
        yield Finding("ok", f"{text}; {family} packages")


def _single(name: str) -> tuple[str]:
    return (name,)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def hosts(subject: Subject) -> Iterator[Finding]:
    """Import the models of the hosts, or of the host that the config needs."""
    scope = subject.cfg.get("default_scope")
    needed = [scope] if scope in _HOSTS else list(_HOSTS)
    for host in needed:
        if find_spec(host) is None:
            if scope == host:
                yield Finding(
                    "fault",
                    f"default_scope = {host!r} needs {_HOSTS[host]}, which is not installed. pip install "
                    f"onedl-{_HOSTS[host]} (maintained) or {_HOSTS[host]} (original packages).",
                )
            continue
        try:
            import_module(f"{host}.models")
            import_module(f"{host}.datasets")
        except Exception as error:  # an AssertionError of versions, a missing module, a broken library
            yield Finding("fault", f"{host} cannot be imported: {error_text(error)}. {_import_remedy(error)}")
        else:
            place = Path(sys.modules[host].__file__ or "").parent
            yield Finding("ok", f"{host} can be imported, from {place}")


def _import_remedy(error: Exception) -> str:
    if "incompatible" in str(error):
        return (
            "Install a version of mmcv that it takes (mmcv 2.1.0 for mmsegmentation 1.2.2), or the "
            "maintained packages, in a new environment."
        )
    if isinstance(error, ModuleNotFoundError):
        missing = str(error.name).partition(".")[0]
        if missing == "mmcv":
            return (
                "Install mmcv with its operators, not mmcv-lite: pip uninstall mmcv-lite; pip install mmcv."
            )
        return f"Install it: pip install {'ftfy regex' if missing == 'ftfy' else missing}."
    return "Install it anew, best in a new environment."


def operators(subject: Subject) -> Iterator[Finding]:
    """Look for mmcv's compiled operators, which few models need."""
    try:
        import_module("mmcv._ext")
    except ImportError as error:
        used = [name for name in types_in(subject.cfg.get("model")) if name in _NEED_OPERATORS]
        if used:
            yield Finding(
                "fault",
                f"{', '.join(dict.fromkeys(used))} needs mmcv's compiled operators, which are missing "
                f"({error_text(error)}). Install mmcv built for this PyTorch and CUDA.",
            )
        else:
            yield Finding("ok", "mmcv has no compiled operators; only few models need them, as CCHead")
    else:
        yield Finding("ok", "mmcv has its compiled operators")


def registry(subject: Subject) -> Iterator[Finding]:
    """Look up a loss of mmseol as a config would, without ``custom_imports``."""
    for scope in ("mmengine", *(host for host in _HOSTS if find_spec(host) is not None)):
        with DefaultScope.overwrite_default_scope(scope), MODELS.switch_scope_and_registry(scope) as models:
            if models.get(_PROBE) is None:
                yield Finding(
                    "fault",
                    f"type={_PROBE!r} is not found from the scope {scope}. mmseol is imported from "
                    f"{Path(mmseol.__file__).parent}; install it anew: pip install .",
                )
                return
    yield Finding("ok", f"type={_PROBE!r} is found from every scope, in {Path(mmseol.__file__).parent}")


def machine(subject: Subject) -> Iterator[Finding]:
    """Name the GPUs and the cores."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    cores_text = f"{cores} CPU cores, {torch.get_num_threads()} threads of PyTorch"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("ok", f"{len(names)} GPU ({', '.join(dict.fromkeys(names))}), {cores_text}")
    elif which("nvidia-smi"):
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
        yield Finding(
            "warning",
            f"PyTorch {torch.__version__} is built for {built} and finds no GPU, but nvidia-smi is there. "
            "Install a PyTorch whose CUDA the driver knows, and look at CUDA_VISIBLE_DEVICES.",
        )
    else:
        yield Finding("ok", f"no GPU, {cores_text}")


def cache(subject: Subject) -> Iterator[Finding]:
    """Look whether the counts of label maps can be kept."""
    folder = default_cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_dir() and os.access(existing, os.W_OK):
        yield Finding("ok", f"counts of label maps are kept in {folder}")
    else:
        yield Finding(
            "warning",
            f"counts of label maps cannot be kept in {folder}, and are made anew by every run. Set "
            "$MMSEOL_CACHE to a folder that can be written.",
        )


INSTALLATION: list[Check] = [packages, hosts, operators, registry, machine, cache]
