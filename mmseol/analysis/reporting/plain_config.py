"""Configs that a run has dumped, read as data: no line of them is executed."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

__all__ = ["plain_config"]


def plain_config(path: str | Path) -> dict[str, Any]:
    """Return a dumped config: literals, and calls of ``dict``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "toy.py"
    >>> _ = path.write_text("model = dict(head=dict(num_classes=10), std=[1.0, -2.0])")
    >>> plain_config(path)
    {'model': {'head': {'num_classes': 10}, 'std': [1.0, -2.0]}}

    Raises:
        ValueError: If the file holds something else, such as an import or an expression.
    """
    path = Path(path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"`path` must be a dumped config, got {str(path)!r}: {error}.") from error
    config = {}
    for statement in tree.body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # the docstring
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise ValueError(_refusal(path, statement))
        assert isinstance(statement, ast.Assign)
        config[targets[0].id] = _value(statement.value, path)
    return config


def _value(node: ast.expr, path: Path) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if not node.args and all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _value(keyword.value, path) for keyword in node.keywords}
    elif isinstance(node, ast.Dict) and all(node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, path): _value(value, path) for key, value in pairs if key is not None}
    elif isinstance(node, (ast.List, ast.Tuple)):
        values = [_value(item, path) for item in node.elts]
        return values if isinstance(node, ast.List) else tuple(values)
    else:
        try:
            return ast.literal_eval(node)
        except ValueError:
            pass
    raise ValueError(_refusal(path, node))


def _refusal(path: Path, node: ast.AST) -> str:
    line = getattr(node, "lineno", "?")
    return f"`path` must be a dumped config of plain values, got another expression in {path.name}:{line}."
