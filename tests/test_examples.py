"""Each public class and function shows its use in its docstring; pytest runs the examples as doctests."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
WITHOUT_EXAMPLE = {
    "mmseol.losses.ops.softmax_triton.softmax_sums": "runs on a GPU only",
    "mmseol.losses.ops.squared_error_triton.half_squared_error_sum": "runs on a GPU only",
    "mmseol.losses.ops.squared_error_triton.upsampled_half_squared_error_sum": "runs on a GPU only",
}


def public_docstrings() -> dict[str, str]:
    """Return the docstrings of the classes and functions whose module lists them in ``__all__``, by name."""
    found = {}
    for path in sorted((ROOT / "mmseol").rglob("*.py")):
        body = ast.parse(path.read_text()).body
        public: set[str] = set()
        for node in body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                public = set(ast.literal_eval(node.value))
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in public:
                found[f"{module}.{node.name}"] = ast.get_docstring(node) or ""
    return found


def test_public_names_have_examples():
    docstrings = public_docstrings()
    assert len(docstrings) > 150
    without = {name for name, docstring in docstrings.items() if ">>>" not in docstring}
    assert sorted(without - WITHOUT_EXAMPLE.keys()) == []
    assert sorted(WITHOUT_EXAMPLE.keys() - without) == []  # they are gone, or have an example by now
