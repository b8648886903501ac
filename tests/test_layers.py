"""The layout: imports point down, hosts stay in their folders, no file name stands for two things."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mmseol"
HOSTS = {"mmseg": "segmentation", "mmpretrain": "classification"}
# From the bottom to the top; a package may import those of its own line and of the lines below.
LAYERS = (
    {"registry", "version"},
    {"utils"},
    {"counting", "losses.ops"},
    {"losses.base"},
    {"losses"},
    {"camvid", "classifiers", "datasets", "hooks", "metrics", "samplers", "segmentation", "classification"},
    {"experiment", "analysis", "testing"},
    {"sweeps"},
    {"__init__", "__main__"},
)
# Twice by intention: bases, and the two tasks, which samplers and metrics name their files after.
SHARED_NAMES = {"__init__", "base", "segmentation", "classification"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the dotted names of all modules a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(module: str) -> int:
    """Return the layer of a module of this package, named without ``mmseol.``."""
    parts = module.split(".")
    for part in (".".join(parts[:2]), parts[0]):
        for number, names in enumerate(LAYERS):
            if part in names:
                return number
    raise AssertionError(f"mmseol.{module} stands in no layer")


def test_imports_point_down():
    assert len(FILES) > 50
    for path in FILES:
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in HOSTS:
                assert module.split(".")[0] == HOSTS[top], f"{path} imports {name}"
            if top == "mmseol" and rest and not module.startswith(f"{rest}."):  # a parent says no more
                assert layer(rest) <= layer(module), f"{path} imports {name}"


def test_no_test_module_imports_another():
    tests = sorted((ROOT / "tests").glob("test_*.py"))
    assert len(tests) > 40
    for path in tests:
        assert not {name for name in imports(path) if name.split(".")[0].startswith(("test_", "tests"))}, path


def test_no_file_name_stands_for_two_things():
    files = [*FILES, *sorted((ROOT / "tools").rglob("*.py"))]
    names = [path.stem for path in files if path.stem not in SHARED_NAMES]
    names += [path.name for path in PACKAGE.rglob("*") if path.is_dir() and path.name not in SHARED_NAMES]
    assert [name for name, times in Counter(names).items() if times > 1 and name != "__pycache__"] == []


def test_the_package_root_fits_on_one_screen():
    entries = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len([name for name in entries if not name.startswith(".")]) <= 20
    loose = {name for name in entries if name.endswith(".py") and not name.startswith("__")}
    assert loose <= {"registry.py", "testing.py", "version.py"}


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS) - {"__main__", "testing"}))
def test_every_layer_names_something_that_exists(name):
    path = PACKAGE / name.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file()
