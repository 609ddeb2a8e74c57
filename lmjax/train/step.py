"""The training step and the evaluation step, compiled once, sharded and donated.

One step: corrupt the global batch, scale each weight tensor to sum to one over it, then scan the
microbatches summing gradients. Because weights are normalised before the batch is split, the sum
is the gradient of the whole batch whatever the number of microbatches or devices, however
unevenly the scored tokens fall among them.
"""

import dataclasses
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives.base import Objective
from lmjax.parallel.mesh import partition_spec
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.optimizer import clip_by_norm, ema_update, state_shardings
from lmjax.train.state import TrainState
from lmjax.types import Batch, Rows

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """The static half of training: what to compute, with what, on which devices.

    Attributes:
      spec: the module.
      objective: corruption and loss terms.
      vocabulary: special ids.
      optimizer: gradient to update; learning rate included.
      learning_rate: step to the learning rate, for the metrics.
      mesh: devices.
      microbatches: parts the batch is processed in, one after the other.
      clip_norm: global gradient norm to clip to, or None.
      ema_decay: decay of the parameter average, or None.
    """

    spec: ModuleSpec
    objective: Objective
    vocabulary: Vocabulary
    optimizer: optax.GradientTransformation
    learning_rate: Any
    mesh: Mesh
    microbatches: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None

    @cached_property
    def state_shardings(self) -> Any:
        """A :class:`TrainState` holding each leaf's sharding; moments lie as their parameters do."""
        params = self.spec.shardings(self.mesh)
        replicated: Any = NamedSharding(self.mesh, PartitionSpec())
        return TrainState(
            step=replicated,
            params=params,
            opt_state=state_shardings(self.optimizer, self.spec.shapes, params, self.mesh),
            ema=None if self.ema_decay is None else params,
            key=replicated,
        )

    @cached_property
    def row_sharding(self) -> NamedSharding:
        """Rows are split over every device that shares the batch."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    @property
    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings, for restoring a checkpoint."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state_shardings,
        )

    def init(self, seed: int) -> TrainState:
        """The state before the first step, born sharded."""
        with jax.set_mesh(self.mesh):
            return jax.jit(self._init, out_shardings=self.state_shardings)(jax.random.key(seed))

    def _init(self, key: jax.Array) -> TrainState:
        init_key, run_key = run_keys(key)
        params = self.spec.init(init_key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(params),
            ema=None if self.ema_decay is None else jax.tree.map(jnp.copy, params),
            key=run_key,
        )

    @cached_property
    def train_step(self):
        """``(state, rows) -> (state, metrics)``, jitted; the given state is consumed."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(
            self._train_step,
            donate_argnums=0,
            in_shardings=(self.state_shardings, self.row_sharding),
            out_shardings=(self.state_shardings, replicated),
        )

    @cached_property
    def eval_step(self):
        """``(params, rows, key) -> sums``, jitted: see :meth:`_eval_step`."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(
            self._eval_step,
            in_shardings=(self.state_shardings.params, self.row_sharding, replicated),
            out_shardings=replicated,
        )

    def _train_step(self, state: TrainState, rows: Rows) -> tuple[TrainState, Metrics]:
        corrupt_key, model_key = step_keys(state.key, state.step)
        objective = self.objective.at(state.step)
        batch = objective.corrupt(corrupt_key, rows, self.vocabulary)
        scored_tokens = {name: jnp.sum(weights > 0) for name, weights in batch.weights.items()}
        batch = dataclasses.replace(batch, weights=jax.tree.map(_normalise, batch.weights))
        grads, terms = self._gradients(objective, state.params, batch, model_key)
        grad_norm = optax.tree.norm(grads)
        grads = clip_by_norm(grads, norm=grad_norm, max_norm=self.clip_norm)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None
        if self.ema_decay is not None:
            ema = ema_update(state.ema, params, state.step, decay=self.ema_decay)
        metrics = {
            "grad_norm": grad_norm,
            "learning_rate": self.learning_rate(state.step),
        }
        for name, value in terms.items():
            prefix = f"{name}/" if len(terms) > 1 else ""
            metrics |= {f"{prefix}loss": value, f"{prefix}scored_tokens": scored_tokens[name]}
        metrics["loss"] = _total(objective, terms)
        state = TrainState(step=state.step + 1, params=params, opt_state=opt_state, ema=ema, key=state.key)
        return state, metrics

    def _gradients(self, objective: Objective, params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Metrics]:
        def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Metrics]:
            terms = objective.terms(self.spec.bind(params), batch, key)
            return _total(objective, terms), terms

        gradient = jax.grad(loss, has_aux=True)
        if self.microbatches == 1:
            return gradient(params, batch, key)

        def accumulate(sums, microbatch):
            part, index = microbatch
            new = gradient(params, part, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, sums, new), None

        parts = split_microbatches(batch, self.microbatches, self.mesh)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda leaf: leaf[0], parts), key)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        sums, _ = jax.lax.scan(accumulate, zeros, (parts, jnp.arange(self.microbatches)))
        return sums

    def _eval_step(self, params: Params, rows: Rows, key: jax.Array) -> Metrics:
        """Sums over a batch that add up over batches: ``<term>`` (weight x loss), ``<term>/weight``, ``bytes``.

        Raw weights and the plain loss, so that dividing sums gives exact corpus means; ``bytes`` is
        the text the scored targets of the term ``loss`` stand for.
        """
        objective = self.objective.for_evaluation()
        batch = objective.corrupt(key, rows, self.vocabulary)
        sums = dict(objective.terms(self.spec.bind(params), batch, None))
        sums |= {f"{name}/weight": jnp.sum(w) for name, w in batch.weights.items()}
        if "loss" in batch.weights and batch.weights["loss"].shape == batch.targets_BP.shape:
            byte_length_V = jnp.asarray(self.vocabulary.byte_length_V, jnp.float32)
            sums["bytes"] = jnp.sum(byte_length_V[batch.targets_BP] * (batch.weights["loss"] > 0))
        return sums


def _total(objective: Objective, terms: Metrics) -> jax.Array:
    coefficients = objective.coefficients()
    return sum((coefficients.get(name, 1.0) * value for name, value in terms.items()), jnp.zeros(()))


def run_keys(seed_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From ``jax.random.key(seed)``: the key of the initial weights, and the run's key (``TrainState.key``)."""
    init_key, run_key = jax.random.split(seed_key)
    return init_key, run_key


def step_keys(run_key: jax.Array, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of a step's corruption and of its model; ``step`` counts the updates done before it."""
    corrupt_key, model_key = jax.random.split(jax.random.fold_in(run_key, step))
    return corrupt_key, model_key


def _normalise(weights: jax.Array) -> jax.Array:
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)


def split_microbatches(batch: Batch, num: int, mesh: Mesh) -> Batch:
    """Every array [B, ...] as [num, B / num, ...], each part spread over all devices.

    Part m takes rows m, m + num, ...: with the batch laid out in blocks, that moves no row between
    devices.
    """
    num_rows = batch.inputs.tokens_BT.shape[0]

    def split(leaf: jax.Array) -> jax.Array:
        leaf = jnp.broadcast_to(leaf, (num_rows, *leaf.shape[1:]))
        parts = leaf.reshape(num_rows // num, num, *leaf.shape[1:]).swapaxes(0, 1)
        if mesh.size == 1:
            return parts
        axes = (None, "batch", *(None,) * (leaf.ndim - 1))
        spec = partition_spec(axes, parts.shape, mesh)
        return jax.lax.with_sharding_constraint(parts, NamedSharding(mesh, spec))

    return jax.tree.map(split, batch)
