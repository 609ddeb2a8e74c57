"""How likely texts are to a run's model."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.decode.prompts import padded
from lmjax.losses import IGNORE_INDEX, linear_token_losses
from lmjax.models.parameters import ModuleSpec, Params
from lmjax.objectives.parts.naming_tokens import check_predicts_next
from lmjax.runs.opened import Opened
from lmjax.train.evaluations.token_scores import TOKENS_AT_ONCE
from lmjax.train.prompts import context_ids
from lmjax.types import make_stream


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """How likely a text is.

    Attributes:
      token_ids: the tokens of the text that were scored. Where documents begin with no special token, the first token
        is not among them.
      log_probabilities: float32 [N], the natural logarithm of each token's probability given those before it.
      num_bytes: the number of UTF-8 bytes that the scored tokens stand for.
    """

    token_ids: tuple[int, ...]
    log_probabilities: np.ndarray
    num_bytes: int

    @property
    def log_probability(self) -> float:
        """The natural logarithm of the text's probability."""
        return float(np.sum(self.log_probabilities, dtype=np.float64))

    @property
    def loss(self) -> float:
        """The mean of the negative log-probabilities, in nats a token; NaN where no token was scored."""
        return -self.log_probability / len(self.token_ids) if self.token_ids else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """The negative log-probability in bits, divided by the number of bytes; NaN where no byte was scored."""
        return -self.log_probability / math.log(2) / self.num_bytes if self.num_bytes else math.nan


def score(run: Opened, texts: Sequence[str]) -> list[Score]:
    """Returns the probability of each token of each text, given the tokens before it.

    Args:
      run: a run whose model reads from left to right.
      texts: each is read as the beginning of a document.

    Raises:
      ValueError: the model reads in both directions, has an encoder or was not trained to name tokens; or a text is
        longer than its learned positions.
    """
    check_predicts_next(run.config.objective)
    before = context_ids(run.config.data, run.tokenizer)
    rows = [[*before, *run.tokenizer.encode(text).tolist()] for text in texts]
    for row in rows:
        if run.max_length is not None and len(row) - 1 > run.max_length:
            raise ValueError(
                f"a text of {len(row)} tokens is longer than the {run.max_length} positions the model has learned: "
                f"cut it into parts"
            )
    lengths = [len(row) for row in rows]
    log_probabilities: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for batch in _batches(lengths):
        tokens_BT, lengths_B = padded([rows[number] for number in batch])
        log_p_BT = np.asarray(_log_probabilities(run.model_params, tokens_BT, lengths_B, spec=run.model_spec))
        for number, row in zip(batch, log_p_BT, strict=True):
            log_probabilities[number] = row[: lengths[number] - 1]
    byte_length_V = run.tokenizer.vocabulary.byte_length_V
    return [
        Score(
            token_ids=tuple(row[1:]),
            log_probabilities=own,
            num_bytes=len(text.encode()) if before else int(byte_length_V[row[1:]].sum()),
        )
        for text, row, own in zip(texts, rows, log_probabilities, strict=True)
    ]


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """The numbers of texts that are scored together, by length; texts of one token have nothing to score."""
    order = sorted((n for n, length in enumerate(lengths) if length > 1), key=lambda n: lengths[n])
    batches: list[list[int]] = []
    for number in order:
        width = 1 << (lengths[number] - 1).bit_length()
        if batches and (len(batches[-1]) + 1) * width <= TOKENS_AT_ONCE:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


@functools.partial(jax.jit, static_argnames="spec")
def _log_probabilities(params: Params, tokens_BT: jax.Array, lengths_B: jax.Array, *, spec: ModuleSpec) -> jax.Array:
    """The log-probability of each token after the first, float32 [B, T - 1]."""
    model = spec.bind(params)
    is_real_BT = jnp.arange(tokens_BT.shape[1])[None, :] < lengths_B[:, None]
    stream = make_stream(tokens_BT[:, :-1], is_real_BT[:, :-1].astype(jnp.int32), "causal")
    head = model.head()
    losses_BT = linear_token_losses(
        model.head_states(model(stream).states_BTD),
        head.weight_DV,
        jnp.where(is_real_BT, tokens_BT, IGNORE_INDEX)[:, 1:],
        bias=head.bias_V,
        softcap=head.softcap,
    )
    return -losses_BT
