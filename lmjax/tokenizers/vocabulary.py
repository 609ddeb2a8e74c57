"""The facts that training needs about a tokenizer: size, special ids, bytes per token, word starts."""

import dataclasses

import numpy as np

from lmjax.tokenizers.special import role_of


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """The token-id facts that objectives, losses and evaluation need, as static data.

    If a tokenizer lacks a special token, its id is ``None``. An objective that needs the token
    raises an error at start-up (:meth:`require`).

    Attributes:
      size: number of ids, special ones included; ids are ``0 .. size - 1``.
      pad_id, bos_id, eos_id, mask_id, cls_id, sep_id, unk_id: special ids.
      sentinel_ids: T5 sentinels in the order they are used (``<extra_id_0>`` first).
      named_ids: ids of all other special tokens, by their text (``"<fim_prefix>"``, ``"[NLU]"`` ...).
      byte_length_V: int32 [V], number of UTF-8 bytes of text that each id stands for; 0 for special ids.
      exact_bytes: whether ``byte_length_V`` adds up to the bytes of every text.
      word_start_V: bool [V], whether a token begins a word; ``None`` when the tokenizer cannot tell.
        A word is whitespace and the text after it up to the next whitespace, so a token begins a word if and only if
        its text begins with whitespace; a special token always begins one. The first token of a text also begins a
        word, but because of its position, which a table cannot say. (In WordPiece, tokens not written ``##`` begin a
        word. For Chinese and Japanese see :mod:`lmjax.tokenizers.words`.)
      word_end_V: bool [V], whether a token ends a word, so that the next one begins another.
      sentence_end_V: bool [V], whether a sentence ends with a token: its text ends in a full stop or a similar
        mark, perhaps followed by closing quotes or brackets. ``None`` when the tokenizer cannot tell.
      fingerprint: hex digest of everything that decides the ids.
    """

    size: int
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    mask_id: int | None = None
    cls_id: int | None = None
    sep_id: int | None = None
    unk_id: int | None = None
    sentinel_ids: tuple[int, ...] = ()
    named_ids: dict[str, int] = dataclasses.field(default_factory=dict)
    byte_length_V: np.ndarray
    exact_bytes: bool = True
    word_start_V: np.ndarray | None = None
    word_end_V: np.ndarray | None = None
    sentence_end_V: np.ndarray | None = None
    fingerprint: str = ""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """All special ids, ascending. They are never masked, and never sampled as replacements."""
        single = (self.pad_id, self.bos_id, self.eos_id, self.mask_id, self.cls_id, self.sep_id, self.unk_id)
        several = {*self.sentinel_ids, *self.named_ids.values()}
        return tuple(sorted({token_id for token_id in single if token_id is not None} | several))

    def require(self, name: str, *, needed_by: str) -> int:
        """Returns the special id of a role (``"mask"``, ``"eos"``, ...) or of a token's name.

        Raises:
          ValueError: this tokenizer has no such token.
        """
        token_id = self.named_ids.get(name, getattr(self, f"{role_of(name) or name}_id", None))
        if token_id is None:
            raise ValueError(
                f"{needed_by} needs a {name!r} token and the tokenizer has none: "
                f"add it to tokenizer.special_tokens, or use another tokenizer"
            )
        return token_id
