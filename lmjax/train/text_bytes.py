"""Counts the bytes of text that scored tokens stand for: the denominator of bits per byte, if it is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.data.rows.shard_reader import TokenShards, open_shards
from lmjax.tokenizers.vocabulary import Vocabulary
from lmjax.train.corpus import Corpus

_TOKENS_AT_ONCE = 1 << 22


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBytes:
    """The facts that are known about the bytes of a split.

    Attributes:
      exact_table: whether the vocabulary's bytes per token add up to the bytes of the text.
      num_tokens: number of tokens of text in the split, without special tokens; None if it is not known.
      num_bytes: number of UTF-8 bytes of its text.
    """

    exact_table: bool = True
    num_tokens: int | None = None
    num_bytes: int = 0

    def of(self, totals: dict[str, float]) -> float | None:
        """Returns the number of bytes of the scored text, weighted as its nats are; None if it is not known.

        Args:
          totals: the sums of :meth:`lmjax.train.step.Learner.eval_step`.
        """
        if self.exact_table:
            return totals.get("bytes") or None
        # If every token of the text was scored once with weight 1, the scored bytes are those of the text.
        complete = self.num_tokens is not None and totals.get("plain_tokens") == self.num_tokens
        return self.num_bytes if complete else None


WHY_NONE = (
    "no bits per byte: the tokenizer does not give back every text, so its tokens do not tell the bytes of the text, "
    "and not every token of it was scored with weight 1"
)


def text_bytes(corpus: Corpus, split: str) -> TextBytes:
    """Returns the known facts about the bytes of a split of one source.

    It reads the tokens if the tokenizer alone does not tell.
    """
    vocabulary = corpus.tokenizer.vocabulary
    if vocabulary.exact_bytes:
        return TextBytes()
    shards = open_shards(corpus.folder, split, verify="never", cache_gigabytes=corpus.config.cache_gigabytes)
    if _table_bytes(shards, vocabulary) == shards.text_bytes:
        return TextBytes()
    return TextBytes(exact_table=False, num_tokens=_text_tokens(shards), num_bytes=shards.text_bytes)


def text_counts(vocabulary: Vocabulary, targets_BP: jax.Array, weights_BP: jax.Array) -> dict[str, jax.Array]:
    """Returns how many bytes and tokens of text the scored targets stand for.

    ``bytes`` is weighted as the nats are; ``scored_bytes`` and ``scored_tokens`` are not weighted. ``plain_tokens``
    counts the tokens of text whose weight is 1.
    """
    is_text_V = np.ones(vocabulary.size, bool)
    is_text_V[[i for i in vocabulary.special_ids if i != vocabulary.unk_id]] = False
    bytes_BP = jnp.asarray(vocabulary.byte_length_V, jnp.int32)[targets_BP]
    scored_BP = weights_BP > 0
    return {
        "bytes": jnp.sum(bytes_BP * weights_BP),
        "scored_bytes": jnp.sum(jnp.where(scored_BP, bytes_BP, 0)),
        "scored_tokens": jnp.sum(scored_BP, dtype=jnp.int32),
        "plain_tokens": jnp.sum(jnp.asarray(is_text_V)[targets_BP] & (weights_BP == 1), dtype=jnp.int32),
    }


def _table_bytes(shards: TokenShards, vocabulary: Vocabulary) -> int:
    byte_length_V = np.asarray(vocabulary.byte_length_V, np.int64)
    total = 0
    for start in range(0, shards.num_tokens, _TOKENS_AT_ONCE):
        tokens_T = np.empty(min(_TOKENS_AT_ONCE, shards.num_tokens - start), np.int64)
        shards.read_tokens(start, tokens_T)
        total += int(byte_length_V[tokens_T].sum())
    return total


def _text_tokens(shards: TokenShards) -> int | None:
    settings = shards.manifest.settings
    if settings.get("fim_rate"):
        return None
    around = bool(settings.get("add_bos")) + bool(settings.get("add_eos"))
    return shards.num_tokens - around * shards.num_documents
