"""The optimizer as a chain of optax pieces: direction, decoupled weight decay, learning rate.

    update = -learning_rate * schedule(step) * (direction(gradient) + weight_decay * parameter)

(:func:`width_factors` aside, and the bias of a router: what comes as its gradient is its experts' load.)

Decay goes by the *kind* of a parameter, not by its number of dimensions: scanned layers stack their
norm scales to [L, D], and a rule like "two dimensions or more" would decay them. Clipping is apart
(:func:`clip_by_norm`), so that the step computes the gradient's norm once, for it and for the metric.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import optax
import optax.tree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lmjax.models.routing import BIAS_KIND
from lmjax.schedules.learning_rate import Schedule
from lmjax.types import PyTree

Tree = TypeVar("Tree")

MATRIX_KINDS = ("matrix",)
EMBEDDING_KINDS = ("embedding", "position")
UNDECAYED_KINDS = ("norm", "bias", "scale", BIAS_KIND)
STACKING_AXES = ("layers", "experts")
"""Leading axes of parameters that are many of a kind in one array."""
FROZEN = "frozen"
"""The kind of parameters that are given: they have no gradient, no optimizer state, no decay and no average."""

_DEFAULTS: dict[str, dict[str, float]] = {
    "adamw": {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "adafactor": {"min_factored_size": 128},
    "sgd": {"momentum": 0.9},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer; options left unset take the default of the optimizer that is named."""

    name: Literal["adamw", "lion", "adafactor", "sgd"] = "adamw"
    """adamw (Loshchilov 2019), lion (Chen 2023), adafactor (Shazeer 2018), or sgd with momentum."""
    learning_rate: float = 3e-4
    """Peak learning rate, which the schedule multiplies; for adafactor relative to a parameter's RMS."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices, multiplied by the learning rate."""
    decay_embeddings: bool = False
    """Whether token and position embeddings decay too (norms and biases never do)."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; None does not clip."""
    beta1: float | None = None
    """adamw, lion: decay of the first moment (unset: 0.9)."""
    beta2: float | None = None
    """adamw: decay of the second moment (unset: 0.95); lion: of the momentum (unset: 0.99)."""
    epsilon: float | None = None
    """adamw: added to the root of the second moment (unset: 1e-8)."""
    momentum: float | None = None
    """sgd: decay of the accumulated gradient (unset: 0.9)."""
    min_factored_size: int | None = None
    """adafactor: smallest dimension whose second moment is kept as rows and columns (unset: 128)."""
    router_bias_rate: float = 1e-3
    """What a step adds to the bias of an expert with less than an even load and takes from the others'
    (`model.experts.balance_bias`); no schedule applies."""
    moment_dtype: Literal["float32", "bfloat16"] | None = None
    """adamw, lion, sgd: type of the first moment (unset: that of the parameter)."""

    def __post_init__(self):
        if self.name not in _DEFAULTS:
            raise ValueError(f"optimizer.name={self.name!r}: must be one of {', '.join(_DEFAULTS)}")
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate={self.learning_rate}: must be above 0")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay={self.weight_decay}: must be 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm={self.clip_norm}: must be above 0, or None not to clip")
        for field in ("beta1", "beta2", "epsilon", "momentum", "min_factored_size"):
            if getattr(self, field) is not None and field not in _DEFAULTS[self.name]:
                raise ValueError(f"optimizer.{field}={getattr(self, field)}: {self.name} has no such option; unset it")
        if self.moment_dtype is not None and self.name == "adafactor":
            raise ValueError(f"optimizer.moment_dtype={self.moment_dtype}: adafactor has no first moment; unset it")
        for field in ("beta1", "beta2", "momentum"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"optimizer.{field}={value}: must be at least 0 and below 1")
        if self.router_bias_rate < 0:
            raise ValueError(f"optimizer.router_bias_rate={self.router_bias_rate}: must be 0 or more")
        for field in ("epsilon", "min_factored_size"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise ValueError(f"optimizer.{field}={value}: must be above 0")

    def value_of(self, field: str) -> float:
        """An option, or its default for this optimizer where it is unset."""
        value = getattr(self, field)
        return _DEFAULTS[self.name][field] if value is None else value


def trained(tree: PyTree, kinds: PyTree) -> Any:
    """What is there for parameters that are trained: ``tree`` without its subtrees beside frozen ones.

    In their place is ``None``, which ``jax.tree`` and optax take for nothing; :func:`with_frozen` fills it.

    Args:
      tree: parameters, or something for each parameter.
      kinds: like the parameters, a string for each.
    """
    return jax.tree.map(lambda kind, part: None if kind == FROZEN else part, kinds, tree)


def with_frozen(part: PyTree, params: PyTree) -> Any:
    """The whole again: ``part``, from :func:`trained`, and where it has nothing ``params``."""
    return jax.tree.map(lambda new, old: old if new is None else new, part, params, is_leaf=lambda leaf: leaf is None)


def build_optimizer(
    config: OptimizerConfig, *, schedule: Schedule, kinds: PyTree, axes: PyTree, width_ratio: float = 1.0
) -> optax.GradientTransformation:
    """The gradient transformation of a run; it counts its own steps, so nothing comes from the host.

    Args:
      config: which optimizer, and its numbers.
      schedule: step to the multiplier of ``config.learning_rate``, from ``schedule.build_schedule``.
      kinds: like the parameters, a string for each: see :func:`decays`. Frozen ones are not the
        transformation's to see: give it what :func:`trained` leaves.
      axes: like the parameters, a tuple of logical axis names for each; leading ``"layers"`` and
        ``"experts"`` axes stack parameters that adafactor then treats apart.
      width_ratio: see :func:`width_factors`.

    Raises:
      ValueError: a parameter is of no known kind, or the optimizer has no rule for the width.
    """
    if width_ratio != 1 and config.name not in ("adamw", "lion"):
        raise ValueError(
            f"optimizer.name={config.name!r}: model.width_base scales the learning rate of adamw and lion only: use "
            f"one of them, or set model.width_base to None"
        )
    kinds, axes = trained(kinds, kinds), trained(axes, kinds)
    moment_dtype = None if config.moment_dtype is None else jnp.dtype(config.moment_dtype)
    if config.name == "adamw":
        beta1, beta2, epsilon = (config.value_of(field) for field in ("beta1", "beta2", "epsilon"))
        direction = optax.scale_by_adam(beta1, beta2, epsilon, mu_dtype=moment_dtype)
    elif config.name == "lion":
        direction = optax.scale_by_lion(config.value_of("beta1"), config.value_of("beta2"), moment_dtype)
    elif config.name == "sgd":
        direction = optax.trace(config.value_of("momentum"), accumulator_dtype=moment_dtype)
    else:
        direction = _scale_by_adafactor(axes, int(config.value_of("min_factored_size")))
    if width_ratio != 1:
        factors = width_factors(kinds, axes, width_ratio)
        scaled = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, factors))
        direction = optax.chain(direction, scaled)
    chain = optax.chain(
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=decays(kinds, embeddings=config.decay_embeddings)),
        optax.scale_by_learning_rate(lambda step: config.learning_rate * schedule(step)),
    )

    def update(grads, state, params=None):
        updates, state = chain.update(grads, state, params)

        def against_load(kind: str, update: jax.Array, load: jax.Array) -> jax.Array:
            return -config.router_bias_rate * jnp.sign(load) if kind == BIAS_KIND else update

        return jax.tree.map(against_load, kinds, updates, grads), state

    return optax.GradientTransformation(chain.init, update)


def width_factors(kinds: PyTree, axes: PyTree, ratio: float) -> Any:
    """Factor of each parameter's learning rate in a model ``ratio`` times as wide as its base, for Adam.

    ``1 / ratio`` for matrices whose inputs get more with the width, 1 for all else (Yang et al. 2022, table 8, where
    the head's logits are divided instead; and table 3 for a router). Weight decay is not scaled.
    """

    def factor(kind: str, names: Sequence[str | None]) -> float:
        into = next(name for name in (*names, None) if name not in STACKING_AXES)
        grows = kind in MATRIX_KINDS and "vocab" not in names and into not in ("embedding", "buckets")
        return 1 / ratio if grows else 1.0

    return jax.tree.map(factor, kinds, axes)


def decays(kinds: PyTree, *, embeddings: bool) -> Any:
    """Which parameters weight decay applies to, as booleans in the structure of ``kinds``.

    Kind ``"matrix"`` decays; ``"embedding"`` and ``"position"`` when ``embeddings``; ``"norm"``,
    ``"bias"``, ``"scale"`` and ``"router_bias"`` never.

    Raises:
      ValueError: any other kind: to guess would be to train it wrongly in silence.
    """

    known = MATRIX_KINDS + EMBEDDING_KINDS + UNDECAYED_KINDS

    def decay(path: tuple, kind: str) -> bool:
        if kind not in known:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(f"parameter {name} is of unknown kind {kind!r}: use one of {', '.join(known)}")
        return kind in MATRIX_KINDS or (embeddings and kind in EMBEDDING_KINDS)

    return jax.tree_util.tree_map_with_path(decay, kinds)


def _scale_by_adafactor(axes: PyTree, min_factored_size: int) -> optax.GradientTransformation:
    """Adafactor's direction (Shazeer and Stern 2018, algorithm 4), for each layer of a stack apart.

    optax factors the two largest dimensions and clips by the RMS of the whole array; on parameters
    stacked over layers the first may be the layers, and the second would tie the layers together.
    """
    layer = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=min_factored_size),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    depths = [_num_stacking_axes(names) for names in jax.tree.leaves(axes, is_leaf=_is_axes)]

    def init(params):
        # optax.tree.map_params calls this with a placeholder that has no leaves.
        leaves, structure = jax.tree.flatten(params)
        moments = [_vmapped(lambda p: tuple(layer.init(p)[0][1:]), n)(p) for n, p in zip(depths, leaves, strict=False)]
        columns = zip(*moments, strict=True) if moments else ((), (), ())
        v_row, v_col, v = (jax.tree.unflatten(structure, column) for column in columns)
        return optax.FactoredState(count=jnp.zeros((), jnp.int32), v_row=v_row, v_col=v_col, v=v)

    def update(grads, state, params=None):
        assert params is not None, "adafactor scales by the parameters: pass them to update"

        def layer_update(grad, row, column, full, param):
            before = (
                optax.FactoredState(state.count, row, column, full),
                optax.EmptyState(),
                optax.EmptyState(),
            )
            direction, (after, *_) = layer.update(grad, before, param)
            return direction, after.v_row, after.v_col, after.v

        leaves = map(jax.tree.leaves, (grads, state.v_row, state.v_col, state.v, params))
        results = [_vmapped(layer_update, n)(*leaf) for n, *leaf in zip(depths, *leaves, strict=True)]
        structure = jax.tree.structure(grads)
        updates, v_row, v_col, v = (jax.tree.unflatten(structure, column) for column in zip(*results, strict=True))
        return updates, optax.FactoredState(optax.safe_increment(state.count), v_row, v_col, v)

    return optax.GradientTransformation(init, update)


def _is_axes(leaf: PyTree) -> bool:
    return isinstance(leaf, tuple)


def _num_stacking_axes(names: Sequence[str | None]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda name: name in STACKING_AXES, names))


def _vmapped(function: Callable, depth: int) -> Callable:
    for _ in range(depth):
        function = jax.vmap(function)
    return function


def state_shardings(
    optimizer: optax.GradientTransformation, params: PyTree, param_shardings: PyTree, mesh: Mesh
) -> Any:
    """Where each array of the optimizer's state lives: a moment like its parameter, scalars everywhere.

    ``jax.jit(optimizer.init)`` without these as ``out_shardings`` replicates every moment.
    Factored moments, which lack one dimension of the parameter, take the layout of those they have.

    Args:
      optimizer: from :func:`build_optimizer`.
      params: the parameters it is given, arrays or ``jax.ShapeDtypeStruct``.
      param_shardings: like ``params``, a ``NamedSharding`` on ``mesh`` for each.
      mesh: the mesh of the run.

    Returns:
      ``NamedSharding`` for each leaf of ``optimizer.init(params)``.
    """

    def like(moment, param, sharding: NamedSharding) -> NamedSharding:
        return NamedSharding(mesh, _moment_spec(moment.shape, param.shape, sharding.spec))

    return optax.tree.map_params(
        optimizer,
        like,
        jax.eval_shape(optimizer.init, params),
        params,
        param_shardings,
        transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()),
    )


def _moment_spec(moment: tuple[int, ...], param: tuple[int, ...], spec: PartitionSpec) -> PartitionSpec:
    if moment == param:
        return spec
    entries = (*spec, *(None,) * (len(param) - len(spec)))
    dropped = [i for i in range(len(param)) if param[:i] + param[i + 1 :] == moment]
    candidates = [entries[:i] + entries[i + 1 :] for i in dropped] or [(None,) * len(moment)]
    # Between equal dimensions the shape does not say which one went: keep what holds either way.
    return PartitionSpec(*(same[0] if len(set(same)) == 1 else None for same in zip(*candidates, strict=True)))


def clip_by_norm(grads: Tree, *, norm: jax.Array, max_norm: float | None) -> Tree:
    """Gradients scaled by ``min(1, max_norm / norm)``, dtypes kept (Pascanu et al. 2013, algorithm 1).

    Args:
      grads: gradients.
      norm: their global norm, ``optax.tree.norm(grads)``, which the step reports as well.
      max_norm: the bound; ``None`` returns ``grads`` unchanged.
    """
    if max_norm is None:
        return grads
    scale = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda grad: grad * scale.astype(grad.dtype), grads)


def ema_update(ema: Tree, params: Tree, step: jax.Array, *, decay: float, warm_up: bool = True) -> Tree:
    """One step of an exponential moving average, ``d ema + (1 - d) params``, in the dtype of ``ema``.

    Args:
      ema: the average, which starts as a copy of the parameters.
      params: parameters after this step's update.
      step: updates done before this one, from 0.
      decay: the limit of ``d``, in [0, 1).
      warm_up: use ``d = min(decay, (1 + step) / (10 + step))``, so that the start is soon forgotten.
    """
    step = jnp.asarray(step).astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + step) / (10 + step)) if warm_up else jnp.float32(decay)
    return jax.tree.map(lambda old, new: (kept * old + (1 - kept) * new).astype(old.dtype), ema, params)
