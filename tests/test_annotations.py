"""Every public function and method says the types of what it takes and returns, so that mypy checks its callers."""

import ast
import pathlib
from collections.abc import Iterator

import lmjax

ROOT = pathlib.Path(lmjax.__file__).parent


def unannotated(source: str) -> Iterator[str]:
    """Public functions and methods of a module with arguments or a result that have no type."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while todo:
        parent, is_class = todo.pop()
        for node in parent.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                todo.append((node, True))
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                missing = [name.arg for name in names if name.annotation is None]
                if is_class and missing[:1] in (["self"], ["cls"]):
                    missing = missing[1:]
                if node.returns is None:
                    missing.append("the result")
                if missing:
                    yield f"{node.name}, line {node.lineno}: {', '.join(missing)}"


def test_public_functions_are_annotated():
    found = {str(path.relative_to(ROOT)): list(unannotated(path.read_text())) for path in ROOT.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_what_lacks_a_type_is_named():
    assert list(unannotated("def f(a: int, b) -> int: ...")) == ["f, line 1: b"]
    assert list(unannotated("class A:\n    def f(self, a: int): ...")) == ["f, line 2: the result"]
    assert not list(unannotated("def _f(a): ...\nclass A:\n    def f(self) -> int: ..."))
