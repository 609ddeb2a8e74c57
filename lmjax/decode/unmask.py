"""Sampling from masked diffusion: rows begin as masks, and each step replaces some of them.

This is the reverse of the noising process (MDLM: Sahoo et al. 2024, section 3.2.2). From time t to s < t each mask
becomes a token of the model's distribution with probability ``(m(t) - m(s)) / m(t)``, where m is the share of masks. A
token stays once it is written. With ``order="confidence"`` the same number of tokens is written at the positions where
the model is surest (MaskGIT: Chang et al. 2022, section 3.2).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.corruption.diffusion import Noise
from lmjax.decode.logits import SamplingConfig, ban_tokens, choose, restrict
from lmjax.decode.prompts import row_keys
from lmjax.models.head import gathered_head
from lmjax.models.hidden import Hidden
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import model_of
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import Stream, make_stream

Order = Literal["random", "confidence"]
Denoise = Callable[[Any, Stream, jax.Array, jax.Array | None], Hidden]
"""A function from the model, a stream, the noise level of each row [B] and a dropout key to the hidden states."""


def unmask(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    hidden: Denoise,
    schedule: Callable[[jax.Array], Noise],
    vocabulary: Vocabulary,
    length: int,
    num_steps: int,
    sampling: SamplingConfig,
    order: Order = "random",
    seed: int = 0,
) -> list[list[int]]:
    """Makes rows of ``length`` tokens that begin with the prompts; masks in a prompt are filled in as well.

    Args:
      spec: the module that a masked diffusion objective trained.
      params: its parameters.
      prompts: token ids, none or more each.
      hidden: how the objective runs the model, see :data:`Denoise`; ``MaskedDiffusion.hidden`` of the objective.
      schedule: the noise at a time, a function of :mod:`lmjax.corruption`; that of the training.
      vocabulary: special ids.
      length: the number of tokens of a row, prompt included.
      num_steps: how often the model is run; as many times as there are masks is best, and fewer times is faster.
      sampling: how to choose a token. Penalties are not applied: text here is not written from left to right.
      order: which masks are replaced first.
      seed: of the random choices. A row depends on the seed and its prompt, not on the other rows.

    Returns:
      The whole rows, prompts included.

    Raises:
      ValueError: a prompt is longer than the row, or an option is impossible.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: must be at least 1")
    if order not in ("random", "confidence"):
        raise ValueError(f"order={order!r}: use random or confidence")
    mask_id = vocabulary.require("mask", needed_by="unmask")
    tokens_BT = np.full((len(prompts), length), mask_id, np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        if len(prompt) > length:
            raise ValueError(f"the prompt has {len(prompt)} tokens, the row {length}: shorten it, or ask for more")
        row[: len(prompt)] = prompt
    sampling.check_ids(vocabulary.size)
    rows_BT = _unmask(
        params,
        tokens_BT,
        row_keys(prompts, seed),
        spec=spec,
        hidden=hidden,
        schedule=schedule,
        num_ids=vocabulary.size,
        mask_id=mask_id,
        num_steps=num_steps,
        sampling=sampling,
        order=order,
    )
    return np.asarray(rows_BT).tolist()


@functools.partial(
    jax.jit, static_argnames=("spec", "hidden", "schedule", "num_ids", "mask_id", "num_steps", "sampling", "order")
)
def _unmask(
    params: Params,
    tokens_BT: jax.Array,
    keys_B: jax.Array,
    *,
    spec: ModuleSpec,
    hidden: Denoise,
    schedule: Callable[[jax.Array], Noise],
    num_ids: int,
    mask_id: int,
    num_steps: int,
    sampling: SamplingConfig,
    order: Order,
) -> jax.Array:
    model = spec.bind(params)
    head = gathered_head(model_of(model))
    is_masked_BT = tokens_BT == mask_id
    num_masks_B = is_masked_BT.sum(axis=1)
    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    # At time 0 the noise may be a little over nothing; the last step leaves no mask.
    levels = schedule(times).hidden.at[-1].set(0.0)

    def propose(tokens_BT: jax.Array, level: jax.Array, keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns a token for every position, and its log-probability."""
        stream = make_stream(tokens_BT, None, "bidirectional")
        level_B = jnp.full((tokens_BT.shape[0],), level)
        logits_BTV = head(hidden(model, stream, level_B, None).states_BTD)
        logits_BTV = ban_tokens(restrict(logits_BTV, sampling, num_ids=num_ids), [mask_id])
        proposed_BT = choose(keys_B, logits_BTV, sampling)
        log_p_BTV = jax.nn.log_softmax(logits_BTV)
        return proposed_BT, jnp.take_along_axis(log_p_BTV, proposed_BT[..., None], axis=-1)[..., 0]

    def step(index: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        token_keys_B, place_keys_B = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index)), out_axes=1)(
            keys_B
        )
        now, then = levels[index], levels[index + 1]
        proposed_BT, sureness_BT = propose(tokens_BT, now, token_keys_B)
        masked_BT = tokens_BT == mask_id
        if order == "random":
            draw_BT = jax.vmap(lambda key: jax.random.uniform(key, tokens_BT.shape[1:]))(place_keys_B)
            written_BT = masked_BT & (draw_BT * now < now - then)
        else:
            left_B = jnp.round(num_masks_B * then / levels[0]).astype(jnp.int32)
            sureness_BT = jnp.where(masked_BT, sureness_BT, -jnp.inf)
            rank_BT = jnp.argsort(jnp.argsort(-sureness_BT, axis=1), axis=1)
            written_BT = masked_BT & (rank_BT < (masked_BT.sum(axis=1) - left_B)[:, None])
        return jnp.where(written_BT | (masked_BT & (then == 0)), proposed_BT, tokens_BT)

    return jax.lax.fori_loop(0, num_steps, step, tokens_BT)
