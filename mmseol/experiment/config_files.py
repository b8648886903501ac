"""Find config files: those of mmseol, those that the hosts install, and what their bases need."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config

import mmseol
from mmseol.experiment.loss import inside_head, parse_options

__all__ = [
    "check_bases",
    "check_packages",
    "find_config",
    "read_config",
    "set_options",
    "shipped_configs",
    "stock_config",
    "sweeps_of",
    "types_in",
]

_MASK_HEADS = ("MaskFormerHead", "Mask2FormerHead")
_PACKAGE = Path(mmseol.__file__).parent
_CONFIGS = (_PACKAGE / ".mim" / "configs", _PACKAGE.parent / "configs")  # of a wheel, of a checkout


def find_config(name: str) -> str:
    """Return the config file ``name``, or the config of mmseol with this name.

    >>> Path(find_config("configs/cifar/resnet32_cifar10.py")).parts[-3:]
    ('configs', 'cifar', 'resnet32_cifar10.py')

    Raises:
        FileNotFoundError: If there is neither.
    """
    if Path(name).is_file():
        return name
    shipped = next(folder for folder in _CONFIGS if folder.is_dir())
    found = shipped / name.removeprefix("configs/")
    if found.is_file():
        return str(found)
    leaves = list(shipped_configs())
    raise FileNotFoundError(
        f"`config` must be a config file or a config of mmseol ({', '.join(leaves)}; in {str(shipped)!r}), "
        f"got {name!r}.{_nearest(name, leaves)}"
    )


def shipped_configs() -> dict[str, str]:
    """Return the file of each config of mmseol that trains, by its name.

    >>> Path(shipped_configs()["quickstart/digits.py"]).name
    'digits.py'
    """
    folder = next(folder for folder in _CONFIGS if folder.is_dir())
    paths = [path for path in sorted(folder.glob("[!_]*/*.py")) if path.parent.name != "sweeps"]
    return {path.relative_to(folder).as_posix(): str(path) for path in paths}


def sweeps_of(config: str) -> list[str]:
    """Return the shipped sweep files that train a config of mmseol.

    >>> sweeps_of("configs/quickstart/digits.py")
    ['sweeps/digits.py']
    """
    path = Path(config).as_posix()
    sweeps = next(folder for folder in _CONFIGS if folder.is_dir()) / "sweeps"
    found = []
    for file in sorted(sweeps.glob("*.py")):
        named = re.findall(r'"(\w+/\w+\.py)"', file.read_text(encoding="utf-8"))
        if any(f"/{path}".endswith(f"/{name}") for name in named):
            found.append(f"sweeps/{file.name}")
    return found


def read_config(path: str) -> Config:
    """Return the config in a file.

    A ``_base_`` that is missing beside the file is looked up among the configs of mmseol, so that a copy of
    one of them, as of a template, can lie anywhere.

    >>> read_config(find_config("template/my_classes.py")).classes
    ('bird', 'cat', 'dog')

    Raises:
        FileNotFoundError: If a ``_base_`` is in neither place.
    """
    file = Path(path)
    bases = _bases(file)
    found = [base if "::" in base else _found_base(file, base) for base in bases]
    if all("::" in base or (file.parent / base).is_file() for base in bases):
        return Config.fromfile(path)
    text = file.read_text(encoding="utf-8")
    node = next(node for node in ast.parse(text).body if _names_bases(node))
    lines = text.splitlines()
    lines[node.lineno - 1 : node.end_lineno] = [f"_base_ = {found}"]
    with TemporaryDirectory() as folder:
        copy = Path(folder, file.name)
        copy.write_text("\n".join(lines) + "\n", encoding="utf-8")
        cfg = Config.fromfile(copy)
    return Config(cfg._cfg_dict, filename=path, cfg_text=cfg.text)


def _found_base(file: Path, base: str) -> str:
    beside = file.parent / base
    if beside.is_file():
        return str(beside.resolve())
    name = "/".join(part for part in Path(base).parts if part not in ("..", "."))
    shipped = next(folder for folder in _CONFIGS if folder.is_dir()) / name
    if not shipped.is_file():
        raise FileNotFoundError(
            f"`_base_` {base!r} in {str(file)!r} must be a config file beside it or a config of mmseol; "
            f"there is neither {str(beside)!r} nor {str(shipped)!r}."
        )
    return str(shipped)


def stock_config(host: str, name: str) -> str:
    """Return the path of a config that ``mmseg`` or ``mmpretrain`` installs, for ``_base_ = [...]``.

    ``_base_ = ["mmseg::fcn/..."]`` needs the original packages; this works with the maintained ones too.

    >>> path = stock_config("mmseg", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py")
    >>> Path(path).name
    'fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'

    Args:
        host: Name of the package.
        name: Path of the config below the package's ``configs``.

    Raises:
        FileNotFoundError: If the host is not installed or has no such config.
    """
    spec = find_spec(host)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"`host` must be an installed package such as mmseg, got {host!r}.")
    folder = Path(next(iter(spec.submodule_search_locations)), ".mim", "configs")
    if not (folder / name).is_file():
        leaves = (path.relative_to(folder).as_posix() for path in folder.glob("*/*.py"))
        raise FileNotFoundError(
            f"`name` must be a config of {host} in {folder}, got {name!r}.{_nearest(name, leaves)}"
        )
    return str(folder / name)


def check_bases(path: str) -> None:
    """Refuse a config whose ``_base_`` names a host (``mmseg::...``) that mmengine cannot find.

    mmengine would look for the original package by its name, and might start to install it.

    >>> check_bases(find_config("cifar/resnet34_cifar10.py"))

    Raises:
        ValueError: If the original package of a named host is not installed.
    """
    for base in _bases(Path(path)):
        scope, separator, name = base.partition("::")
        if not separator:
            if (Path(path).parent / base).is_file():
                check_bases(str(Path(path).parent / base))
            continue
        package = {"mmseg": "mmsegmentation"}.get(scope, scope)
        try:
            distribution(package)
        except PackageNotFoundError as error:
            try:
                instead = f"Write the path instead: {stock_config(scope, name)!r}"
            except FileNotFoundError as missing:
                instead = str(missing).removesuffix(".")
            raise ValueError(
                f"`_base_` {base!r} in {path} needs the package {package}, which is missing. {instead}. "
                "mmseol.experiment.stock_config(host, name) returns it."
            ) from error


def _bases(path: Path) -> list[str]:
    if path.suffix != ".py":
        return []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and _names_bases(node):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return []
            return [value] if isinstance(value, str) else list(value)
    return []


def _names_bases(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_base_"


def check_packages(cfg: Config) -> None:
    """Refuse a model of mask classification where MMDetection, which it is built on, is not installed.

    >>> check_packages(Config(dict(model=dict(type="EncoderDecoder"))))

    Raises:
        ValueError: If the model needs ``mmdet`` and there is none.
    """
    needy = [name for name in types_in(cfg.get("model")) if name.startswith("mmdet.") or name in _MASK_HEADS]
    if needy and find_spec("mmdet") is None:
        raise ValueError(
            f"`model` has {needy[0]}, which needs the package mmdet, and it is not installed. Install it: "
            "pip install mmdet (original packages) or pip install onedl-mmdetection (maintained packages)."
        )


def types_in(node: Any) -> Iterator[str]:
    """Yield the names of all types in a config.

    >>> list(types_in(dict(type="A", heads=[dict(type="mmseol.B")])))
    ['A', 'mmseol.B']
    """
    if isinstance(node, dict):
        if isinstance(node.get("type"), str):
            yield node["type"]
        for child in node.values():
            yield from types_in(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from types_in(child)


def set_options(cfg: Config, items: Iterable[str]) -> None:
    """Change single settings: ``key.key=value``; warn of a first key that nothing reads.

    Settings of a head that ``--loss`` put into a ``mmseol.CosineClassifierHead`` reach the head.

    >>> cfg = Config(dict(model=dict(depth=18)))
    >>> set_options(cfg, ["model.depth=34"])
    >>> cfg.model.depth
    34

    Raises:
        ValueError: If an item is not of that form or does not fit the config.
    """
    from mmengine.runner import Runner  # imports OpenCV

    try:
        options = parse_options(items)
        known = [*cfg, *inspect.signature(Runner).parameters]
        for root in dict.fromkeys(key.partition(".")[0] for key in options):
            if root not in known:
                warnings.warn(
                    f"`--cfg-options` {root}: the config has no such key.{_nearest(root, known)}",
                    stacklevel=2,
                )
        cfg.merge_from_dict({inside_head(cfg, key): value for key, value in options.items()})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"`--cfg-options`: {error}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    found = get_close_matches(name, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""
