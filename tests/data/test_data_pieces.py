"""A text encoded piece by piece has the ids of the whole, for every kind of tokenizer."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lmjax.data.prepare.pieces import encode_in_pieces
from lmjax.tokenizers.bpe import BytePairTokenizer
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.huggingface import HuggingFaceTokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer

SENTENCES = [
    "The river goes down to the sea, and never comes back again.\n",
    "Nobody knows   why;\n\n  they said so: 12345 times!\n",
    "Flüsse fließen ins Meer \U0001f600.\r\n",
    "\tdef river(sea):\n\t\treturn sea + 1\n\n\n",
    "川は海へ流れる。そして戻らない。\n",
]
RNG = np.random.default_rng(0)
LINES = "".join(SENTENCES[n] for n in RNG.integers(len(SENTENCES), size=120))
ONE_LINE = LINES.replace("\n", " ").replace("\r", "")
NO_PLACE = "".join(chr(97 + n) for n in RNG.integers(26, size=3000))


def spiece(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES.split("\n")), model_writer=model, vocab_size=360, byte_fallback=True,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    return SentencePieceTokenizer.from_model(model.getvalue(), special_names=())


def huggingface(pre_tokenizer=None, normalizer=None, decoder=None, trainer=None, model=None):
    tokenizer = tokenizers.Tokenizer(model or models.BPE(unk_token="<unk>"))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if decoder is not None:
        tokenizer.decoder = decoder
    trainer = trainer or tokenizers.trainers.BpeTrainer
    names = ["[UNK]"] if isinstance(tokenizer.model, models.WordPiece) else ["<unk>"]
    tokenizer.train_from_iterator(LINES.split("\n"), trainer(vocab_size=400, special_tokens=names, show_progress=False))
    return HuggingFaceTokenizer.from_definition(tokenizer.to_str().encode(), special_names=())


def byte_level(prefix):
    return huggingface(pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoder=decoders.ByteLevel())


def llama():
    replace = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    return huggingface(normalizer=normalizers.Sequence(replace))


KINDS = {
    "bytes": lambda: ByteTokenizer({}),
    "bpe": lambda: BytePairTokenizer.train([LINES], num_text_ids=350, special_names=()),
    "sentencepiece bpe": lambda: SentencePieceTokenizer.train(
        [LINES], algorithm="bpe", num_text_ids=340, special_names=()
    ),
    "sentencepiece unigram": lambda: SentencePieceTokenizer.train(
        [LINES], algorithm="unigram", num_text_ids=331, special_names=()
    ),
    "sentencepiece with a space before": lambda: spiece(model_type="bpe", normalization_rule_name="identity"),
    "sentencepiece of T5": lambda: spiece(model_type="unigram"),
    "huggingface as GPT-2": lambda: byte_level(False),
    "huggingface as RoBERTa": lambda: byte_level(True),
    "huggingface as Llama 2": llama,
    "huggingface as T5": lambda: huggingface(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
    "huggingface as BERT": lambda: huggingface(
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(),
        model=models.WordPiece(unk_token="[UNK]"), trainer=tokenizers.trainers.WordPieceTrainer,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def any_tokenizer(request):
    return KINDS[request.param]()


@pytest.mark.parametrize("text", [LINES, ONE_LINE, NO_PLACE, ""], ids=["lines", "one line", "no place", "empty"])
def test_pieces_have_the_ids_of_the_whole(any_tokenizer, text):
    blocks = [text[start : start + 333] for start in range(0, len(text), 333)]
    pieces = list(encode_in_pieces(any_tokenizer, blocks, piece_characters=100, num_threads=1))
    np.testing.assert_array_equal(
        np.concatenate([np.zeros(0, np.int32), *pieces]), any_tokenizer.encode(text), json.dumps(text[:80])
    )
    if text == LINES:
        assert len(pieces) > 10, "it was not cut"
