"""The inside of the fused head and loss: chunks of tokens on one device, and their place on the mesh.

:mod:`lmjax.losses.linear` says what is computed. One function here returns the losses alone; the other returns the
losses and the gradients of their weighted sum. JAX never differentiates either of them.

Axes: N tokens of all rows in one line, C tokens of a chunk.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lmjax.parallel.mesh import MESH_AXES, axes_of, current_platform, partition_spec

NOTHING = -1
"""The target that is not scored; a target of V (the size of the vocabulary) or more gives NaN."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The options of a call that are known while it is traced."""

    softcap: float | None
    on_target: float
    spread: float
    z_loss: float
    chunk_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Mesh axes the tokens, the vocabulary, and the rows of the head's gradient are split over."""

    batch: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()
    embed: tuple[str, ...] = ()


def losses_only(
    loss: Loss, hidden_ND: jax.Array, head_DV: jax.Array, bias_V: jax.Array | None, targets_N: jax.Array
) -> jax.Array:
    """Returns the losses [N] without gradients, at the cost of one matrix product for each chunk."""
    layout = _layout(hidden_ND.shape[0], head_DV.shape)

    def local(hidden_ND, head_DV, bias_V, targets_N):
        head_DV = head_DV.astype(hidden_ND.dtype)

        def chunk(_, hidden_CD, targets_C):
            return None, _chunk_losses(loss, layout, hidden_CD, head_DV, bias_V, targets_C)[0]

        return _scan_chunks(chunk, None, loss.chunk_size, hidden_ND, targets_N)[1]

    tokens = PartitionSpec(layout.batch)
    in_specs = (tokens, PartitionSpec(None, layout.vocab), PartitionSpec(layout.vocab), tokens)
    return _on_mesh(local, layout, in_specs, tokens)(hidden_ND, head_DV, bias_V, targets_N)


def losses_and_gradients(
    loss: Loss,
    hidden_ND: jax.Array,
    head_DV: jax.Array,
    bias_V: jax.Array | None,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Returns the losses [N] and the gradients of their weighted sum with respect to hidden states, head and bias."""
    layout = _layout(hidden_ND.shape[0], head_DV.shape)

    def local(hidden_ND, head_DV, bias_V, targets_N, weights_N):
        dtype = hidden_ND.dtype
        compute_DV = head_DV.astype(dtype)

        def chunk(sums, hidden_CD, targets_C, weights_C):
            losses_C, logits_CV, log_normaliser_C, local_C = _chunk_losses(
                loss, layout, hidden_CD, compute_DV, bias_V, targets_C
            )
            d_logits_CV = _logits_gradient(loss, logits_CV, log_normaliser_C, local_C, weights_C)
            # A position without weight may hold NaN or infinity, and 0 times either is NaN.
            counts_C1 = (weights_C != 0)[:, None]
            d_logits_CV = jnp.where(counts_C1, d_logits_CV, 0.0)
            hidden_CD = jnp.where(counts_C1, hidden_CD, 0.0)
            d_head_DV, d_bias_V = sums
            if d_bias_V is not None:
                d_bias_V += jnp.sum(d_logits_CV, axis=0)
            d_logits_CV = d_logits_CV.astype(dtype)
            if current_platform() == "tpu":
                # Otherwise the compiler makes them anew, from the logits, for each of the two products.
                d_logits_CV = jax.lax.optimization_barrier(d_logits_CV)
            d_hidden_CD = jax.lax.psum(_product("cv,dv->cd", d_logits_CV, compute_DV), layout.vocab)
            d_head_DV += _product("cd,cv->dv", hidden_CD, d_logits_CV)
            return (d_head_DV, d_bias_V), (losses_C, d_hidden_CD.astype(dtype))

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (head_DV, bias_V))
        # Each device sums over its own tokens; without the cast every step of the scan would all-reduce.
        sums = jax.tree.map(lambda x: jax.lax.pcast(x, layout.batch + layout.vocab, to="varying"), zeros)
        (d_head_DV, d_bias_V), (losses_N, d_hidden_ND) = _scan_chunks(
            chunk, sums, loss.chunk_size, hidden_ND, targets_N, weights_N
        )
        d_head_DV = _sum_over_batch(d_head_DV, layout).astype(head_DV.dtype)
        if bias_V is not None:
            d_bias_V = jax.lax.psum(d_bias_V, layout.batch).astype(bias_V.dtype)
        return losses_N, d_hidden_ND, d_head_DV, d_bias_V

    tokens, vocab = PartitionSpec(layout.batch), PartitionSpec(layout.vocab)
    in_specs = (tokens, PartitionSpec(None, layout.vocab), vocab, tokens, tokens)
    out_specs = (tokens, tokens, PartitionSpec(layout.embed, layout.vocab), vocab)
    sharded = _on_mesh(local, layout, in_specs, out_specs)
    return sharded(hidden_ND, head_DV, bias_V, targets_N, weights_N)


def _product(equation: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(equation, *operands, preferred_element_type=jnp.float32)


def _chunk_losses(loss: Loss, layout: Layout, hidden_CD, head_DV, bias_V, targets_C):
    """Returns losses, capped logits, log-normaliser, and the target's index in this device's part of the vocabulary."""
    logits_CV = _product("cd,dv->cv", hidden_CD, head_DV)
    if bias_V is not None:
        logits_CV += bias_V.astype(jnp.float32)[None, :]
    if loss.softcap is not None:
        logits_CV = loss.softcap * jnp.tanh(logits_CV / loss.softcap)
    num_local = logits_CV.shape[1]
    local_C = targets_C - num_local * jax.lax.axis_index(layout.vocab)
    index_C = jnp.clip(local_C, 0, num_local - 1)
    target_C = jnp.take_along_axis(logits_CV, index_C[:, None], axis=1)[:, 0]
    target_C = jax.lax.psum(jnp.where(index_C == local_C, target_C, 0.0), layout.vocab)
    peak_C = jnp.max(logits_CV, axis=1)
    if layout.vocab:  # unlike psum, pmax over no axes is an error inside a shard_map
        peak_C = jax.lax.pmax(peak_C, layout.vocab)
    total_C = jax.lax.psum(jnp.sum(jnp.exp(logits_CV - peak_C[:, None]), axis=1), layout.vocab)
    log_normaliser_C = peak_C + jnp.log(total_C)
    losses_C = log_normaliser_C - loss.on_target * target_C
    if loss.spread:
        losses_C -= loss.spread * jax.lax.psum(jnp.sum(logits_CV, axis=1), layout.vocab)
    if loss.z_loss:
        losses_C += loss.z_loss * jnp.square(log_normaliser_C)
    vocab_size = num_local * jax.lax.axis_size(layout.vocab)
    losses_C = jnp.where(targets_C < vocab_size, losses_C, jnp.nan)
    return jnp.where(targets_C == NOTHING, 0.0, losses_C), logits_CV, log_normaliser_C, local_C


def _logits_gradient(loss: Loss, logits_CV, log_normaliser_C, local_C, weights_C):
    scale_C = weights_C * (1 + 2 * loss.z_loss * log_normaliser_C)
    is_target_CV = jnp.arange(logits_CV.shape[1])[None, :] == local_C[:, None]
    flat_CV = jnp.where(is_target_CV, loss.on_target + loss.spread, loss.spread) * weights_C[:, None]
    d_logits_CV = scale_C[:, None] * jnp.exp(logits_CV - log_normaliser_C[:, None]) - flat_CV
    if loss.softcap is not None:
        d_logits_CV *= 1 - jnp.square(logits_CV / loss.softcap)
    return d_logits_CV


def _scan_chunks(body: Callable, carry, chunk_size: int, *arrays: jax.Array):
    """Scans ``body(carry, *chunks) -> carry, outputs`` over equal chunks of the leading axis.

    The last chunk is filled up with zeros, that is, with tokens of weight 0.
    """
    num_tokens = arrays[0].shape[0]
    num_chunks = max(-(-num_tokens // chunk_size), 1)
    chunk_size = -(-num_tokens // num_chunks)
    num_padding = num_chunks * chunk_size - num_tokens

    def cut(array):
        if num_padding:
            array = jnp.pad(array, [(0, num_padding)] + [(0, 0)] * (array.ndim - 1))
        return jnp.reshape(array, (num_chunks, chunk_size, *array.shape[1:]))

    def uncut(output):
        return jnp.reshape(output, (num_chunks * chunk_size, *output.shape[2:]))[:num_tokens]

    carry, outputs = jax.lax.scan(lambda carry, chunks: body(carry, *chunks), carry, tuple(map(cut, arrays)))
    return carry, jax.tree.map(uncut, outputs)


def _layout(num_tokens: int, head_shape: tuple[int, ...]) -> Layout:
    """Returns the mesh axes to use here; none without a mesh of :mod:`lmjax.parallel.mesh` or inside a shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes or set(mesh.axis_names) != set(MESH_AXES):
        return Layout()
    (batch,) = map(axes_of, partition_spec(("tokens",), (num_tokens,), mesh))
    embed, vocab = map(axes_of, partition_spec(("embed", "vocab"), head_shape, mesh))
    # The rows of the head's gradient can only be scattered over axes that the gradient is summed over.
    return Layout(batch=batch, vocab=vocab, embed=embed if set(embed) <= set(batch) else ())


def _on_mesh(function: Callable, layout: Layout, in_specs, out_specs) -> Callable:
    if not layout.batch and not layout.vocab:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs)


def _sum_over_batch(d_head_DV: jax.Array, layout: Layout) -> jax.Array:
    # Scattered first, so that less is left to sum over the other axes.
    if layout.embed:
        d_head_DV = jax.lax.psum_scatter(d_head_DV, layout.embed, scatter_dimension=0, tiled=True)
    return jax.lax.psum(d_head_DV, tuple(axis for axis in layout.batch if axis not in layout.embed))
