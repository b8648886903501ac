"""Small changes of Python source, each of which a test should notice.

A change is made in the text, so the rest of the file keeps its form. Annotations, docstrings, ``__all__``,
assertions (``zip(strict=True)`` is one) and messages (of errors, warnings, logs and f-strings) are left
alone, and what only another machine shows: functions that Triton compiles, calls of ``cpu`` and ``cuda``, and
encodings of files.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from itertools import accumulate

_SWAPS: dict[type[ast.AST], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "//",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.And: "or",
    ast.Or: "and",
}
_DEVICES = {"cpu", "cuda"}
_UNSEEN = {"strict", "stacklevel", "encoding"}
_MESSAGES = {"warn", "print", "print_log", "info", "warning", "debug", "error", "critical", "cast", "TypeVar"}
_KEPT_DECORATORS = {"property", "setter", "classmethod", "staticmethod", "abstractmethod", "dataclass"}
_COMPILED = {"jit", "overload"}


@dataclass(frozen=True)
class Mutant:
    """A change of one place in a file.

    Args:
        function: Qualified name of the function, or of the class or module outside of functions.
        kind: Kind of change.
        line: Line of the change, from 1.
        scope: First and last line of the function.
        start: First byte that is replaced.
        stop: Byte behind the last one that is replaced.
        text: What stands there instead.
    """

    function: str
    kind: str
    line: int
    scope: tuple[int, int]
    start: int
    stop: int
    text: str

    def apply(self, source: str) -> str:
        """Return the source with the change."""
        data = source.encode()
        return (data[: self.start] + self.text.encode() + data[self.stop :]).decode()


def mutants(source: str) -> list[Mutant]:
    """Return every change of a source text, in the order of its places.

    Example:
        >>> [mutant.apply("a = b < 1") for mutant in mutants("a = b < 1")]
        ['a = b <= 1', 'a = b < 2']
    """
    found = [mutant for mutant in _Finder(source).found if _compiles(mutant.apply(source))]
    return sorted(found, key=lambda mutant: (mutant.start, mutant.stop, mutant.kind))


def _compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _name(node: ast.AST) -> str:
    """Return the last part of the name of a function or decorator."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    return getattr(node, "attr", getattr(node, "id", ""))


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.data = source.encode()
        lines = self.data.splitlines(keepends=True)
        self.starts = [0, *accumulate(map(len, lines))]
        self.scopes: list[tuple[str, int, int]] = [("module", 1, len(lines))]
        self.functions = 0
        self.found: list[Mutant] = []
        self.visit(ast.parse(source))

    def add(self, kind: str, first: ast.AST, text: str, start: int = -1, stop: int = -1) -> None:
        """Note a change of a node, or of the bytes from ``start`` to ``stop``."""
        start = self.begin(first) if start < 0 else start
        stop = self.end(first) if stop < 0 else stop
        names = [name for name, *_ in self.scopes[1:]] or ["module"]
        line = first.lineno  # type: ignore[attr-defined]
        self.found.append(Mutant(".".join(names), kind, line, self.scopes[-1][1:], start, stop, text))

    def begin(self, node: ast.AST) -> int:
        return self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]

    def end(self, node: ast.AST) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        return self.data[self.begin(node) : self.end(node)].decode()

    def between(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Replace an operator that stands between two nodes."""
        start, stop = self.end(left), self.begin(right)
        gap = self.data[start:stop].decode()
        if "#" not in gap and gap.count(old) == 1:
            self.add(kind, left, gap.replace(old, new), start, stop)

    # scopes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scopes.append((node.name, node.lineno, node.end_lineno or node.lineno))
        self.decorators(node)
        for child in node.body:
            self.visit(child)
        self.scopes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if {_name(decorator) for decorator in node.decorator_list} & _COMPILED:
            return
        self.functions += 1
        if self.functions == 1:  # functions inside of functions belong to these
            self.scopes.append((node.name, node.lineno, node.end_lineno or node.lineno))
        self.decorators(node)
        for child in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None), *node.body]:
            self.visit(child)
        self.functions -= 1
        if self.functions == 0:
            self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def decorators(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            if _name(decorator) not in _KEPT_DECORATORS:
                self.add("remove decorator", decorator, "", self.begin(decorator) - 1)

    # what is left alone

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None: ...

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    # changes

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for operation, right in zip(node.ops, node.comparators, strict=True):
            old = {ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in"}.get(type(operation))
            old = (
                old
                or {"<=": "<", "<": "<=", ">=": ">", ">": ">=", "!=": "==", "==": "!="}[
                    _SWAPS[type(operation)]
                ]
            )
            self.between("compare", left, right, old, _SWAPS[type(operation)])
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old = "and" if isinstance(node.op, ast.And) else "or"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between("and, or", left, right, old, _SWAPS[type(node.op)])
            start, stop = self.end(left), self.end(right)
            if self.data[stop : stop + 1] != b")" or self.text(node).count("(") == self.text(node).count(")"):
                self.add("remove operand", right, "", start, stop)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        old = {
            ast.Add: "+",
            ast.Sub: "-",
            ast.Mult: "*",
            ast.Div: "/",
            ast.FloorDiv: "//",
            ast.Mod: "%",
            ast.Pow: "**",
            ast.BitAnd: "&",
            ast.BitOr: "|",
        }.get(type(node.op))
        if old is not None and not isinstance(node.left, (ast.JoinedStr, ast.List, ast.Tuple)):
            self.between("arithmetic", node.left, node.right, old, _SWAPS[type(node.op)])
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            self.add("remove sign", node, f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("constant", node, str(not value))
        elif isinstance(value, int):
            self.add("constant", node, str(value + 1))
        elif isinstance(value, float):
            self.add("constant", node, repr(value * 2) if value else "0.5")

    def condition(self, node: ast.If | ast.IfExp | ast.While) -> None:
        if _name(node.test) != "TYPE_CHECKING":
            test = self.text(node.test)
            if not isinstance(node, ast.While):
                self.add("condition holds", node.test, f"(True or ({test}))")
            self.add("condition fails", node.test, f"(False and ({test}))")
        self.generic_visit(node)

    visit_If = visit_IfExp = visit_While = condition

    def visit_Call(self, node: ast.Call) -> None:
        name = _name(node)
        if name in _MESSAGES:
            return
        method = isinstance(node.func, ast.Attribute)
        bare = not (node.args or node.keywords) and name not in _DEVICES
        if method and (bare or name.startswith("clamp")):
            owner = node.func.value  # type: ignore[attr-defined]
            if not (isinstance(owner, ast.Call) and _name(owner) == "super"):
                self.add("remove call", node, "", self.end(owner), self.end(node))
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in _UNSEEN:
                start, stop = self.begin(keyword), self.end(keyword)
                rest = self.data[stop:]
                comma = len(rest) - len(rest.lstrip())
                if rest[comma : comma + 1] == b",":
                    stop += comma + 1
                self.add("remove argument", keyword, "", start, stop)
        for child in (node.func, *node.args, *(k.value for k in node.keywords if k.arg not in _UNSEEN)):
            self.visit(child)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call) and _name(node.value) not in _MESSAGES - {"warn"}:
            self.add("remove statement", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        target = node.targets[0]
        if _name(target) == "__all__":
            return
        if isinstance(target, (ast.Attribute, ast.Subscript)):
            self.add("remove statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add("remove statement", node, "pass")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        if all(item.optional_vars is None for item in node.items):
            start, stop = self.begin(node), self.end(node.items[-1].context_expr)
            if self.data[stop : stop + 1] == b":":
                self.add("remove with", node, "if True", start, stop)
        self.generic_visit(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.add("break, continue", node, "continue")

    def visit_Continue(self, node: ast.Continue) -> None:
        self.add("break, continue", node, "break")
