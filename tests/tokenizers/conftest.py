"""One small tokenizer of each kind, trained once, and text of every sort to try them on."""

import inspect
import random
import textwrap
import unicodedata

import pytest

from lmjax.tokenizers import TokenizerConfig, build_tokenizer

MULTILINGUAL = "Grüße, naïve café! Съешь же ещё. 今日は世界 हिन्दी में สวัสดี 👩‍👩‍👧 ½ №5\n"
CONFIGS = {
    "bytes": TokenizerConfig(kind="bytes", num_sentinels=3, named=("<fim_prefix>",)),
    "bpe": TokenizerConfig(kind="bpe", vocab_size=600, num_sentinels=3, named=("<fim_prefix>",)),
    "sentencepiece_bpe": TokenizerConfig(
        kind="sentencepiece_bpe", vocab_size=600, num_sentinels=3, named=("<fim_prefix>",)
    ),
    "sentencepiece_unigram": TokenizerConfig(
        kind="sentencepiece_unigram", vocab_size=600, num_sentinels=3, named=("<fim_prefix>",)
    ),
}


def make_corpus() -> list[str]:
    sources = [inspect.getsource(module) for module in (textwrap, inspect, random)]
    return [*sources, MULTILINGUAL * 5]


@pytest.fixture(scope="session")
def corpus():
    return make_corpus()


@pytest.fixture(scope="session")
def trained(corpus):
    """Kind to tokenizer."""
    return {kind: build_tokenizer(config, lambda: corpus) for kind, config in CONFIGS.items()}


@pytest.fixture(params=CONFIGS)
def tokenizer(request, trained):
    return trained[request.param]


@pytest.fixture(scope="session")
def configs():
    return CONFIGS


@pytest.fixture(scope="session")
def strange_texts():
    """Random Unicode, code, and whitespace runs; only characters old enough for every library's tables."""
    draw = random.Random(7)
    old = unicodedata.ucd_3_2_0
    assigned = [chr(c) for c in range(0x110000) if old.category(chr(c)) not in ("Cn", "Cs")]
    mixes = [
        assigned,
        [" ", "\n", "\t", "\r", "\r\n", "\u3000", "\x85", "  ", "x", "'"],
        ["'s", "'LL", "don't", "1", "234", "éa", "e\u0301", "क्षि", ".", "!=", " ", "\n", "_", "A", "ſ"],
        ["\u2581", "▂", " ", "a", "\u2581\u2581", "<0x41>", "\n", "\u2047", "\0", "\ufeff", "\ufffd"],
        ["<unk>", "<s>", "</s>", "<pad>", "<extra_id_0>", "[MASK]", "<fim_prefix>", "<|endoftext|>", " "],
    ]
    texts = ["".join(draw.choices(mix, k=draw.randrange(1, 60))) for mix in mixes for _ in range(60)]
    return [*texts, "", " ", "\n", *make_corpus(), " " * 5000 + "x", "a" * 3000]
