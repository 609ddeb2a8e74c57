"""Sampling from masked diffusion: begin with masks, and replace some of them in each step.

The reverse of the noising process (MDLM: Sahoo et al. 2024, section 3.2.2). From time t to s < t each
mask becomes a token of the model's distribution with probability ``(m(t) - m(s)) / m(t)``, m the
share masked; a token once written stays. With ``order="confidence"`` the same number of tokens is
written where the model is surest (MaskGIT: Chang et al. 2022, section 3.2).

Axes: N positions of all rows in one line.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.logits import SamplingConfig, choose
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives.masked_diffusion import EXCLUDED, SCHEDULES, MaskedDiffusion
from lmjax.objectives.parts.logit_chunks import gathered_head
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import make_stream

Order = Literal["random", "confidence"]


def unmask(
    spec: ModuleSpec,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    objective: MaskedDiffusion,
    vocabulary: Vocabulary,
    length: int,
    num_steps: int,
    sampling: SamplingConfig,
    order: Order = "random",
    seed: int = 0,
) -> list[list[int]]:
    """Rows of ``length`` tokens that begin with the prompts; masks in a prompt are filled in as well.

    Args:
      spec: the module a :class:`MaskedDiffusion` trained.
      params: its parameters.
      prompts: token ids, none or more each.
      objective: what it was trained with.
      vocabulary: special ids.
      length: tokens of a row, prompt included.
      num_steps: times the model is run; as many as there are masks is best, fewer is faster.
      sampling: how to choose a token; penalties of repetition look back, and there is no back here.
      order: which masks go first.
      seed: of the random choices.

    Returns:
      The whole rows, prompts included.

    Raises:
      ValueError: a prompt is longer than the row, or an option is impossible.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: must be at least 1")
    if order not in ("random", "confidence"):
        raise ValueError(f"order={order!r}: use random or confidence")
    mask_id = vocabulary.require("mask", needed_by=type(objective).__name__)
    tokens_BT = np.full((len(prompts), length), mask_id, np.int32)
    for row, prompt in zip(tokens_BT, prompts, strict=True):
        if len(prompt) > length:
            raise ValueError(f"the prompt has {len(prompt)} tokens, the row {length}: shorten it, or ask for more")
        row[: len(prompt)] = prompt
    rows_BT = _unmask(
        params,
        tokens_BT,
        jax.random.key(seed),
        spec=spec,
        objective=objective,
        num_ids=vocabulary.size,
        mask_id=mask_id,
        num_steps=num_steps,
        sampling=sampling,
        order=order,
    )
    return np.asarray(rows_BT).tolist()


@functools.partial(
    jax.jit, static_argnames=("spec", "objective", "num_ids", "mask_id", "num_steps", "sampling", "order")
)
def _unmask(
    params: Params,
    tokens_BT: jax.Array,
    key: jax.Array,
    *,
    spec: ModuleSpec,
    objective: MaskedDiffusion,
    num_ids: int,
    mask_id: int,
    num_steps: int,
    sampling: SamplingConfig,
    order: Order,
) -> jax.Array:
    model = spec.bind(params)
    head = gathered_head(model)
    is_masked_BT = tokens_BT == mask_id
    num_masks_B = is_masked_BT.sum(axis=1)
    times = jnp.linspace(1.0, 0.0, num_steps + 1)
    # At time 0 the noise may be a little over nothing; the last step leaves no mask.
    levels = SCHEDULES[objective.schedule](times).hidden.at[-1].set(0.0)

    def propose(tokens_BT: jax.Array, level: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A token for every position, and how sure the model is of it."""
        stream = make_stream(tokens_BT, None, "bidirectional")
        level_B = jnp.full((tokens_BT.shape[0],), level)
        logits_BTV = head(objective.hidden(model, stream, level_B, None).states_BTD)
        index_11V = jnp.arange(logits_BTV.shape[-1])[None, None, :]
        logits_BTV = jnp.where((index_11V >= num_ids) | (index_11V == mask_id), EXCLUDED, logits_BTV)
        flat_NV = logits_BTV.reshape(-1, logits_BTV.shape[-1])
        proposed_BT = choose(key, flat_NV, sampling).reshape(tokens_BT.shape)
        log_p_BTV = jax.nn.log_softmax(logits_BTV)
        return proposed_BT, jnp.take_along_axis(log_p_BTV, proposed_BT[..., None], axis=-1)[..., 0]

    def step(index: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        token_key, place_key = jax.random.split(jax.random.fold_in(key, index))
        now, then = levels[index], levels[index + 1]
        proposed_BT, sureness_BT = propose(tokens_BT, now, token_key)
        masked_BT = tokens_BT == mask_id
        if order == "random":
            written_BT = masked_BT & (jax.random.uniform(place_key, tokens_BT.shape) * now < now - then)
        else:
            left_B = jnp.round(num_masks_B * then / levels[0]).astype(jnp.int32)
            sureness_BT = jnp.where(masked_BT, sureness_BT, -jnp.inf)
            rank_BT = jnp.argsort(jnp.argsort(-sureness_BT, axis=1), axis=1)
            written_BT = masked_BT & (rank_BT < (masked_BT.sum(axis=1) - left_B)[:, None])
        return jnp.where(written_BT | (masked_BT & (then == 0)), proposed_BT, tokens_BT)

    return jax.lax.fori_loop(0, num_steps, step, tokens_BT)
