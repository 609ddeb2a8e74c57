"""What an export gives back: the files of a published tokenizer, and for one made here the tokens around a text."""

import dataclasses
import json
import types

import hf
import published
import pytest
import tokenizers

from lmjax.data.config import DataConfig
from lmjax.interop.hf_config import read_json
from lmjax.interop.published import keep_published, read_published
from lmjax.interop.saving import save_pretrained
from lmjax.interop.tokenizer_export import Marks, save_tokenizer_files
from lmjax.interop.tokenizer_files import load_tokenizer_files
from lmjax.objectives import CausalLM, MaskedLM, SentencePairs, SpanCorruption
from lmjax.runs.marks import text_marks
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.train.published import PUBLISHED, hand_on_published

OWN_TEXTS = ["the cat sat on the mat, naïvely.\n", "  two  spaces\tand 123 😀", "def f(x):\n    return x ** 2"] * 40
OWN_KINDS = ("bytes", "bpe", "sentencepiece_bpe", "sentencepiece_unigram")


def kept(folder, run):
    """A published folder's tokenizer as a run that began with an imported one has it, and the files kept there."""
    config = read_json(folder / "config.json")
    tokenizer = load_tokenizer_files(folder, config)
    keep_published(folder, run / PUBLISHED, config, tokenizer=True)
    (run / "checkpoints" / "10").mkdir(parents=True)
    # Runs begin with runs, and with checkpoints of runs.
    hand_on_published(run, run.parent / "second")
    hand_on_published(run.parent / "second" / "checkpoints" / "10", run.parent / "third")
    hand_on_published(None, run.parent / "third")
    return tokenizer, read_published(run.parent / "third" / PUBLISHED, tokenizer)


def exported(folder, tokenizer, **options) -> tokenizers.Tokenizer:
    folder.mkdir()
    assert save_tokenizer_files(folder, tokenizer, max_length=64, **options) is None
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("kind", published.KINDS)
def test_a_published_tokenizer_is_given_back_file_by_file(kind, tmp_path):
    theirs = published.publish(tmp_path / "theirs", kind)
    tokenizer, found = kept(theirs, tmp_path / "first")
    assert found.has_tokenizer
    out = tmp_path / "out"
    out.mkdir()
    save_tokenizer_files(out, tokenizer, max_length=64, published=found, model_type=published.KINDS[kind])
    files = {path.name: path.read_bytes() for path in theirs.iterdir()}
    of_model = {"config.json", "generation_config.json"}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: content for name, content in files.items() if name not in of_model
    }
    assert found.generation == published.GENERATION
    assert found.ids["eos"] == (1 if kind == "sentencepiece_unigram" else [2, 3])


def test_ids_and_generation_settings_of_a_published_model_are_given_back(tmp_path):
    theirs = published.publish(tmp_path / "theirs", "byte_bpe")
    _, found = kept(theirs, tmp_path / "first")
    model = hf.loaded("mistral")
    # Without its window it would be a Llama, if it did not come from a Mistral.
    config = dataclasses.replace(model.config, windows=(None,))
    for preferred, family in ((None, "llama"), ("mistral", "mistral")):
        out = tmp_path / family
        written = save_pretrained(
            out, config, model.params, preferred=preferred, ids=found.ids, generation=found.generation
        )
        assert written.name == family
        assert read_json(out / "generation_config.json") == published.GENERATION
        said = read_json(out / "config.json")
        assert said["eos_token_id"] == [2, 3] and said["bos_token_id"] == 1 and said["pad_token_id"] == 0


def test_a_changed_tokenizer_keeps_the_chat_template(tmp_path):
    theirs = published.publish(tmp_path / "theirs", "byte_bpe")
    keep_published(theirs, tmp_path / "kept", read_json(theirs / "config.json"), tokenizer=True)
    other = build_tokenizer(TokenizerConfig(kind="bytes"), lambda: ())
    found = read_published(tmp_path / "kept", other)
    assert not found.has_tokenizer
    exported(tmp_path / "out", other, published=found, model_type="llama")
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == published.CHAT
    # And of a published model whose tokenizer the user replaced, nothing of the tokenizer is kept.
    keep_published(theirs, tmp_path / "without", read_json(theirs / "config.json"), tokenizer=False)
    assert {path.name for path in (tmp_path / "without").iterdir()} == {"config.json", "generation_config.json"}
    assert read_published(tmp_path / "nowhere", other) is None


def test_marks_the_published_tokenizer_lacks_are_added(tmp_path):
    theirs = published.publish(tmp_path / "theirs", "byte_bpe")
    library = tokenizers.Tokenizer.from_file(str(theirs / "tokenizer.json"))
    library.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    library.save(str(theirs / "tokenizer.json"))
    tokenizer, found = kept(theirs, tmp_path / "first")
    text = exported(tmp_path / "out", tokenizer, published=found, model_type="llama", marks=Marks(before=1))
    assert text.encode("that").ids[0] == 1 and text.encode("that").ids[1:] == tokenizer.encode("that").tolist()


def test_the_published_way_to_begin_a_text_is_kept_and_said(tmp_path):
    theirs = published.publish(tmp_path / "theirs", "byte_bpe")
    tokenizer, found = kept(theirs, tmp_path / "first")
    (tmp_path / "out").mkdir()
    said = save_tokenizer_files(tmp_path / "out", tokenizer, max_length=64, published=found, model_type="llama")
    assert "begins each text" in said


@pytest.mark.parametrize("kind", OWN_KINDS)
def test_tokens_around_a_text_are_written_for_every_kind(kind, tmp_path):
    size = None if kind == "bytes" else 298
    tokenizer = build_tokenizer(
        TokenizerConfig(kind=kind, vocab_size=size, num_sentinels=2),
        lambda: iter(OWN_TEXTS),
    )
    known = tokenizer.vocabulary
    left, right = tokenizer.encode("the cat").tolist(), tokenizer.encode("a mat").tolist()
    for number, (marks, single, pair, flags) in enumerate(
        [
            (Marks(), left, [*left, *right], (False, False)),
            (
                Marks(before=known.bos_id),
                [known.bos_id, *left],
                [known.bos_id, *left, known.bos_id, *right],
                (True, False),
            ),
            (
                Marks(after=known.eos_id),
                [*left, known.eos_id],
                [*left, known.eos_id, *right, known.eos_id],
                (False, True),
            ),
            (
                Marks(before=known.cls_id, after=known.sep_id),
                [known.cls_id, *left, known.sep_id],
                [known.cls_id, *left, known.sep_id, *right, known.sep_id],
                None,
            ),
        ]
    ):
        folder = tmp_path / str(number)
        library = exported(folder, tokenizer, marks=marks)
        assert library.encode("the cat").ids == single and library.encode("the cat", "a mat").ids == pair
        config = json.loads((folder / "tokenizer_config.json").read_text())
        found = (
            tuple(config[name] for name in ("add_bos_token", "add_eos_token")) if "add_bos_token" in config else None
        )
        assert found == flags
        assert config["additional_special_tokens"][-2:] == ["<extra_id_0>", "<extra_id_1>"]
        assert [library.token_to_id(f"<extra_id_{i}>") for i in range(2)] == list(known.sentinel_ids)


def test_sentinels_that_count_down_are_written_in_the_order_of_their_numbers(tmp_path):
    folder = published.publish(tmp_path / "t5", "sentencepiece_unigram")
    tokenizer = load_tokenizer_files(folder, {"model_type": "t5"})
    known = tokenizer.vocabulary
    (tmp_path / "out").mkdir()
    save_tokenizer_files(tmp_path / "out", tokenizer, max_length=64, marks=Marks(after=known.eos_id))
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["additional_special_tokens"] == ["<extra_id_0>", "<extra_id_1>", "<extra_id_2>"]
    assert known.sentinel_ids[0] > known.sentinel_ids[2] and config["eos_token"] == "</s>"


def test_marks_are_those_the_data_had(tmp_path):
    vocabulary = build_tokenizer(TokenizerConfig(kind="bytes", num_sentinels=2), lambda: ()).vocabulary

    def marks(objective, *, imported=False, **data):
        config = types.SimpleNamespace(data=DataConfig(**data), objective=objective)
        tokenizer = types.SimpleNamespace(vocabulary=vocabulary)
        found = text_marks(
            types.SimpleNamespace(config=config, tokenizer=tokenizer, folder=tmp_path, imported=imported)
        )
        return found.before, found.after

    bos, eos = vocabulary.bos_id, vocabulary.eos_id
    assert marks(CausalLM()) == (None, None)
    # The end of a text is no part of a prompt.
    assert marks(CausalLM(), add_bos=True, packing="best_fit") == (bos, None)
    assert marks(MaskedLM(), add_bos=True, packing="best_fit") == (bos, eos)
    assert marks(MaskedLM()) == (None, None)
    assert marks(SentencePairs(), add_eos=False, packing="best_fit") == (vocabulary.cls_id, vocabulary.sep_id)
    assert marks(SpanCorruption(form="encoder_decoder")) == (None, eos)
    # An encoder of another program has read a text between these.
    assert marks(MaskedLM(), imported=True) == (vocabulary.cls_id, vocabulary.sep_id)
