"""The training step and the evaluation step, compiled once, sharded and donated.

A step corrupts the global batch and scales each weight tensor so that it sums to one over this batch. It then scans
over the microbatches and sums their gradients. Because weights are normalised before the batch is split, the sum
is the gradient of the whole batch. It does not depend on the number of microbatches or devices, or on how
unevenly the scored tokens are spread over them.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.tied import read_by_heads, tied_tables
from lmjax.objectives import Mixture
from lmjax.objectives.parts.objective import Objective, all_terms
from lmjax.parallel.compiler_options import compiler_options
from lmjax.parallel.mesh import mesh_axes_of
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.components import Component, components_of
from lmjax.train.components import metrics as reported
from lmjax.train.faults import FaultPolicy, Stop
from lmjax.train.faults.watch import Watch, judged, new_watch
from lmjax.train.gradient_noise import noise_terms
from lmjax.train.microbatches import summed_over_microbatches
from lmjax.train.optimizers import clip_by_norm, ema_update, state_shardings, trained, with_frozen
from lmjax.train.state import TrainState
from lmjax.train.text_bytes import text_counts
from lmjax.types import Batch, Rows

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """The part of training that does not change from step to step: what is computed, and on which devices.

    Attributes:
      spec: the description of the module.
      objective: the objective, which defines the corruption and the loss terms.
      vocabulary: the vocabulary with its special ids.
      optimizer: the transformation from gradients to updates, learning rate included.
      learning_rate: the function from the step to the learning rate, for the metrics.
      mesh: the mesh of the devices.
      microbatches: the number of parts of a batch that are processed one after the other.
      clip_norm: the global norm that gradients are clipped to, or None.
      ema_decay: the decay of the parameter average, or None.
      average: the function from the optimizer's state and the trained parameters to their average; None if the
        optimizer keeps none.
      new_carry: the function that returns the carry of the first step, see ``Objective.initial_carry``.
      gradient_noise: whether the metrics have the terms of :mod:`lmjax.train.gradient_noise`, which take the gradients
        of the microbatches.
      mixture: the mixture that the objective is a part of, and whose rows it is given; None for any other objective.
      on_fault: the policy for steps that are faulty.
      turn: the number of the objective among those that take turns.
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
    average: Callable[[Any, Params], Params] | None = None
    new_carry: Callable[[], Any] = lambda: None
    gradient_noise: bool = False
    mixture: Mixture | None = None
    on_fault: FaultPolicy = Stop()
    turn: int = 0

    def of(self, component: Component) -> "Learner":
        """Returns the learner of a component, which uses the same state; for the whole objective, this learner."""
        return self if component.name is None else self._parts[component.name]

    @cached_property
    def _parts(self) -> dict[str, "Learner"]:
        # They are made once, because each compiles a step of its own.
        return {
            one.name: dataclasses.replace(self, objective=one.objective, mixture=one.mixture, turn=turn)
            for turn, one in enumerate(components_of(self.objective))
            if one.name is not None
        }

    @cached_property
    def state_shardings(self) -> Any:
        """A :class:`TrainState` that holds the sharding of each leaf; moments are split like their parameters."""
        params = self.spec.shardings(self.mesh)
        replicated: Any = NamedSharding(self.mesh, PartitionSpec())
        return TrainState(
            step=replicated,
            params=params,
            opt_state=state_shardings(self.optimizer, self.trained(self.spec.shapes), self.trained(params), self.mesh),
            ema=params if self.keeps_average else None,
            key=replicated,
            carry=self.carry_shardings,
            watch=jax.tree.map(lambda _: replicated, jax.eval_shape(self._new_watch)),
        )

    @property
    def keeps_average(self) -> bool:
        """Whether the state has an average of the parameters; evaluation and sampling then use it."""
        return self.ema_decay is not None or self.average is not None

    def with_params(self, state: TrainState, params: Params) -> TrainState:
        """Returns a state with other parameters, for use before the first step; the optimizer begins from them."""
        with jax.set_mesh(self.mesh):
            opt_state = jax.jit(self.optimizer.init, out_shardings=self.state_shardings.opt_state)(self.trained(params))
        ema = jax.tree.map(jnp.copy, params) if self.keeps_average else None
        return dataclasses.replace(state, params=params, ema=ema, opt_state=opt_state)

    @cached_property
    def carry_shardings(self) -> Any:
        """The sharding of each array of the carry, which is split as the rows are."""
        return jax.tree.map(lambda _: self.row_sharding, jax.eval_shape(self.new_carry))

    def empty_carry(self) -> Any:
        """Returns the carry that the first rows are given, on the devices."""
        return jax.jit(self.new_carry, out_shardings=self.carry_shardings)()

    def empty_watch(self) -> Watch | None:
        """Returns the watch before the first step, on the devices; None if the run's policy needs none."""
        return jax.jit(self._new_watch, out_shardings=self.state_shardings.watch)()

    def trained(self, tree: Any) -> Any:
        """Returns a tree shaped like the parameters in which the entries of frozen parameters are None."""
        return trained(tree, self.spec.kinds)

    @cached_property
    def row_sharding(self) -> NamedSharding:
        """The sharding of rows: they are split over all devices that share the batch."""
        return NamedSharding(self.mesh, PartitionSpec(mesh_axes_of("batch")))

    @property
    def abstract_state(self) -> TrainState:
        """The shapes, dtypes and shardings of the state, for restoring a checkpoint."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state_shardings,
        )

    def init(self, seed: int) -> TrainState:
        """Returns the state before the first step; its arrays are sharded from the start."""
        with jax.set_mesh(self.mesh):
            return jax.jit(self._init, out_shardings=self.state_shardings)(jax.random.key(seed))

    def _init(self, key: jax.Array) -> TrainState:
        init_key, run_key = run_keys(key)
        params = self.spec.init(init_key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=self.optimizer.init(self.trained(params)),
            ema=jax.tree.map(jnp.copy, params) if self.keeps_average else None,
            key=run_key,
            carry=self.new_carry(),
            watch=self._new_watch(),
        )

    def _new_watch(self) -> Watch | None:
        return new_watch(self.on_fault, len(components_of(self.objective)))

    @property
    def compiler_options(self) -> dict[str, bool | int]:
        """The options that the step is compiled with on these devices."""
        return compiler_options(self.mesh.devices.flat[0].platform)

    @cached_property
    def train_step(self) -> jax.stages.Wrapped:
        """The jitted function ``(state, rows) -> (state, metrics)``; the given state is donated, so use it no more."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(
            self.take_step,
            donate_argnums=0,
            in_shardings=(self.state_shardings, self.row_sharding),
            out_shardings=(self.state_shardings, replicated),
            compiler_options=self.compiler_options,
        )

    @cached_property
    def eval_step(self) -> jax.stages.Wrapped:
        """The jitted function ``(params, rows, key, carry) -> sums, carry``, see :meth:`_eval_step`."""
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(
            self._eval_step,
            in_shardings=(self.state_shardings.params, self.row_sharding, replicated, self.carry_shardings),
            out_shardings=(replicated, self.carry_shardings),
        )

    def take_step(self, state: TrainState, rows: Rows) -> tuple[TrainState, Metrics]:
        """Returns the state after a step, and the metrics; :attr:`train_step` is this function, compiled."""
        corrupt_key, model_key = step_keys(state.key, state.step)
        objective = at_step(self.objective, state.step)
        batch = objective.corrupt(corrupt_key, self.own(rows), self.vocabulary)
        scored = {name: jnp.sum(weights > 0) for name, weights in batch.weights.items()}
        batch = dataclasses.replace(batch, weights=jax.tree.map(normalised, batch.weights), carry=state.carry)
        rows_in_all = len(jax.tree.leaves(rows)[0])
        grads, terms, carry, small_square = self._gradients(objective, state, batch, model_key)
        grad_norm = optax.tree.norm(grads)
        grads = clip_by_norm(grads, norm=grad_norm, max_norm=self.clip_norm)
        before = self.trained(state.params)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, before)
        after = optax.apply_updates(before, updates)
        params = with_frozen(after, state.params)
        ema = None
        if self.ema_decay is not None:
            average = ema_update(self.trained(state.ema), after, state.step, decay=self.ema_decay)
            ema = with_frozen(average, state.ema)
        elif self.average is not None:
            ema = with_frozen(self.average(opt_state, after), state.params)
        metrics = {
            "grad_norm": grad_norm,
            "learning_rate": self.learning_rate(state.step),
        }
        metrics |= reported(objective, terms, scored)
        if small_square is not None:
            metrics |= noise_terms(
                small_square, grad_norm**2, small_batch=rows_in_all // self.microbatches, big_batch=rows_in_all
            )
        updated = dataclasses.replace(
            state, step=state.step + 1, params=params, opt_state=opt_state, ema=ema, carry=carry
        )
        return judged(self.on_fault, state, updated, metrics, component=self.turn)

    def _gradients(
        self, objective: Objective, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[Params, Metrics, Any, jax.Array | None]:
        """Returns gradients, loss terms, carry, and the mean squared norm of a microbatch's gradient where wanted."""
        parameters = self.trained(state.params)

        def bound(part: Params) -> Any:
            return self.spec.bind(with_frozen(part, state.params))

        def loss(
            parameters: Params, tables: list[jax.Array], part: Batch, key: jax.Array
        ) -> tuple[jax.Array, tuple[Metrics, Any]]:
            model = bound(parameters)
            read_by_heads(model, tables)
            terms, carry = all_terms(objective, model, part, key)
            return objective.total(terms), (terms, carry)

        if self.microbatches == 1:
            grads, (terms, carry) = jax.grad(loss, has_aux=True)(parameters, [], batch, key)
            return grads, terms, carry, None

        # The two gradients of a tied table are summed apart, see `lmjax.models.tied`.
        tables, of_tables = jax.vjp(lambda part: tied_tables(bound(part)) if self.mesh.size > 1 else [], parameters)

        def whole(grads: tuple[Params, list[jax.Array]]) -> Params:
            return jax.tree.map(jnp.add, grads[0], *of_tables(grads[1])) if tables else grads[0]

        return summed_over_microbatches(
            functools.partial(jax.grad(loss, argnums=(0, 1), has_aux=True), parameters, tables),
            batch,
            key,
            num=self.microbatches,
            mesh=self.mesh,
            whole=whole,
            squared_norms=self.gradient_noise,
        )

    def _eval_step(self, params: Params, rows: Rows, key: jax.Array, carry: Any) -> tuple[Metrics, Any]:
        """Returns sums over a batch, and the carry for the next batch.

        The sums are ``<term>`` (weight x loss), ``<term>/weight``, and the counts of :func:`text_counts` for
        ``Traits.text_term``. They can be added over batches. Weights are not normalised and the loss is the plain loss,
        so dividing the sums gives exact means over the corpus.
        """
        objective = self.objective.for_evaluation()
        batch = objective.corrupt(key, self.own(rows), self.vocabulary)
        batch = dataclasses.replace(batch, carry=carry)
        terms, carry = all_terms(objective, self.spec.bind(params), batch, None)
        sums = dict(terms)
        sums |= {f"{name}/weight": jnp.sum(w) for name, w in batch.weights.items()}
        text_term = objective.traits.text_term
        if text_term is not None:
            sums |= text_counts(self.vocabulary, batch.targets_BP, batch.weights[text_term])
        return sums, carry

    def own(self, rows: Rows) -> Rows:
        """Returns the part of the run's rows that the objective reads."""
        return rows if self.mixture is None else self.mixture.rows_for(self.objective, rows)


def run_keys(seed_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the key of the initial weights and the run's key (``TrainState.key``), given ``jax.random.key(seed)``."""
    init_key, run_key = jax.random.split(seed_key)
    return init_key, run_key


def step_keys(run_key: jax.Array, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """Returns the keys of a step's corruption and of its model; ``step`` is the number of updates before it."""
    corrupt_key, model_key = jax.random.split(jax.random.fold_in(run_key, step))
    return corrupt_key, model_key


def normalised(weights: jax.Array) -> jax.Array:
    """Returns weights of any shape divided by their sum; weights that are all 0 stay so."""
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1.0)
