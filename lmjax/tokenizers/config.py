"""The configuration of a tokenizer: how to train one, or where an existing one lies."""

import dataclasses
from typing import Literal

from lmjax.field_types import check_literals
from lmjax.parallel.paths import refuse_address
from lmjax.tokenizers.special import is_sentinel, sentinel_names

Kind = Literal["bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram", "huggingface", "tiktoken"]

# The smallest sizes that can be trained: the 256 bytes, and SentencePiece's unknown token.
_SMALLEST = {"bpe": 256, "sentencepiece_bpe": 257, "sentencepiece_unigram": 257}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """A tokenizer to train on the corpus, or (with ``path``) one that exists."""

    kind: Kind | None = None
    """Algorithm; None takes what `path` holds, and bytes without a path."""
    vocab_size: int | None = None
    """Ids in all, special ones included; required for a kind that is trained, None otherwise."""
    special_tokens: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", "<mask>", "<cls>", "<sep>")
    """Special tokens by name; their ids follow the ids of text, in this order."""
    named: tuple[str, ...] = ()
    """Further special tokens an objective asks for by name, e.g. <fim_prefix> <fim_middle> <fim_suffix>."""
    num_sentinels: int = 0
    """T5 sentinels, <extra_id_0> first."""
    path: str | None = None
    """An existing tokenizer: a folder of ours, a SentencePiece .model, a Hugging Face tokenizer.json, tiktoken's ranks,
    a tekken.json, or a folder of others with one of these."""
    pattern: str | None = None
    """How text is cut before tiktoken's ranks: gpt2, cl100k, o200k, qwen, or a regular expression; unset for the public
    files, whose names tell it."""
    max_train_bytes: int = 32_000_000
    """Training reads a random sample of at most this many bytes of the corpus, which caps time and memory."""
    seed: int = 0
    """Decides the sample."""

    def __post_init__(self):
        check_literals(self, "tokenizer.")
        refuse_address("tokenizer.path", self.path)
        self._check_names()
        if self.num_sentinels < 0:
            raise ValueError(f"tokenizer.num_sentinels={self.num_sentinels}: must be 0 or more")
        if self.max_train_bytes < 1:
            raise ValueError(f"tokenizer.max_train_bytes={self.max_train_bytes}: must be positive")
        if self.path is None:
            self._check_trainable()

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """The name of every special token, in the order of the ids."""
        return (*self.special_tokens, *self.named, *sentinel_names(self.num_sentinels))

    def _check_names(self) -> None:
        for field in ("special_tokens", "named"):
            for name in getattr(self, field):
                if not name:
                    raise ValueError(f"tokenizer.{field} has an empty name: remove it")
                if is_sentinel(name):
                    raise ValueError(f"tokenizer.{field} has {name!r}: set tokenizer.num_sentinels instead")
        names = (*self.special_tokens, *self.named)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tokenizer.special_tokens and tokenizer.named repeat {repeated}: name each once")

    def _check_trainable(self) -> None:
        num_special = len(self.all_special_tokens)
        if self.kind in ("huggingface", "tiktoken"):
            raise ValueError(f"tokenizer.kind={self.kind!r} is loaded, not trained: set tokenizer.path")
        if self.pattern is not None:
            raise ValueError(f"tokenizer.pattern={self.pattern!r} is for tiktoken's ranks: set tokenizer.path to them")
        if self.kind in (None, "bytes"):
            if self.vocab_size not in (None, 256 + num_special):
                raise ValueError(
                    f"tokenizer.vocab_size={self.vocab_size}: bytes with {num_special} special tokens are "
                    f"{256 + num_special} ids; leave vocab_size None, or set kind to bpe"
                )
            return
        if self.vocab_size is None:
            raise ValueError(f"tokenizer.vocab_size=None: kind {self.kind!r} needs a size, e.g. 32768")
        smallest = _SMALLEST[self.kind] + num_special
        if self.vocab_size < smallest:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size}: kind {self.kind!r} with {num_special} special "
                f"tokens needs at least {smallest}"
            )
