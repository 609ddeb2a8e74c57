"""With a tokenizer that puts a space before a text, the parts of a document have the spaces that the data say."""

import io
import json
import re

import numpy as np
import pytest
import sentencepiece

from lmjax.data.config import DataConfig
from lmjax.data.prepare.prepare import prepare
from lmjax.data.rows.shard_reader import open_shards
from lmjax.tokenizers.sentence_piece import SentencePieceTokenizer
from lmjax.train.prompts import bytes_after, ids_with_names

CODE = "def add(a, b):\n    return a + b\n"
NAMES = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<mask>")


@pytest.fixture(scope="module")
def tokenizer():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*CODE.split("\n"), "Q: 1+1=2. User: hi Bot: hello"] * 20), model_writer=model,
        vocab_size=330, model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        remove_extra_whitespaces=False, normalization_rule_name="identity",
    )  # fmt: skip
    return SentencePieceTokenizer.from_model(model.getvalue(), special_names=NAMES)


def documents(tmp_path, tokenizer, records, **fields):
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, records)))
    data = DataConfig(path=str(tmp_path / "d.jsonl"), valid_fraction=0.0, add_eos=False, **fields)
    prepare(data, tokenizer, tmp_path / "out", num_workers=1)
    shards = open_shards(tmp_path / "out", "train")
    tokens_T = np.empty(shards.num_tokens, np.int64)
    shards.read_tokens(0, tokens_T)
    return [tokenizer.decode(part, skip_special=False) for part in np.split(tokens_T, shards.document_bounds(0)[1:-1])]


@pytest.mark.parametrize(
    ("record", "fields", "expected"),
    [
        ({"p": "Q: 1+1=", "text": "2."}, {"prompt_field": "p"}, ["Q: 1+1=2."]),
        ({"p": "", "text": " 2."}, {"prompt_field": "p"}, [" 2."]),
        ({"text": ["User: hi\n", "Bot:", " hi"], "w": [0, 0, 1]}, {"weight_field": "w"}, ["User: hi\nBot: hi"]),
        (
            {"p": "Q: ", "a": "yes", "b": " no"},
            {"prompt_field": "p", "members": ("a", "b"), "packing": "examples"},
            ["Q: yes", "Q:  no"],
        ),
    ],
)
def test_parts_are_joined_as_the_data_say(tmp_path, tokenizer, record, fields, expected):
    assert documents(tmp_path, tokenizer, [record], **fields) == expected


@pytest.mark.parametrize("spm", [0.0, 1.0])
def test_a_middle_that_moved_has_its_own_text(tmp_path, tokenizer, spm):
    texts = [f"{CODE}# {number}" for number in range(20)]
    records = [{"text": text} for text in texts]
    shown = documents(tmp_path, tokenizer, records, fim_rate=1.0, fim_spm_fraction=spm)
    for text, stored in zip(texts, shown, strict=True):
        prefix, suffix, middle = re.split("<fim_suffix>|<fim_middle>", stored.removeprefix("<fim_prefix>"))
        assert text == (middle + suffix if spm else prefix + middle + suffix)


def test_prompts_and_continuations_keep_their_spaces(tokenizer):
    ids = ids_with_names(tokenizer, "def<mask> add<mask>(a")
    assert tokenizer.decode(ids, skip_special=False) == "def<mask> add<mask>(a"
    whole = tokenizer.encode("User: hi Bot").tolist()
    cut = len(tokenizer.encode("User: hi"))
    assert bytes_after(tokenizer, "User: hi", whole[:cut], whole[cut:]) == b" Bot"
