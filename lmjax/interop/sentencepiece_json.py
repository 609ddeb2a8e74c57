"""Writes a SentencePiece model as a ``tokenizer.json``, where both libraries give the same ids."""

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers

from lmjax.tokenizers.sentence_piece import SPACE, SentencePieceTokenizer

# These have spaces of every kind, digits, scripts, ligatures and combining marks, which a normaliser would change.
_PROBES = (
    "The quick brown fox, 1234 times.",
    "  two  spaces \n and a line\t",
    "naïve café — Ångström ﬁ ① 東京 😀 Ω",
    "def f(x):\n    return x ** 2",
    "A\u0301 e\u0301",
    "",
)


def as_huggingface(tokenizer: SentencePieceTokenizer) -> bytes | None:
    """Returns the content of ``tokenizer.json``; None when it does not give the model's ids on every text tried."""
    model = next(iter(tokenizer.files().values()))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.vocab_size())]
    library = tokenizers.Tokenizer(
        _unigram(processor, pieces) if tokenizer.kind == "sentencepiece_unigram" else _bpe(processor, pieces)
    )
    begins_with_space = processor.encode_as_pieces("a")[0].startswith(SPACE)
    prepend = [normalizers.Prepend(SPACE)] if begins_with_space else []
    library.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    library.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    names = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    library.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in names])
    same_special = all(library.token_to_id(name) == i for name, i in tokenizer.special_tokens.items())
    agrees = all(library.encode(text, add_special_tokens=False).ids == processor.encode(text) for text in _PROBES)
    return library.to_str().encode() if same_special and agrees else None


def _unigram(processor, pieces: list[tuple[str, float]]) -> models.Unigram:
    return models.Unigram(pieces, unk_id=processor.unk_id(), byte_fallback=_falls_back(processor))


def _bpe(processor, pieces: list[tuple[str, float]]) -> models.BPE:
    """Returns the library's BPE model.

    SentencePiece does not store merges. Each way to cut a piece into two pieces is taken as a merge; merges are ordered
    by the rank of the piece they make.
    """
    ids = {piece: token_id for token_id, (piece, _) in enumerate(pieces)}
    ordinary = [
        token_id
        for token_id in range(len(pieces))
        if not (processor.is_byte(token_id) or processor.is_control(token_id) or processor.is_unknown(token_id))
    ]
    merges = []
    for token_id in sorted(ordinary, key=lambda i: -pieces[i][1]):
        piece = pieces[token_id][0]
        cuts = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        there = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
        merges += sorted(there, key=lambda cut: (ids[cut[0]], ids[cut[1]]))
    return models.BPE(
        vocab=ids, merges=merges, unk_token=pieces[processor.unk_id()][0], fuse_unk=True,
        byte_fallback=_falls_back(processor),
    )  # fmt: skip


def _falls_back(processor) -> bool:
    return any(processor.is_byte(token_id) for token_id in range(processor.vocab_size()))
