"""The options of sampling, and the choice of a token by them."""

import dataclasses

import jax
import jax.numpy as jnp

from lmjax.corruption.gumbel import gumbel_sample
from lmjax.decode.logits.biases import allow_tokens, ban_tokens, logit_bias
from lmjax.decode.logits.checks import CHECKS, check_value
from lmjax.decode.logits.narrowing import epsilon_cutoff, min_p, temperature, top_k, top_p, typical_p
from lmjax.decode.logits.penalties import frequency_presence, no_repeat_ngram, repetition_penalty


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen.

    Biases and exclusions come first, then penalties, then the temperature, then what narrows the choice, in the order
    of these fields.
    """

    temperature: float = 1.0
    """Divides the logits; 0 always takes the most likely token."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids and what is added to their logits."""
    allowed_tokens: tuple[int, ...] | None = None
    """Choose among tokens of these ids only."""
    banned_tokens: tuple[int, ...] = ()
    """Never choose a token of these ids."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens in the prompt or the text (multiplies negative ones); above 1 discourages."""
    frequency_penalty: float = 0.0
    """What is subtracted from a token's logit for every time it was chosen."""
    presence_penalty: float = 0.0
    """What is subtracted from a token's logit once it was chosen."""
    no_repeat_ngram: int | None = None
    """Never repeat a sequence of so many tokens; sequences of the prompt count too."""
    top_k: int | None = None
    """Choose among the k most likely tokens only."""
    top_p: float | None = None
    """Choose among the most likely tokens that together have this probability."""
    top_p_least: int = 1
    """The fewest tokens that top_p leaves to choose among."""
    top_p_most: int | None = None
    """The most tokens that top_p leaves to choose among."""
    min_p: float | None = None
    """Choose among tokens that are at least this many times as likely as the most likely one."""
    typical_p: float | None = None
    """Choose among the tokens of nearest to average surprise that together have this probability."""
    epsilon: float | None = None
    """Choose among tokens of at least this probability."""

    def __post_init__(self):
        if self.temperature != 0:
            check_value("temperature", self.temperature)
        for _, bias in self.logit_bias:
            check_value("logit_bias", bias)
        for name in CHECKS.keys() - {"temperature", "logit_bias"}:
            if getattr(self, name) is not None:
                check_value(name, getattr(self, name))
        if self.top_p is None and (self.top_p_least, self.top_p_most) != (1, None):
            raise ValueError(
                f"top_p_least={self.top_p_least} and top_p_most={self.top_p_most} are bounds on what top_p leaves: "
                "set top_p too"
            )
        if self.top_p_most is not None and self.top_p_most < self.top_p_least:
            raise ValueError(f"top_p_most={self.top_p_most}: must be at least top_p_least={self.top_p_least}")
        if self.allowed_tokens is not None and not set(self.allowed_tokens) - set(self.banned_tokens):
            raise ValueError(
                f"allowed_tokens={self.allowed_tokens} with banned_tokens={self.banned_tokens}: "
                "no token is left to choose"
            )

    def check_ids(self, num_ids: int) -> None:
        """Refuses ids that the tokenizer does not have.

        Args:
          num_ids: the size of its vocabulary.

        Raises:
          ValueError: naming the field and the id.
        """
        biased = tuple(token_id for token_id, _ in self.logit_bias)
        named = {"logit_bias": biased, "allowed_tokens": self.allowed_tokens, "banned_tokens": self.banned_tokens}
        for name, ids in named.items():
            if outside := [token_id for token_id in ids or () if not 0 <= token_id < num_ids]:
                raise ValueError(f"{name}: token id {outside[0]} is not in the tokenizer's vocabulary of {num_ids}")
        if len(set(self.banned_tokens)) == num_ids:
            raise ValueError(f"banned_tokens names all {num_ids} ids: no token is left to choose")


def only_ids(logits: jax.Array, num_ids: int | jax.Array) -> jax.Array:
    """Excludes the rows of a model's table beyond the ``num_ids`` ids of its tokenizer: they stand for nothing."""
    is_id = (jnp.arange(logits.shape[-1]) < num_ids).reshape((1,) * (logits.ndim - 1) + (-1,))
    return jnp.where(is_id, logits, -jnp.inf)


def restrict(logits: jax.Array, config: SamplingConfig, *, num_ids: int) -> jax.Array:
    """Applies what ``config`` says of given tokens, and excludes what is no token.

    Args:
      logits: float32 [..., V].
      config: what to apply.
      num_ids: the size of the tokenizer's vocabulary.
    """
    logits = only_ids(logits, num_ids)
    if config.logit_bias:
        logits = logit_bias(logits, config.logit_bias)
    if config.allowed_tokens is not None:
        logits = allow_tokens(logits, config.allowed_tokens)
    if config.banned_tokens:
        logits = ban_tokens(logits, config.banned_tokens)
    return logits


def penalize(
    logits: jax.Array,
    config: SamplingConfig,
    *,
    previous: jax.Array,
    prompt_length: jax.Array,
    length: jax.Array,
    pad_id: int | None = None,
) -> jax.Array:
    """Applies the part of ``config`` that looks back at the text.

    Args:
      logits: float32 [..., V].
      config: what to apply.
      previous: int32 [..., S], the prompt and the text so far.
      prompt_length: int [...], the number of its tokens that are the prompt.
      length: int [...], the number of its tokens in all.
      pad_id: the id of padding, which is never counted; None where there is none.
    """
    if pad_id is not None:
        previous = jnp.where(previous == pad_id, -1, previous)
    if config.repetition_penalty is not None:
        logits = repetition_penalty(logits, previous, config.repetition_penalty, length=length)
    if config.frequency_penalty or config.presence_penalty:
        logits = frequency_presence(
            logits,
            previous,
            frequency=config.frequency_penalty,
            presence=config.presence_penalty,
            begin=prompt_length,
            length=length,
        )
    if config.no_repeat_ngram is not None:
        logits = no_repeat_ngram(logits, previous, config.no_repeat_ngram, length=length)
    return logits


def narrow(logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Applies the temperature and what narrows the choice; with a temperature of 0 one token is left.

    Args:
      logits: float32 [..., V], to which :func:`restrict` and :func:`penalize` were applied.
      config: what to apply.
    """
    if config.temperature == 0:
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        is_best = ids == jnp.argmax(logits, axis=-1, keepdims=True)
        return jnp.where(is_best, 0.0, -jnp.inf)
    logits = temperature(logits, config.temperature)
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = top_p(logits, config.top_p, keep=config.top_p_least, most=config.top_p_most)
    if config.min_p is not None:
        logits = min_p(logits, config.min_p)
    if config.typical_p is not None:
        logits = typical_p(logits, config.typical_p)
    if config.epsilon is not None:
        logits = epsilon_cutoff(logits, config.epsilon)
    return logits


def choose(key: jax.Array, logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Chooses a token of each distribution.

    Args:
      key: one PRNG key, or an array [B] of keys, one for each row; a row's choice then depends on its key alone.
      logits: float32 [..., V], or [B, ..., V], to which :func:`restrict` and :func:`penalize` were applied.
      config: what else to apply; with a temperature of 0 the most likely token is taken.

    Returns:
      int32 [...] or [B, ...], the token ids.
    """
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return (gumbel_sample if key.ndim == 0 else jax.vmap(gumbel_sample))(key, narrow(logits, config))
