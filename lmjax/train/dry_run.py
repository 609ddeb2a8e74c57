"""Shows what a run would train, parameter by parameter. It reads no data, needs no device and allocates nothing.

A configuration that the start of the training would refuse is refused in the same words, as far as that can be known
without data, and without the machine and the other runs if they are elsewhere.
"""

import io
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh
from rich import box
from rich.console import Console
from rich.table import Table

from lmjax.kernels.low_precision import check_low_precision
from lmjax.models.parameters import ModuleSpec
from lmjax.models.routing import BIAS_KIND
from lmjax.parallel.mesh import MESH_AXES, axes_of, partition_spec
from lmjax.remote.address import address_of
from lmjax.schedules.learning_rate import build_schedule
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.config import RunConfig
from lmjax.train.initial import check_initial_model
from lmjax.train.optimizers import FROZEN, decays
from lmjax.train.profile import check_profile
from lmjax.train.resume import branch_origin
from lmjax.train.run_folder import CONFIG, check_name, split_checkpoint
from lmjax.train.setup import optimizer_of, phases_on, resolve, spec_of


def parameter_table(config: RunConfig) -> Table:
    """Returns a table with every parameter's shape, layout, share on a device, initial size, optimizer and decay.

    ``mesh.data=-1`` counts as 1, because replicas do not change this table.

    Raises:
      ValueError: the start of the training would refuse the configuration; the message is the same.
    """
    spec, mesh = _checked(config)
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
        ways = [math.prod(mesh.shape[axis] for axis in axes_of(entry)) for entry in layout]
        local = [size // way for size, way in zip(leaf.shape, ways, strict=True)]
        total, held = total + math.prod(leaf.shape), held + math.prod(local)
        rows.add_row(
            jax.tree_util.keystr(path, simple=True, separator="."),
            _product(leaf.shape),
            " ".join(axes),
            " ".join("x".join(axes_of(entry)) or "-" for entry in layout),
            _product(local),
            kind,
            {FROZEN: "none", BIAS_KIND: "sign of load"}.get(kind, config.optimizer.rule(kind, axes)),
            f"{config.optimizer.weight_decay:g}" if decays_here and kind != FROZEN else "-",
        )
    rows.add_section()
    rows.add_row("all", f"{total:,}", "", "", f"{held:,}")
    return rows


def _checked(config: RunConfig) -> tuple[ModuleSpec, AbstractMesh]:
    """Returns the module and the mesh of a run, after the checks that need neither its data nor another machine."""
    config.tracker.check()
    check_name(config.run_folder)
    check_profile(config.train.profile, steps_left=config.train.steps)
    check_low_precision(config.model.execution.low_precision, _devices_here(config))
    mesh = AbstractMesh(tuple(max(getattr(config.mesh, axis), 1) for axis in MESH_AXES), MESH_AXES)
    phases = phases_on(mesh, config)
    vocabulary = planned_vocabulary(config.tokenizer)
    config = resolve(config, vocabulary)
    spec = spec_of(config, phases, vocabulary)
    optimizer_of(config, spec, build_schedule(config.schedule, total_steps=config.train.steps))
    if _is_here(config.train.init_from):
        check_initial_model(config, spec)
    if _is_here(config.train.branch_from):
        branch_origin(config)
    return spec, mesh


def _is_here(run: str | None) -> bool:
    """Returns whether a run, or the run of a checkpoint, is in a folder of this machine."""
    return run is not None and address_of(run) is None and (split_checkpoint(run)[0] / CONFIG).exists()


def _devices_here(config: RunConfig) -> Sequence[jax.Device]:
    """Returns the devices on which a start here would train; none if the mesh is that of another machine.

    They are looked up for products of 8 bits only: a TPU that trains another run cannot be opened.
    """
    if config.model.execution.low_precision == "none":
        return ()
    devices = jax.devices()
    try:
        config.mesh.sizes(len(devices))
    except ValueError:
        return ()
    return devices


def _axes(spec: ModuleSpec) -> list[tuple[str, ...]]:
    return jax.tree.leaves(spec.axes, is_leaf=lambda node: isinstance(node, tuple))


def describe_run(config: RunConfig) -> str:
    """Returns the :func:`parameter_table` as lines of plain text."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    with console.capture() as captured:
        console.print(parameter_table(config))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def _product(shape) -> str:
    return " x ".join(str(size) for size in shape) or "1"
