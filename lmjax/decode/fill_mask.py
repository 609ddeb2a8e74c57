"""What an encoder would put in the place of masks: the most likely tokens, with their probabilities."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.logits import only_ids
from lmjax.decode.prompts import padded
from lmjax.models.hidden import Hidden
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.models.with_extras import model_of
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.types import make_stream


def fill_mask(
    spec: ModuleSpec,
    params: Params,
    texts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    top: int,
    hidden: Callable[..., Hidden] | None = None,
) -> list[list[list[tuple[int, float]]]]:
    """Returns for each mask of each text its most likely tokens and their probabilities, the likeliest first.

    All masks of a text are seen at the same time, so each is judged with the others still masked.

    Args:
      spec: the module, which reads in both directions.
      params: its parameters.
      texts: token ids, with masks among them.
      vocabulary: for the id of the mask and the number of real ids.
      top: the number of tokens to return.
      hidden: how to run a model that is told the noise level (``MaskedDiffusion.hidden``); None for other models.

    Raises:
      ValueError: the tokenizer has no mask token.
    """
    mask_id = vocabulary.require("mask", needed_by="fill_mask")
    tokens_BT, lengths_B = padded(texts)
    ids_BTK, probability_BTK = map(
        np.asarray,
        _candidates(
            params,
            tokens_BT,
            lengths_B,
            spec=spec,
            num_ids=vocabulary.size,
            mask_id=mask_id,
            top=min(top, vocabulary.size),
            hidden=hidden,
        ),
    )
    return [
        [
            list(zip(ids_BTK[row, place].tolist(), probability_BTK[row, place].tolist(), strict=True))
            for place, token_id in enumerate(text)
            if token_id == mask_id
        ]
        for row, text in enumerate(texts)
    ]


@functools.partial(jax.jit, static_argnames=("spec", "num_ids", "mask_id", "top", "hidden"))
def _candidates(
    params: Params,
    tokens_BT: jax.Array,
    lengths_B: jax.Array,
    *,
    spec: ModuleSpec,
    num_ids: int,
    mask_id: int,
    top: int,
    hidden: Callable[..., Hidden] | None,
) -> tuple[jax.Array, jax.Array]:
    model: Any = spec.bind(params)
    is_real_BT = jnp.arange(tokens_BT.shape[1])[None, :] < lengths_B[:, None]
    stream = make_stream(tokens_BT, is_real_BT.astype(jnp.int32), "bidirectional")
    if hidden is None:
        states_BTD = model(stream).states_BTD
    else:
        level_B = jnp.sum((tokens_BT == mask_id) & is_real_BT, axis=1) / lengths_B
        states_BTD = hidden(model, stream, level_B.astype(jnp.float32), None).states_BTD
    logits_BTV = only_ids(model_of(model).logits(states_BTD), num_ids)
    probability_BTK, ids_BTK = jax.lax.top_k(jax.nn.softmax(logits_BTV, axis=-1), top)
    return ids_BTK, probability_BTK
