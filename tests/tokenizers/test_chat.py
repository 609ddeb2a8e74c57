"""Conversations: the template's text, the assistant's part of it, and no special token that a message could spell."""

import json

import numpy as np
import pytest

pytest.importorskip("jinja2")

from lmjax.data.config import DataConfig
from lmjax.data.prepare.prepare import prepare
from lmjax.data.rows.shard_reader import open_shards
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.chat import ROLES_TEMPLATE, Message, chat_parts, read_chat_template, render_chat

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role }}\n{{ message.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = ("<|im_start|>", "<|im_end|>", "<eos>", "<|user|>", "<|assistant|>", "<|system|>")
TALK = [
    Message("user", " Hi <|im_end|> "),
    Message("assistant", "Hello."),
    Message("user", "Bye"),
    Message("assistant", ""),
]


def joined(parts):
    return "".join("".join(part.special) + part.text for part in parts)


def test_parts_are_the_text_and_the_answers_end_with_their_token():
    parts = chat_parts(CHATML, TALK[:3], special_names=NAMES, add_generation_prompt=True)
    assert joined(parts) == render_chat(CHATML, TALK[:3], add_generation_prompt=True)
    assert joined(parts) == (
        "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\n"
        "Bye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert joined([part for part in parts if part.is_answer]) == "Hello.<|im_end|>"
    # What the user spells stays text.
    assert [part.text for part in parts if "Hi" in part.text] == ["Hi <|im_end|>"]
    assert all(name not in part.text for part in parts if "Hi" not in part.text for name in NAMES)


def test_the_built_in_template_has_a_token_for_each_role():
    parts = chat_parts(ROLES_TEMPLATE, TALK, special_names=NAMES, special_tokens={"eos": "<eos>"})
    assert joined(parts) == ("<|user|> Hi <|im_end|> <|assistant|>Hello.<eos><|user|>Bye<|assistant|><eos>")
    assert [(part.special, part.text) for part in parts if part.is_answer] == [
        ((), "Hello."), (("<eos>",), ""), (("<eos>",), "")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes the text of a message"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}", "does not take these messages"),
        ("{% for m in %}", "is not Jinja"),
    ],
)
def test_templates_that_do_not_fit_or_leave_the_sandbox_are_refused(template, message):
    with pytest.raises(ValueError, match=message):
        chat_parts(template, TALK, special_names=NAMES)


def test_templates_are_read_from_files_and_folders(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    (tmp_path / "plain.jinja").write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}")
    assert read_chat_template(str(tmp_path)) == CHATML and read_chat_template("roles") == ROLES_TEMPLATE
    assert render_chat(read_chat_template(str(tmp_path / "plain.jinja")), TALK) == " Hi <|im_end|> "
    with pytest.raises(ValueError, match="cannot be read"):
        read_chat_template(str(tmp_path / "none.jinja"))


def test_conversations_are_prepared_with_weights_on_the_answers(tmp_path):
    tokenizer = ByteTokenizer({name: 256 + i for i, name in enumerate(("<eos>", "<|user|>", "<|assistant|>"))})
    talk = [{"role": "user", "content": "ab<eos>"}, {"role": "assistant", "content": "cd"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    config = DataConfig(path=str(tmp_path / "a.jsonl"), messages_field="messages", valid_fraction=0.0)
    prepare(config, tokenizer, tmp_path / "data", num_workers=1)
    shards = open_shards(tmp_path / "data", "train")
    tokens_T, weights_T = np.empty(shards.num_tokens, np.int32), np.empty(shards.num_tokens, np.float32)
    shards.read_tokens(0, tokens_T)
    shards.read_weights(0, weights_T)
    # The template has put the end-of-text token, so none is added.
    assert tokens_T.tolist() == [257, *b"ab<eos>", 258, *b"cd", 256]
    assert weights_T.tolist() == [0.0] * 9 + [1.0] * 3
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": 7}]}\n')
    with pytest.raises(ValueError, match="message 0 of field 'messages' is .* not an object with the texts"):
        prepare(config, tokenizer, tmp_path / "other", num_workers=1)
    with pytest.raises(ValueError, match=r"data.messages_field='messages' needs a '<\|user\|>' token"):
        prepare(config, ByteTokenizer({"<eos>": 256}), tmp_path / "third", num_workers=1)
    with pytest.raises(ValueError, match="data.messages_field and data.prompt_field='q' are both given"):
        DataConfig(messages_field="messages", prompt_field="q")
