"""The compression report counts bytes, tokens, words and pieces of characters."""

import json

import pytest

from lmjax.cli.tokenizer import run
from lmjax.tokenizers.byte import ByteTokenizer
from lmjax.tokenizers.compression import compression


def test_counts_are_those_made_by_hand(trained):
    found = compression(ByteTokenizer({"<eos>": 256}), ["ab c", "é"])
    assert (found.text_bytes, found.tokens, found.words) == (6, 6, 3)
    # The two bytes of one character are parts of it; six bytes of 256 occur.
    assert found.single_bytes == 2 / 6 and found.used == 6 / 256
    assert (found.bytes_per_token, found.tokens_per_word) == (1.0, 2.0)
    english = compression(trained["bpe"], ["the value of the function is returned to the caller"])
    assert english.bytes_per_token > 1.5 and english.single_bytes == 0
    with pytest.raises(ValueError, match="no text to compress"):
        compression(trained["bpe"], [])


def test_the_command_compares_tokenizers_on_sources(trained, tmp_path, capsys):
    trained["bpe"].save(tmp_path / "bpe")
    trained["bytes"].save(tmp_path / "bytes")
    (tmp_path / "english.txt").write_text("the function returns the value\n" * 30)
    (tmp_path / "other.jsonl").write_text('{"body": "今日は世界"}\n' * 5)
    paths = [str(tmp_path / name) for name in ("english.txt", "other.jsonl")]
    options = ["--texts", *paths, "--text-field", "body"]
    run(["inspect", str(tmp_path / "bpe"), str(tmp_path / "bytes"), "--json", *options])
    found = json.loads(capsys.readouterr().out)
    assert found[str(tmp_path / "bytes")][paths[1]]["single_bytes"] == 1.0
    assert found[str(tmp_path / "bpe")][paths[0]]["bytes_per_token"] > 2
    run(["inspect", str(tmp_path / "bpe"), *options, "--png", str(tmp_path / "picture.png")])
    printed = capsys.readouterr().out
    assert "bytes a token" in printed and paths[0] in printed and (tmp_path / "picture.png").exists()
    run(["train", str(tmp_path / "bpe"), "--text", "the value"])
    assert "kind         bpe" in capsys.readouterr().out
