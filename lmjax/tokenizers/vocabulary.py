"""What the trainer must know of a tokenizer: sizes, special ids, bytes per token, word starts."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """The token-id facts that objectives, losses and evaluation need, as static data.

    A tokenizer that lacks a special token leaves its id ``None``; an objective that needs it
    says so at start-up (:meth:`require`).

    Attributes:
      size: number of ids, special ones included; ids are ``0 .. size - 1``.
      pad_id, bos_id, eos_id, mask_id, cls_id, sep_id, unk_id: special ids.
      sentinel_ids: T5 sentinels in the order they are used (``<extra_id_0>`` first).
      named_ids: any further special token by its text (``"<fim_prefix>"``, ``"[NLU]"`` ...).
      byte_length_V: int32 [V], UTF-8 bytes of text each id stands for; 0 for special ids.
      word_start_V: bool [V], whether a token begins a word; ``None`` when the tokenizer cannot tell.
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
    word_start_V: np.ndarray | None = None
    fingerprint: str = ""

    @property
    def special_ids(self) -> tuple[int, ...]:
        """All special ids, ascending: never masked, never sampled as replacements."""
        single = (self.pad_id, self.bos_id, self.eos_id, self.mask_id, self.cls_id, self.sep_id, self.unk_id)
        return tuple(sorted({i for i in single if i is not None} | {*self.sentinel_ids, *self.named_ids.values()}))

    def require(self, name: str, *, needed_by: str) -> int:
        """The special id called ``name`` (``"mask"``, ``"eos"``, ...), or a clear refusal.

        Raises:
          ValueError: this tokenizer has no such token.
        """
        token_id = getattr(self, f"{name}_id", None) if not name.startswith(("<", "[")) else self.named_ids.get(name)
        if token_id is None:
            raise ValueError(
                f"{needed_by} needs a {name!r} token and the tokenizer has none: "
                f"add it to tokenizer.special_tokens, or use another tokenizer"
            )
        return token_id
