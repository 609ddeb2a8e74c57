"""Bits per byte: bytes weighed as the nats are, the text's own where tokens do not tell them, or none."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.data.config import DataConfig
from lmjax.data.prepare.prepare import prepare
from lmjax.objectives import CausalLM
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer
from lmjax.train.corpus import Corpus
from lmjax.train.text_bytes import TextBytes, text_bytes, text_counts
from lmjax.train.validate import _totals, means


def test_a_constant_weight_changes_neither_loss_nor_bits():
    vocabulary = build_tokenizer(TokenizerConfig(), list).vocabulary
    targets_BP = jnp.asarray([[97, 98, vocabulary.eos_id, 99]])
    found = []
    for weight in (1.0, 0.25, 4.0):
        weights_BP = weight * jnp.asarray([[1.0, 1.0, 1.0, 0.0]])
        counts = {name: float(value) for name, value in text_counts(vocabulary, targets_BP, weights_BP).items()}
        assert counts["scored_bytes"] == 2 and counts["scored_tokens"] == 3 and counts["bytes"] == 2 * weight
        assert counts["plain_tokens"] == (2 if weight == 1 else 0)
        found.append(means({"loss": 6.0 * weight, "loss/weight": 3 * weight, **counts}))
    assert found[0] == found[1] == found[2]
    assert found[0]["bits_per_byte"] == pytest.approx(6.0 / np.log(2) / 2)


def test_sums_over_many_batches_stay_whole_numbers():
    """A float32 total would stop counting at 2**24 = 16,777,216, an int32 one wrap at 2**31."""

    def eval_step(params, batch, key, carry):
        return {"scored_bytes": jnp.int32(2**30 + 1), "loss": jnp.float32(0.5)}, carry

    one = types.SimpleNamespace(empty_carry=lambda: (), eval_step=eval_step)
    learner = types.SimpleNamespace(of=lambda _: one, objective=CausalLM(), mesh=jax.make_mesh((1,), ("data",)))
    assert _totals(learner, {}, [None] * 5) == [{"scored_bytes": 5 * (2**30 + 1), "loss": 2.5}]


def corpus(tmp_path, tokenizer, text, **fields):
    (tmp_path / "text.txt").write_text(text, newline="", encoding="utf-8")
    data = DataConfig(path=str(tmp_path / "text.txt"), valid_fraction=0.0, document_separator="\n\n", **fields)
    return Corpus(data, tmp_path / "out", prepare(data, tokenizer, tmp_path / "out", num_workers=1), tokenizer)


TEXT = "the fox\n\njumps  over\n\nthe dog"


def with_prefix():
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the fox jumps over the dog"] * 20), model_writer=model, vocab_size=300,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2, remove_extra_whitespaces=False,
        normalization_rule_name="identity",
    )  # fmt: skip
    return SentencePieceTokenizer.from_model(model.getvalue(), special_names=())


def test_the_manifest_tells_the_bytes_where_tokens_do_not(tmp_path):
    tokenizer = with_prefix()
    opened = corpus(tmp_path, tokenizer, TEXT)
    known = text_bytes(opened, "train")
    total = len(TEXT.replace("\n\n", ""))
    tokens = sum(len(tokenizer.encode(part)) for part in TEXT.split("\n\n"))
    # The space put before each of the three documents is counted as a byte of theirs.
    assert known == TextBytes(exact_table=False, num_tokens=tokens, num_bytes=total)
    assert known.of({"bytes": total + 3.0, "plain_tokens": tokens}) == total
    assert known.of({"bytes": total + 3.0, "plain_tokens": tokens - 1}) is None
    assert "bits_per_byte" not in means({"loss": 1.0, "loss/weight": 1.0, "bytes": 3.0}, text=known)


def test_a_table_that_adds_up_on_the_text_is_good_for_it(tmp_path):
    library = pytest.importorskip("tokenizers")
    from lmjax.tokenizers.huggingface import HuggingFaceTokenizer

    definition = library.Tokenizer(
        library.models.BPE(vocab={one: i for i, one in enumerate(sorted(alphabet()))}, merges=[])
    )
    definition.normalizer = library.normalizers.NFC()
    definition.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    definition.decoder = library.decoders.ByteLevel()
    tokenizer = HuggingFaceTokenizer.from_definition(definition.to_str().encode(), special_names=("<eos>",))
    assert not tokenizer.vocabulary.exact_bytes
    assert text_bytes(corpus(tmp_path, tokenizer, TEXT), "train").exact_table
    other = tmp_path / "decomposed"
    other.mkdir()
    assert not text_bytes(corpus(other, tokenizer, "cafe\u0301\n\nthe"), "train").exact_table


def alphabet():
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()
