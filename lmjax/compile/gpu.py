"""What a recipe takes of GPUs that are not here: an estimate, since XLA compiles for GPUs only where there are some.

What is stored between steps, and what the backward pass keeps of a microbatch, is read off the shapes of the real
program and is exact. The rest is a stated estimate (:data:`ASSUMED`).
"""

import contextlib
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.compile.step import abstract_rows, one_component, tokens_of
from lmjax.losses.linear import default_chunk_size
from lmjax.objectives.parts.objective import all_terms
from lmjax.schedules.ramp import at_step
from lmjax.tokenizers.planned import planned_vocabulary
from lmjax.train.config import RunConfig
from lmjax.train.costs import summary_of
from lmjax.train.optimizers import with_frozen
from lmjax.train.setup import build_learner, resolve
from lmjax.train.step import Learner

NODE = 8
"""GPUs that NVLink joins; more exchange over the network."""
PRODUCT_SHARE = 0.6
"""Share of the peak that a step reaches without waiting for other GPUs; assumed."""
NETWORK_BANDWIDTH = 50e9
"""Bytes a second of a GPU to other nodes, in one direction (400 Gbit/s); assumed."""
RECOMPUTED = {"none": 0.0, "dots": 0.0, "products": 0.0, "offload": 0.0, "flash": 1 / 3, "full": 1 / 3}
"""What the backward pass computes again, as a share of the model's FLOPs, by ``model.execution.remat``; rounded up."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, from NVIDIA's data sheets.

    Attributes:
      peak_flops: a second, dense, in bfloat16.
      memory_bytes: of the device; the driver keeps some of it.
      link_bandwidth: bytes a second over NVLink in one direction.
    """

    peak_flops: float
    memory_bytes: float
    link_bandwidth: float


GPUS = {
    "a100-40": Gpu(peak_flops=312e12, memory_bytes=40e9, link_bandwidth=300e9),
    "a100-80": Gpu(peak_flops=312e12, memory_bytes=80e9, link_bandwidth=300e9),
    "h100": Gpu(peak_flops=989e12, memory_bytes=80e9, link_bandwidth=450e9),
    "h200": Gpu(peak_flops=989e12, memory_bytes=141e9, link_bandwidth=450e9),
    "b200": Gpu(peak_flops=2250e12, memory_bytes=180e9, link_bandwidth=900e9),
}
ASSUMED = (
    "exact: parameters, optimizer state and average; what the program keeps of a microbatch for its backward pass, "
    "before XLA changes anything",
    "estimated: one copy of the gradients, a second one with microbatches; two gathered layers in 16 bits; the head, "
    "its gradient, and the logits of a chunk twice",
    f"computation: model FLOPs and what remat computes again, at {PRODUCT_SHARE:.0%} of the peak; no kernel was timed",
    "copies to the host and back (remat offload): hidden by computation",
    f"exchange: bytes over NVLink within {NODE} GPUs, else {NETWORK_BANDWIDTH / 1e9:g} GB/s a GPU; the best case hides "
    "it behind computation, the worst case hides none",
    "nothing for the input pipeline, checkpoints, validation, or fragments of memory",
)


def parse_gpus(name: str) -> tuple[str, int]:
    """Returns kind and number of a name such as ``h100:8``.

    Raises:
      ValueError: the kind is unknown, or the number is not a positive whole number.
    """
    kind, _, number = name.partition(":")
    if kind not in GPUS:
        raise ValueError(f"--device {name}: unknown kind {kind!r}; known: {', '.join(GPUS)}; write it as in h100:8")
    if not re.fullmatch(r"[1-9]\d*", number):
        raise ValueError(f"--device {name}: write the number of GPUs after the kind, as in h100:8")
    return kind, int(number)


def prepare_devices(name: str) -> None:
    """Makes jax have as many devices as the GPUs of a name, none of which computes; call before anything computes.

    Raises:
      ValueError: the name is wrong, or jax has begun with fewer devices.
    """
    _, number = parse_gpus(name)
    jax.config.update("jax_platforms", "cpu")
    # If jax has begun, it has the devices it has.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", number)
    if jax.device_count() < number:
        raise ValueError(f"--device {name}: jax has begun with {jax.device_count()} devices: run this in a new process")


def estimate(config: RunConfig, name: str) -> dict[str, Any]:
    """Returns the figures of a recipe on GPUs, by name.

    Args:
      config: of the recipe.
      name: of the GPUs, such as ``h100:8``. jax must have as many devices of any kind, whose shapes are all that is
        used of them.

    Raises:
      ValueError: the name is wrong, or objective, model, batch and mesh do not go together.
    """
    kind, number = parse_gpus(name)
    gpu = GPUS[kind]
    vocabulary = planned_vocabulary(config.tokenizer)
    config = resolve(config, vocabulary)
    learner = build_learner(config, vocabulary, devices=jax.devices()[:number]).of(one_component(config))
    state, train = learner.abstract_state, config.train
    summary = summary_of(
        config,
        learner.spec,
        sequence_length=train.sequence_length,
        held={"parameters": state.params, "optimizer": state.opt_state, "average": state.ema},
    )
    memory = {
        **summary.held_bytes,
        "gradients": summary.held_bytes["parameters"] * (2 if train.microbatches > 1 else 1),
        "kept for the backward pass": _kept_bytes(learner, config),
        "working space": _working_bytes(learner, config),
    }
    tokens = tokens_of(config)
    flops = tokens * summary.flops_per_token / number
    computing = flops * (1 + RECOMPUTED[config.model.execution.remat]) / (PRODUCT_SHARE * gpu.peak_flops)
    exchanging = _exchange_seconds(learner, gpu, summary.parameters, train.microbatches)
    best, worst = max(computing, exchanging), computing + exchanging
    return {
        "recipe": config.name,
        "device": name,
        "mesh": dict(learner.mesh.shape),
        "batch_size": train.batch_size,
        "microbatches": train.microbatches,
        "remat": config.model.execution.remat,
        "sequence_length": train.sequence_length,
        "model": {"width": config.model.width, "num_layers": config.model.num_layers},
        "parameters": summary.parameters,
        "flops_per_token": summary.flops_per_token,
        "memory": memory | {"peak": sum(memory.values()), "device": gpu.memory_bytes},
        "fits": sum(memory.values()) <= gpu.memory_bytes,
        "computing_seconds": computing,
        "exchanging_seconds": exchanging,
        "seconds_per_step": [best, worst],
        "tokens_per_second": [tokens / best, tokens / worst],
        "mfu": [flops / (seconds * gpu.peak_flops) for seconds in (best, worst)],
        "assumed": list(ASSUMED),
    }


def _kept_bytes(learner: Learner, config: RunConfig) -> int:
    """Returns the bytes of a device that the forward pass of a microbatch hands to its backward pass."""
    objective, state = at_step(learner.objective, 0), learner.abstract_state
    rows = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // learner.microbatches, *leaf.shape[1:]), leaf.dtype),
        abstract_rows(config),
    )

    def backward(params, rows, carry, key):
        batch = objective.corrupt(key, learner.own(rows), learner.vocabulary)
        batch = dataclasses.replace(batch, carry=carry)

        def loss(trained):
            terms, _ = all_terms(objective, learner.spec.bind(with_frozen(trained, params)), batch, key)
            return objective.total(terms)

        return jax.vjp(loss, learner.trained(params))[1]

    carry = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // learner.microbatches, *leaf.shape[1:]), leaf.dtype),
        jax.eval_shape(learner.new_carry),
    )
    with jax.set_mesh(learner.mesh):
        traced = jax.make_jaxpr(backward)(state.params, rows, carry, jax.eval_shape(lambda: jax.random.key(0)))
    kept = [leaf for leaf in traced.out_avals if leaf.memory_space.name == "Device"]  # and not of the host
    weights = {leaf.shape for leaf in jax.tree.leaves(state.params)}
    weights |= {shape[::-1] for shape in weights}  # a tied head is the table, transposed
    arrays = [leaf for leaf in kept if leaf.shape not in weights]
    return sum(math.prod(leaf.shape) * _item_bytes(leaf.dtype) for leaf in arrays) // _batch_ways(learner)


def _item_bytes(dtype: Any) -> int:
    return 4 if jnp.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize


def _batch_ways(learner: Learner) -> int:
    return math.prod(learner.mesh.shape[axis] for axis in ("data", "fsdp", "expert", "context"))


def _working_bytes(learner: Learner, config: RunConfig) -> int:
    mesh, model = learner.mesh.shape, config.model
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(learner.spec.shapes))
    layer = weights // max(model.num_layers + model.encoder_layers, 1)
    head = model.width * model.vocab_size // mesh["tensor"]
    chunk = default_chunk_size(model.vocab_size) * model.vocab_size // mesh["tensor"]
    return 2 * 2 * layer // (mesh["tensor"] * mesh["expert"]) + (2 + 4) * head + 2 * 4 * chunk


def _exchange_seconds(learner: Learner, gpu: Gpu, parameters: int, microbatches: int) -> float:
    """Returns the time of a step's exchange: weights gathered twice and gradients summed, for each microbatch."""
    mesh = learner.mesh.shape
    weights = parameters / (mesh["tensor"] * mesh["expert"])
    within = gpu.link_bandwidth if learner.mesh.size <= NODE else NETWORK_BANDWIDTH
    fsdp_bandwidth = gpu.link_bandwidth if mesh["fsdp"] * mesh["tensor"] <= NODE else NETWORK_BANDWIDTH
    fsdp_share, data_share = (1 - 1 / mesh[axis] for axis in ("fsdp", "data"))
    gathered = (2 * 2 + 4) * weights * fsdp_share / fsdp_bandwidth
    summed = 2 * 4 * weights / mesh["fsdp"] * data_share / within
    return microbatches * (gathered + summed)
