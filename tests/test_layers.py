"""Imports point downward only: read from the source, so that lazy and type-checking imports count too."""

import ast
import pathlib

import lmjax

LAYERS = (
    {"atomic_files", "choice", "curves", "integers", "field_types", "naming", "rates"},
    {"masks", "types", "schedules", "remote"},
    {"parallel", "layout"},
    {"features"},
    {"losses", "corruption", "tokenizers"},
    {"models", "data", "kernels"},
    {"decode"},
    {"objectives"},
    {"train", "interop"},
    {"runs"},
    {"evaluate", "analysis", "compile"},
    {"cli"},
)
SIDEWAYS = {("types", "masks"), ("models", "kernels")}
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}
ROOT = pathlib.Path(lmjax.__file__).parent


def imported_packages(source: str, package: str) -> set[str]:
    """Parts of lmjax that a module of ``package`` imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = ["lmjax", package][: 3 - node.level] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("lmjax.")}


def violations(source: str, package: str) -> set[str]:
    """Imported packages that are not below ``package``."""
    others = imported_packages(source, package) & set(LEVEL) - {package}
    return {name for name in others if LEVEL[name] >= LEVEL[package] and (package, name) not in SIDEWAYS}


def test_every_package_has_a_layer():
    parts = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__"} <= set(LEVEL)


def test_imports_point_downward():
    broken = {}
    for path in ROOT.rglob("*.py"):
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if package in LEVEL and (found := violations(path.read_text(), package)):
            broken[str(path.relative_to(ROOT))] = found
    assert not broken


def test_a_violation_is_caught():
    assert violations("import lmjax.train.step", "models") == {"train"}
    assert violations("from lmjax import train, masks", "losses") == {"train"}
    assert violations("from lmjax.data.prepare.shard_writer import open", "models") == {"data"}
    assert violations("def f():\n    from lmjax.cli import main", "train") == {"cli"}
    assert violations("from ..train import step", "data") == {"train"}
    assert violations("from .. import runs", "train") == {"runs"}
    assert not violations("from .. import decode", "objectives")
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lmjax.models.config import X"
    assert violations(hidden, "kernels") == {"models"}
    for below in ("import lmjax", "from lmjax.kernels import x", "from . import y", "from .z import w"):
        assert not violations(below, "models")


def imported_modules(source: str, name: str, modules: set[str]) -> set[str]:
    """Modules that a module imports anywhere, within functions too, but not for type checking only."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*name.split(".")[: -node.level], *([node.module] if node.module else [])] if node.level else []
            above = ".".join(base) if node.level else node.module
            names = {f"{above}.{alias.name}" for alias in node.names}
            found |= names & modules or {above}
    return (found & modules) - {name}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that reach each other in a circle; empty where there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return path[path.index(node) :]
        if node in finished:
            return []
        for following in sorted(graph[node]):
            if found := visit(following, [*path, node]):
                return found
        finished.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node, []))), [])


def module_graph() -> dict[str, set[str]]:
    paths = {}
    for path in ROOT.rglob("*.py"):
        parts = ("lmjax", *path.relative_to(ROOT).with_suffix("").parts)
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: imported_modules(path.read_text(), name, set(paths)) for name, path in paths.items()}


def test_no_module_imports_itself_by_way_of_others():
    assert cycle(module_graph()) == []


def test_a_cycle_is_caught():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    graph = module_graph()
    graph["lmjax.tokenizers.base"] |= imported_modules(
        "def f():\n    from lmjax.tokenizers import bpe", "lmjax.tokenizers.base", set(graph)
    )
    assert set(cycle(graph)) == {"lmjax.tokenizers.base", "lmjax.tokenizers.bpe"}
    hidden = "if typing.TYPE_CHECKING:\n    from lmjax.tokenizers import bpe"
    assert not imported_modules(hidden, "lmjax.tokenizers.base", set(graph))
