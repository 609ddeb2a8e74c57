"""Prompts as token ids."""

import pytest

from lmjax.data.config import DataConfig
from lmjax.tokenizers import TokenizerConfig, build_tokenizer
from lmjax.train.prompts import prompt_ids


@pytest.mark.parametrize(
    ("data", "text", "expected"),
    [
        (DataConfig(add_bos=True), "a", ["<bos>", "a"]),
        (DataConfig(add_bos=True, packing="best_fit"), "", ["<bos>"]),
        (DataConfig(), "a", ["a"]),
        (DataConfig(), "", ["<eos>"]),
    ],
)
def test_a_prompt_begins_as_the_documents_did(data, text, expected):
    tokenizer = build_tokenizer(TokenizerConfig(kind="bytes"), lambda: ())
    ids = [tokenizer.special_tokens[name] if len(name) > 1 else ord(name) for name in expected]
    assert prompt_ids(data, tokenizer, text) == ids


def test_a_packed_model_has_no_beginning_to_sample_from():
    tokenizer = build_tokenizer(TokenizerConfig(kind="bytes"), lambda: ())
    data = DataConfig(packing="best_fit")
    with pytest.raises(ValueError, match="give some text"):
        prompt_ids(data, tokenizer, "")
