"""Linear recurrences with decay, in chunks of matrix products: what Mamba-2 and RWKV have in common.

The state of a head is a matrix ``S_t`` [H, P], and

    S_t = diag(a_t) S_(t-1) + k_t v_t^T         y_t = q_t^T S_t                           (state space)
                                                y_t = q_t^T (S_(t-1) + diag(u) k_t v_t^T)   (with a bonus u)

with decays ``0 < a_t <= 1``, one a head (Mamba-2: Dao & Gu 2024, section 6) or one a channel (RWKV-6:
Peng et al. 2024, section 4). Within a chunk the recurrence is masked attention with weights ``prod a``; the state is
carried from chunk to chunk. Decays are used as logarithms, and only in differences that are not positive, so nothing
overflows. The state is reset at the first token of a document.

Axes: C tokens of a chunk (of `shifted`: channels), P width of a value, W taps or the tokens before, S tokens that
are read.
"""

import jax
import jax.numpy as jnp


def linear_recurrence(
    query_BTNH: jax.Array,
    key_BTNH: jax.Array,
    value_BTNP: jax.Array,
    log_decay: jax.Array,
    *,
    begins_BT: jax.Array,
    state_BNHP: jax.Array | None = None,
    bonus_NH: jax.Array | None = None,
    chunk: int = 64,
) -> tuple[jax.Array, jax.Array]:
    """Computes the recurrence of the module's docstring; returns its outputs and its last state.

    Args:
      query_BTNH: reads the state; the arithmetic is float32.
      key_BTNH: the rows of the state to which a token writes.
      value_BTNP: the values that a token writes.
      log_decay: ``log a_t``, not positive: [B, T, N, 1] for one decay a head, [B, T, N, H] for one a channel.
      begins_BT: bool, the first token of each document.
      state_BNHP: the state before the first token; zero when ``None``.
      bonus_NH: ``u``; ``None`` reads the state after the token is written to it.
      chunk: number of tokens computed together; with a decay for each channel, memory grows with it.

    Returns:
      ``y`` [B, T, N, P] and the state after the last token [B, N, H, P], float32.
    """
    batch, length, num_heads, width = query_BTNH.shape
    chunk = min(chunk, length)
    padding = -length % chunk

    def cut(array: jax.Array) -> jax.Array:
        """Cuts [B, T, ...] to [chunks, B, C, ...]; padding neither writes to the state nor decays it."""
        array = jnp.pad(array, ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2))
        return array.reshape(batch, -1, chunk, *array.shape[2:]).swapaxes(0, 1)

    empty_BNHP = jnp.zeros((batch, num_heads, width, value_BTNP.shape[-1]), jnp.float32)
    floats = tuple(cut(array.astype(jnp.float32)) for array in (query_BTNH, key_BTNH, value_BTNP, log_decay))

    def body(state_BNHP: jax.Array, part) -> tuple[jax.Array, jax.Array]:
        return _chunk(state_BNHP, *part, bonus_NH=bonus_NH)

    first_BNHP = empty_BNHP if state_BNHP is None else state_BNHP
    last_BNHP, out = jax.lax.scan(body, first_BNHP, (*floats, cut(begins_BT)))
    out_BTNP = out.swapaxes(0, 1).reshape(batch, length + padding, num_heads, -1)
    return out_BTNP[:, :length], last_BNHP


def _chunk(
    state_BNHP: jax.Array,
    query_BCNH: jax.Array,
    key_BCNH: jax.Array,
    value_BCNP: jax.Array,
    log_decay: jax.Array,
    begins_BC: jax.Array,
    *,
    bonus_NH: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Computes a chunk: its tokens read each other and the state; returns the state after it, and the outputs."""
    document_BC = jnp.cumsum(begins_BC, axis=1)
    decayed = jnp.cumsum(log_decay, axis=1)
    # With a bonus a token reads the state before its own decay and writing.
    seen = decayed if bonus_NH is None else decayed - log_decay
    order = jnp.tril(jnp.ones((begins_BC.shape[1],) * 2, bool), 0 if bonus_NH is None else -1)
    visible_BCS = order[None] & (document_BC[:, :, None] == document_BC[:, None, :])
    # Where nothing is visible, the difference may be positive and its exponential infinite.
    between = jnp.where(visible_BCS[..., None, None], seen[:, :, None] - decayed[:, None, :], -jnp.inf)
    if log_decay.shape[-1] == 1:
        scores_BCSN = jnp.einsum("bcnh,bsnh->bcsn", query_BCNH, key_BCNH) * jnp.exp(between[..., 0])
    else:
        scores_BCSN = jnp.einsum("bcnh,bsnh,bcsnh->bcsn", query_BCNH, key_BCNH, jnp.exp(between))
    out_BCNP = jnp.einsum("bcsn,bsnp->bcnp", scores_BCSN, value_BCNP)
    if bonus_NH is not None:
        own_BCN = jnp.einsum("bcnh,bcnh,nh->bcn", query_BCNH, key_BCNH, bonus_NH)
        out_BCNP = out_BCNP + own_BCN[..., None] * value_BCNP
    # Only a document that began before the chunk reads the state from before it.
    goes_on_BC11 = (document_BC == 0)[..., None, None]
    from_state = jnp.where(goes_on_BC11, jnp.exp(seen), 0.0)
    out_BCNP = out_BCNP + jnp.einsum("bcnh,bnhp->bcnp", query_BCNH * from_state, state_BNHP)
    stays_BC11 = (document_BC == document_BC[:, -1:])[..., None, None]
    to_end = jnp.where(stays_BC11, jnp.exp(decayed[:, -1:] - decayed), 0.0)
    written_BNHP = jnp.einsum("bsnh,bsnp->bnhp", key_BCNH * to_end, value_BCNP)
    kept_BN1 = jnp.where(goes_on_BC11[:, -1], jnp.exp(decayed[:, -1]), 0.0)
    return state_BNHP * kept_BN1[..., None] + written_BNHP, out_BCNP


def shifted(
    x_BTC: jax.Array, positions_BT: jax.Array, taps: int, *, before_BWC: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the last ``taps`` tokens of the same document at each position, for short convolutions and token shift.

    Args:
      x_BTC: any features.
      positions_BT: position of each token in its document; tokens before position 0 are zero.
      taps: number of tokens, the token itself included; at least 2.
      before_BWC: the ``taps - 1`` tokens before the first; zero when ``None``.

    Returns:
      [B, T, taps, C], the oldest first; and the last ``taps - 1`` tokens, for the next call.
    """
    if before_BWC is None:
        before_BWC = jnp.zeros((x_BTC.shape[0], taps - 1, x_BTC.shape[2]), x_BTC.dtype)
    line_BSC = jnp.concatenate([before_BWC.astype(x_BTC.dtype), x_BTC], axis=1)
    length = x_BTC.shape[1]
    window = jnp.stack([line_BSC[:, tap : tap + length] for tap in range(taps)], axis=2)
    age_11W = (taps - 1 - jnp.arange(taps))[None, None, :]
    inside_BTW = age_11W <= positions_BT[:, :, None]
    return jnp.where(inside_BTW[..., None], window, 0), line_BSC[:, length:]
