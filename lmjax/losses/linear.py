"""Head and cross entropy in one: the loss of hidden states, without ever holding all the logits.

The logits of a chunk of tokens are made, turned into losses *and*, when differentiated, into the
gradients of hidden states and head at once, and dropped. For a sum of weighted losses the
gradient needs nothing from further up but a scalar, so the forward pass can do all of it:

    d logits = weight ((1 + 2 z_loss lse) softmax(logits) - a onehot(target) - b)

with the a, b of :mod:`lmjax.losses.token`. This takes two matrix products more than the loss alone, and computes none
twice (Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models", is the kernel form of this). Under
``jax.set_mesh`` with the axes of :mod:`lmjax.parallel.mesh`, tokens are split over the batch axes and the vocabulary
over the tensor axis; the head is gathered once before the chunks and its gradient reduced once after them.

Axes: N tokens of all rows in one line.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lmjax.integers import as_int32
from lmjax.losses.chunks import NOTHING, Loss, losses_and_gradients, losses_only
from lmjax.losses.token import Smoothing, smoothing_weights
from lmjax.parallel.mesh import current_platform, flatten_tokens, unflatten_tokens
from lmjax.types import IGNORE_INDEX

CHUNK_LOGITS = 2**24
"""Logits in a chunk by default: 64 MiB of float32."""

MIN_CHUNK_TOKENS = {"tpu": 2048, "other": 512}
"""The least number of tokens in a chunk by default, by platform. Each chunk reads and writes the whole gradient of the
head, so with fewer tokens memory bandwidth would limit the speed, not the matrix products.
"""


def linear_cross_entropy(
    hidden: jax.Array,
    head: jax.Array,
    targets: ArrayLike,
    weights: ArrayLike,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "uniform",
    z_loss: float = 0.0,
    chunk_size: int | None = None,
) -> jax.Array:
    """``sum(weights * cross_entropy(hidden @ head + bias, targets))`` in chunks of tokens.

    The gradient is computed in the forward pass, so a ``jax.checkpoint`` around this function
    would do the work twice. The gradient of ``weights`` is the unreduced losses.

    The loss in chunks is in the manner of Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models".

    Args:
      hidden: [..., D]; its dtype is that of the matrix products, which accumulate in float32.
      head: [D, V] (a tied embedding table is passed as ``table.T``); its gradient is summed in
        float32 and has its dtype.
      targets: integers [...]; where the weight is 0, any value is allowed.
      weights: [...], the weight of each position; where it is 0, hidden states need not be finite.
      bias: [V], added to the logits.
      softcap: logits become ``softcap tanh(logits / softcap)`` (Gemma 2, section 2).
      label_smoothing: as in :func:`lmjax.losses.cross_entropy`, likewise ``smoothing`` and ``z_loss``.
      smoothing: where the smoothed probability goes.
      z_loss: coefficient of the squared log-normaliser.
      chunk_size: tokens (on one device) whose logits exist at a time; by default 64 MiB of logits and
        at least 512 tokens (2,048 on TPUs).

    Returns:
      A float32 scalar; NaN if a position that counts has a target outside [0, V).

    Raises:
      ValueError: shapes that do not match, or a bad option.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> hidden, head = jnp.eye(2), jnp.zeros((2, 4))
      >>> print(losses.linear_cross_entropy(hidden, head, [0, 3], [0.5, 0.5]))  # log 4
      1.3862944
    """
    weights = jnp.asarray(weights, jnp.float32)
    if weights.shape != hidden.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: hidden {hidden.shape} needs weights of shape {hidden.shape[:-1]}, "
            f"not {weights.shape}"
        )
    loss = _make_loss(hidden, head, targets, bias, softcap, label_smoothing, smoothing, z_loss, chunk_size)
    targets = as_int32(targets, "targets")
    in_vocab = (targets >= 0) & (targets < head.shape[1])
    targets_N = _flat_targets(targets, (weights == 0) & ~in_vocab, head.shape[1])
    return _weighted_sum(loss, _flat(hidden, 1), head, bias, targets_N, _flat(weights))


def linear_token_losses(
    hidden: jax.Array,
    head: jax.Array,
    targets: ArrayLike,
    *,
    bias: jax.Array | None = None,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "uniform",
    z_loss: float = 0.0,
    chunk_size: int | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> jax.Array:
    """``cross_entropy(hidden @ head + bias, targets)``, one value a position, in chunks of tokens.

    After Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models".

    For evaluation, and for losses that are not a weighted sum. Differentiating it computes the
    logits a second time; where a weighted sum is all that is wanted, :func:`linear_cross_entropy`
    does not. Arguments are the same, without weights.

    Returns:
      float32 [...], 0 where the target is ``ignore_index``, NaN where it is another id outside [0, V).

    Raises:
      ValueError: shapes that do not match, or a bad option.

    Example:
      >>> import jax.numpy as jnp
      >>> from lmjax import losses
      >>> hidden, head = jnp.eye(2), jnp.zeros((2, 4))
      >>> print(losses.linear_token_losses(hidden, head, [0, -100]))  # log 4, not scored
      [1.3862944 0.       ]
    """
    loss = _make_loss(hidden, head, targets, bias, softcap, label_smoothing, smoothing, z_loss, chunk_size)
    targets = as_int32(targets, "targets")
    targets_N = _flat_targets(targets, targets == ignore_index, head.shape[1])
    losses_N = _token_losses(loss, _flat(hidden, 1), head, bias, targets_N)
    return unflatten_tokens(losses_N, *targets.shape) if targets.ndim == 2 else jnp.reshape(losses_N, targets.shape)


def default_chunk_size(vocab_size: int) -> int:
    """Returns how many tokens on a device have logits at a time, unless something else is asked for."""
    return max(CHUNK_LOGITS // vocab_size, MIN_CHUNK_TOKENS.get(current_platform(), MIN_CHUNK_TOKENS["other"]))


def _make_loss(hidden, head, targets, bias, softcap, label_smoothing, smoothing, z_loss, chunk_size) -> Loss:
    if np.shape(targets) != hidden.shape[:-1]:
        raise ValueError(
            f"linear loss: hidden {hidden.shape} needs targets of shape {hidden.shape[:-1]}, not {np.shape(targets)}"
        )
    if head.ndim != 2 or head.shape[0] != hidden.shape[-1]:
        raise ValueError(
            f"linear loss: hidden {hidden.shape} needs a head [{hidden.shape[-1]}, V], not {head.shape} "
            "(pass table.T for a tied embedding table [V, D])"
        )
    if bias is not None and bias.shape != head.shape[1:]:
        raise ValueError(f"linear loss: head {head.shape} needs a bias {head.shape[1:]}, not {bias.shape}")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"linear loss: softcap={softcap}: must be over 0 and finite, or None for no cap")
    if chunk_size is None:
        chunk_size = default_chunk_size(head.shape[1])
    if chunk_size < 1:
        raise ValueError(f"linear loss: chunk_size={chunk_size}: must be at least 1")
    on_target, spread = smoothing_weights(label_smoothing, smoothing, head.shape[1])
    return Loss(softcap=softcap, on_target=on_target, spread=spread, z_loss=z_loss, chunk_size=chunk_size)


def _flat_targets(targets: jax.Array, ignored: jax.Array, vocab_size: int) -> jax.Array:
    # A negative id that is not ignored gives NaN, as an id past the vocabulary does.
    targets = jnp.where(targets < 0, vocab_size, targets)
    return _flat(jnp.where(ignored, NOTHING, targets))


def _flat(array: jax.Array, num_kept: int = 0) -> jax.Array:
    """Merges all dimensions but the last ``num_kept`` into one, without moving the tokens of [B, T] between devices."""
    if array.ndim == 2 + num_kept:
        return flatten_tokens(array)
    return jnp.reshape(array, (-1, *array.shape[array.ndim - num_kept :]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_sum(loss: Loss, hidden_ND, head_DV, bias_V, targets_N, weights_N):
    return _sum(losses_only(loss, hidden_ND, head_DV, bias_V, targets_N), weights_N)


def _weighted_sum_fwd(loss: Loss, hidden_ND, head_DV, bias_V, targets_N, weights_N):
    losses_N, *gradients = losses_and_gradients(loss, hidden_ND, head_DV, bias_V, targets_N, weights_N)
    # The gradient of a weight is the loss of its position; 0 where the weight is 0 and the loss is not finite.
    d_weights_N = jnp.where((weights_N != 0) | jnp.isfinite(losses_N), losses_N, 0.0)
    return _sum(losses_N, weights_N), (d_weights_N, gradients)


def _weighted_sum_bwd(loss: Loss, residuals, scale):
    d_weights_N, gradients = residuals
    scaled = [None if g is None else (g * scale).astype(g.dtype) for g in gradients]
    return *scaled, None, d_weights_N * scale


def _sum(losses_N: jax.Array, weights_N: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(weights_N == 0, 0.0, weights_N * losses_N))


_weighted_sum.defvjp(_weighted_sum_fwd, _weighted_sum_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_losses(loss: Loss, hidden_ND, head_DV, bias_V, targets_N):
    return losses_only(loss, hidden_ND, head_DV, bias_V, targets_N)


def _token_losses_fwd(loss: Loss, hidden_ND, head_DV, bias_V, targets_N):
    losses_N = losses_only(loss, hidden_ND, head_DV, bias_V, targets_N)
    return losses_N, (hidden_ND, head_DV, bias_V, targets_N)


def _token_losses_bwd(loss: Loss, inputs, cotangent_N):
    hidden_ND, head_DV, bias_V, targets_N = inputs
    weights_N = jnp.where(targets_N == NOTHING, 0.0, cotangent_N)
    _, *gradients = losses_and_gradients(loss, hidden_ND, head_DV, bias_V, targets_N, weights_N)
    return *gradients, None


_token_losses.defvjp(_token_losses_fwd, _token_losses_bwd)
