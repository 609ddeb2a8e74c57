"""Small tokenizers of every shape that is published: ours, SentencePiece's, and definitions of `tokenizers`."""

import functools
import io
import json
from collections.abc import Callable

import sentencepiece
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lmjax.tokenizers import Tokenizer, TokenizerConfig, build_tokenizer
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

MARK = "\u2581"
TRAINING = [
    "the quick brown fox jumps over the lazy dog. User: hi\nBot: hello\nQ: 1+1=2. playing, played; def add(a, b):\n",
    "    return a + b  # naïve café, Grüße und Straße\n\tl = ['x', \"y\"]\n",
] * 30
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def ours(kind: str) -> Tokenizer:
    size = None if kind == "bytes" else 320
    return build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), lambda: iter(TRAINING))


@functools.cache
def sentencepiece_model(algorithm: str, **options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in TRAINING for line in text.splitlines()), model_writer=model,
        model_type=algorithm, vocab_size=340, hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


def sentence_piece(algorithm: str, **options) -> Tokenizer:
    return SentencePieceTokenizer.from_model(sentencepiece_model(algorithm, **options), special_names=())


def byte_level(pattern: str | None = None, *, prefix: bool = False, normalizer=None) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=not pattern)
    library.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    library.decoder = decoders.ByteLevel()
    if normalizer is not None:
        library.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        TRAINING, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    library.add_special_tokens(["<|endoftext|>"])
    return library


@functools.cache
def fallback_bpe() -> models.BPE:
    """Words begin with the mark, and there are bytes to fall back on: as made of a SentencePiece model."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK)
    trainer = trainers.BpeTrainer(vocab_size=470, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False)
    library.train_from_iterator([line for text in TRAINING for line in text.split("\n")], trainer)
    model = json.loads(library.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _fallback_decoder(*, strip: bool):
    front = [decoders.Strip(" ", 1, 0)] if strip else []
    return decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *front])


def legacy_llama(*, prepend: bool = True) -> tokenizers.Tokenizer:
    """Llama 2's: a normalizer puts the mark in front; without it, Gemma's."""
    front = [normalizers.Prepend(MARK)] if prepend else []
    library = tokenizers.Tokenizer(fallback_bpe())
    library.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", MARK)])
    library.decoder = _fallback_decoder(strip=prepend)
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return library


def gemma() -> tokenizers.Tokenizer:
    """Runs of spaces are tokens of the model and, once more, added tokens that are not special."""
    library = legacy_llama(prepend=False)
    fields = json.loads(library.to_str())
    ids = fields["model"]["vocab"]
    runs = [MARK * count for count in (2, 3, 4)]
    for run in runs:
        ids[run] = len(ids)
        fields["model"]["merges"].append([MARK, run[1:]])
    library = tokenizers.Tokenizer.from_str(json.dumps(fields))
    library.add_tokens([tokenizers.AddedToken(run, normalized=False, special=False) for run in runs])
    return library


def metaspace(scheme: str, *, model: str = "BPE", words_first: bool = False) -> tokenizers.Tokenizer:
    marks = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=scheme)
    library = tokenizers.Tokenizer(fallback_bpe())
    library.pre_tokenizer = marks
    if model == "Unigram":
        library.model = models.Unigram([("<unk>", 0.0)], unk_id=0, byte_fallback=False)
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
        )
        library.train_from_iterator(TRAINING, trainer)
    if words_first:
        library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    library.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme=scheme)
    return library


def t5() -> tokenizers.Tokenizer:
    library = metaspace("always", model="Unigram")
    library.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), MARK)]
    )
    return library


def word_piece(*, lowercase: bool = True) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    library.train_from_iterator(
        TRAINING, trainers.WordPieceTrainer(vocab_size=300, special_tokens=names, show_progress=False)
    )
    return library


def clip() -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    library.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CLIP_PATTERN), "removed", invert=True), level]
    )
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, end_of_word_suffix="</w>", special_tokens=["<|endoftext|>"],
        initial_alphabet=[*alphabet, *(f"{one}</w>" for one in alphabet)], show_progress=False,
    )  # fmt: skip
    library.train_from_iterator(TRAINING, trainer)
    return library


def end_of_word() -> tokenizers.Tokenizer:
    """OpenAI's first GPT: characters, words cut at whitespace."""
    library = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    library.normalizer, library.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    library.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=200, end_of_word_suffix="</w>", special_tokens=["<unk>"], show_progress=False
    )
    library.train_from_iterator(TRAINING, trainer)
    return library


def definition(library: tokenizers.Tokenizer) -> Tokenizer:
    return HuggingFaceTokenizer.from_definition(library.to_str().encode(), special_names=())


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": lambda: ours("bytes"),
    "bpe": lambda: ours("bpe"),
    "sentencepiece_bpe": lambda: ours("sentencepiece_bpe"),
    "sentencepiece_unigram": lambda: ours("sentencepiece_unigram"),
    "llama2.model": lambda: sentence_piece("bpe", **IDENTITY),
    "gemma.model": lambda: sentence_piece("bpe", add_dummy_prefix=False, **IDENTITY),
    "t5.model": lambda: sentence_piece("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
    "collapsing.model": lambda: sentence_piece("bpe", add_dummy_prefix=False, byte_fallback=True),
    "gpt2": lambda: definition(byte_level()),
    "gpt2_prefix": lambda: definition(byte_level(prefix=True)),
    "llama3": lambda: definition(byte_level(GPT2_PATTERN)),
    "qwen2": lambda: definition(byte_level(GPT2_PATTERN, normalizer=normalizers.NFC())),
    "llama2": lambda: definition(legacy_llama()),
    "gemma": lambda: definition(gemma()),
    "metaspace_always": lambda: definition(metaspace("always")),
    "metaspace_first": lambda: definition(metaspace("first")),
    "metaspace_never": lambda: definition(metaspace("never")),
    "metaspace_unigram": lambda: definition(metaspace("always", model="Unigram")),
    "t5": lambda: definition(t5()),
    "xlm_roberta": lambda: definition(metaspace("always", model="Unigram", words_first=True)),
    "bert": lambda: definition(word_piece()),
    "bert_cased": lambda: definition(word_piece(lowercase=False)),
    "clip": lambda: definition(clip()),
    "openai_gpt": lambda: definition(end_of_word()),
}
