"""Shows what a run would train, parameter by parameter. It reads no data, needs no device and allocates nothing."""

import io
import math

import jax
from flax import nnx
from jax.sharding import AbstractMesh
from rich import box
from rich.console import Console
from rich.table import Table

from lmjax.models.routing import BIAS_KIND
from lmjax.models.with_extras import trained_spec
from lmjax.parallel.mesh import MESH_AXES, partition_spec
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.config import RunConfig
from lmjax.train.optimizers import FROZEN, decays
from lmjax.train.setup import resolve


def parameter_table(config: RunConfig) -> Table:
    """Returns a table with every parameter's shape, layout, share on a device, initial size, optimizer and decay.

    ``mesh.data=-1`` counts as 1, because replicas do not change this table.

    Raises:
      ValueError: the objective and the model do not fit together; the message names the field.
    """
    vocabulary = planned_vocabulary(config.tokenizer)
    config = resolve(config, vocabulary)
    objective, model = config.objective, config.model
    objective.check(model=model, vocabulary=vocabulary, sequence_length=config.train.sequence_length)
    spec = trained_spec(lambda key: objective.build(model, rngs=nnx.Rngs(params=key)))
    mesh = AbstractMesh(tuple(max(getattr(config.mesh, axis), 1) for axis in MESH_AXES), MESH_AXES)
    decayed = decays(
        jax.tree.map(lambda kind: "norm" if kind == FROZEN else kind, spec.kinds),
        embeddings=config.optimizer.decay_embeddings,
    )
    rows = Table(f"parameters of {config.name}", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("shape", "axes", "on mesh axes", "shape on a device", "kind", "optimizer", "decay"):
        rows.add_column(name)
    rows.columns[0].no_wrap = True
    leaves = jax.tree_util.tree_leaves_with_path(spec.shapes)
    facts = (jax.tree.leaves(spec.kinds), jax.tree.leaves(decayed), _axes(spec))
    total = held = 0
    for (path, leaf), kind, decays_here, axes in zip(leaves, *facts, strict=True):
        layout = partition_spec(axes, leaf.shape, mesh)
        ways = [math.prod(mesh.shape[axis] for axis in _names(entry)) for entry in layout]
        local = [size // way for size, way in zip(leaf.shape, ways, strict=True)]
        total, held = total + math.prod(leaf.shape), held + math.prod(local)
        rows.add_row(
            jax.tree_util.keystr(path, simple=True, separator="."),
            _product(leaf.shape),
            " ".join(axes),
            " ".join("x".join(_names(entry)) or "-" for entry in layout),
            _product(local),
            kind,
            {FROZEN: "none", BIAS_KIND: "sign of load"}.get(kind, config.optimizer.rule(kind, axes)),
            f"{config.optimizer.weight_decay:g}" if decays_here and kind != FROZEN else "-",
        )
    rows.add_section()
    rows.add_row("all", f"{total:,}", "", "", f"{held:,}")
    return rows


def _axes(spec) -> list[tuple[str, ...]]:
    return jax.tree.leaves(spec.axes, is_leaf=lambda node: isinstance(node, tuple))


def describe_run(config: RunConfig) -> str:
    """Returns the :func:`parameter_table` as lines of plain text."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as captured:
        console.print(parameter_table(config))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def _names(entry) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _product(shape) -> str:
    return " x ".join(str(size) for size in shape) or "1"
