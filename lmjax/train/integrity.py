"""Checks against hardware that computes wrong without an error: a step done twice, and replicas that must be equal.

Sums of bit patterns are compared, modulo 2^32: any single flipped bit changes them. Dixit et al. 2021 ("Silent data
corruptions at scale") found some of every thousand machines to compute wrong.

Axes: L arrays; N devices.
"""

import collections
import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.models.parameters import Params, named_leaves
from lmjax.train.checkpoint.errors import some
from lmjax.train.config import TrainConfig
from lmjax.train.instruments import Instruments
from lmjax.train.leaves import is_key
from lmjax.train.state import TrainState
from lmjax.train.step import Learner
from lmjax.types import PyTree, Rows


class SilentCorruption(RuntimeError):  # noqa: N818 - that is what was found
    """A device computes or holds something wrong."""


def bit_sum(array: jax.Array) -> jax.Array:
    """Returns the sum of an array's bit patterns as unsigned integers, uint32, modulo 2^32."""
    if is_key(array):
        array = jax.random.key_data(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    unsigned = jnp.dtype(f"uint{8 * min(array.dtype.itemsize, 4)}")
    return jnp.sum(jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32), dtype=jnp.uint32)


def bit_sums(tree: PyTree) -> jax.Array:
    """Returns the :func:`bit_sum` of each array of a tree, uint32 [L]."""
    return jnp.stack([bit_sum(leaf) for leaf in jax.tree.leaves(tree)])


class StepProbe:
    """Computes a step twice from the same state and rows, and compares the two states bit by bit."""

    def __init__(self, learner: Learner):
        """Prepares the probe of a learner; the step is compiled again, because it must not overwrite its state."""
        replicated = NamedSharding(learner.mesh, PartitionSpec())
        self._sums = jax.jit(
            lambda state, rows: bit_sums(learner.take_step(state, rows)),
            in_shardings=(learner.state_shardings, learner.row_sharding),
            out_shardings=replicated,
            compiler_options=learner.compiler_options,
        )
        self._names = functools.partial(_names_of_step, learner)

    def check(self, state: TrainState, rows: Rows, *, step: int) -> None:
        """Raises an error if the step from this state with these rows is not the same twice.

        Raises:
          SilentCorruption: the two states differ; the message names the arrays.
        """
        first_L, second_L = (np.asarray(self._sums(state, rows)) for _ in range(2))
        if np.array_equal(first_L, second_L):
            return
        differing = [name for name, same in zip(self._names(state, rows), first_L == second_L, strict=True) if not same]
        raise SilentCorruption(
            f"step {step}: computed twice, it is not the same in {some(differing)}: a device computes wrong: go on "
            f"from the last checkpoint on other machines. (On GPUs some operations are not deterministic: set "
            f"XLA_FLAGS=--xla_gpu_deterministic_ops=true before you trust this check.)"
        )


def _names_of_step(learner: Learner, state: TrainState, rows: Rows) -> list[str]:
    state_shape, metrics_shape = jax.eval_shape(learner.take_step, state, rows)
    return [*named_leaves(state_shape), *(f"metric {name}" for name in sorted(metrics_shape))]


class Integrity:
    """The checks that a run asks for, each due every so many steps."""

    def __init__(self, train: TrainConfig, tools: Instruments):
        """Prepares the checks; nothing is compiled before a check is due.

        Args:
          train: the configuration, which says when a check is due.
          tools: the instruments of the run, which do not count the time of checks as that of steps.
        """
        self._train, self._tools = train, tools
        self._probes: dict[int, StepProbe] = {}

    def check_step(self, learner: Learner, state: TrainState, rows: Rows, step: int) -> None:
        """Computes a step twice if that is due, before the step itself is done.

        Raises:
          SilentCorruption: the two results differ.
        """
        if self._train.recompute_every == 0 or step % self._train.recompute_every:
            return
        with self._checking():
            # Objectives that take turns each have a step of their own.
            self._probes.setdefault(learner.turn, StepProbe(learner)).check(state, rows, step=step)

    def check_state(self, state: TrainState, step: int) -> None:
        """Compares the parameters on all devices if that is due.

        Raises:
          SilentCorruption: replicas differ.
        """
        if self._train.compare_replicas_every and step % self._train.compare_replicas_every == 0:
            with self._checking():
                compare_replicas(state.params, step=step)

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        self._tools.watchdog.expect_long()
        with self._tools.throughput.paused(), self._tools.goodput.spending("evaluation"):
            yield
        self._tools.watchdog.touch()


def compare_replicas(params: Params, *, step: int) -> None:
    """Raises an error if devices that hold the same part of a parameter hold different bits.

    Args:
      params: the parameters, sharded over one mesh; every process must call this.
      step: the number of steps that they have had, for the message.

    Raises:
      SilentCorruption: replicas differ; the message names the parameter and the devices in the minority.
    """
    leaves = named_leaves(params)
    mesh = _sharding(next(iter(leaves.values()))).mesh
    assert isinstance(mesh, Mesh), mesh
    sums_NL = np.asarray(_sums_by_device(list(leaves.values()), mesh))
    devices = list(mesh.devices.flat)
    for number, (name, leaf) in enumerate(leaves.items()):
        parts = leaf.sharding.devices_indices_map(leaf.shape)
        replicas: dict[str, list[int]] = collections.defaultdict(list)
        for place, device in enumerate(devices):
            replicas[str(parts[device])].append(place)
        for places in replicas.values():
            counts = collections.Counter(int(sums_NL[place, number]) for place in places)
            if len(counts) == 1:
                continue
            usual = counts.most_common(1)[0][0]
            odd = [devices[place] for place in places if int(sums_NL[place, number]) != usual]
            raise SilentCorruption(
                f"step {step}: {name} is not the same on all devices that hold it: different on "
                f"{', '.join(f'{device} of process {device.process_index}' for device in odd[:8])}: go on from the "
                f"last checkpoint without {'this device' if len(odd) == 1 else 'these devices'}"
            )


def _sums_by_device(leaves: list[jax.Array], mesh: Mesh) -> jax.Array:
    """Returns the sums of the part of each array that each device holds, uint32 [N, L], on every device."""
    summed = jax.shard_map(
        lambda parts: bit_sums(parts)[None],
        mesh=mesh,
        in_specs=([_sharding(leaf).spec for leaf in leaves],),
        out_specs=PartitionSpec(mesh.axis_names),
        check_vma=False,
    )
    return jax.jit(summed, out_shardings=NamedSharding(mesh, PartitionSpec()))(leaves)


def _sharding(array: jax.Array) -> NamedSharding:
    assert isinstance(array.sharding, NamedSharding), array.sharding
    return array.sharding
