"""Imports point down: DESIGN of the tree, checked on the syntax tree."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mmseol"
HOSTS = {"mmseg": "segmentation", "mmpretrain": "classification"}
# Who may import whom inside mmseol; a package may always import itself, the registry and the version.
ALLOWED = {
    "registry": set(),
    "version": set(),
    "files": set(),
    "counts": {"files"},
    "camvid": {"files"},
    "losses": {"counts"},
    "cosine": set(),
    "counting": {"counts", "files"},
    "hooks": {"counts", "counting"},
    "scores": set(),
    "metrics": {"counts", "files", "scores"},
    "imbalance": {"files"},
    "stratify": set(),
    "item_classes": {"counting"},
    "datasets": {"counting", "counts", "imbalance", "item_classes", "stratify"},
    "samplers": {"counting", "item_classes"},
    "segmentation": {"camvid", "counts"},
    "analysis": {"counts", "camvid", "files", "scores"},
    "classification": set(),
    "processes": set(),
    "posthoc": {"counts"},
    "checkpoint": {"files", "posthoc"},
    "retraining": {"posthoc"},
    "experiment": {"counts", "imbalance"},
    "cli": {"experiment"},
    "__init__": set(),
}


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


def test_imports_point_down():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    for path in files:
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in HOSTS:
                assert part == HOSTS[top], f"{path} imports {name}"
            if top == "mmseol" and rest:
                other = rest.split(".")[0]
                known = ALLOWED[part] | {part, "registry", "version", "__version__"}
                assert other in known, f"{path} imports {name}"
