"""Imports point downward only: read from the source, so that lazy and type-checking imports count too."""

import ast
import pathlib

import lmjax

LAYERS = (
    {"integers", "field_types", "rates"},
    {"masks", "types", "schedules"},
    {"parallel", "layout"},
    {"features"},
    {"losses", "corruption", "tokenizers"},
    {"models", "data", "kernels"},
    {"objectives"},
    {"train", "decode", "interop"},
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
    assert violations("from .. import decode", "train") == {"decode"}
    hidden = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lmjax.models.config import X"
    assert violations(hidden, "kernels") == {"models"}
    for below in ("import lmjax", "from lmjax.kernels import x", "from . import y", "from .z import w"):
        assert not violations(below, "models")
