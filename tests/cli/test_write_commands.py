"""`lmjax sample`, `fill-mask` and `embed` on runs that were not trained: prompts, formats and files."""

import io
import json
import re
import sys

import numpy as np
import pytest
from untrained import untrained

from lmjax.cli.shown_text import Shown, read_texts
from lmjax.objectives import Contrastive, FillInMiddle, MaskedLM
from lmjax.runs.writing import Piece

LETTERS = ("--allowed-tokens", *range(97, 123), "--temperature", 2.0, "--max-new-tokens", 4)
MARKERS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    untrained(FillInMiddle(), named=MARKERS, folder=folder / "decoder", add_eos=False)
    untrained(MaskedLM(), folder=folder / "encoder", add_eos=False)
    untrained(Contrastive(), folder=folder / "vectors", add_eos=False)
    return folder


def test_prompts_come_from_a_file_and_texts_go_to_json_lines(lmjax, folder, tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  two words\r\n")
    result = lmjax("sample", folder / "decoder", "--prompts", tmp_path / "p.txt", *LETTERS)
    match = re.fullmatch(r"--- 1\none([a-z]{4})\n--- 2\n  two words([a-z]{4})\n", result.out)
    assert match, result.err or result.out
    (tmp_path / "p.jsonl").write_text('"  two words"\n{"prompt": "one"}\n{"text": "three\\nlines"}\n')
    lines = lmjax("sample", folder / "decoder", "--prompts", tmp_path / "p.jsonl", "--format", "jsonl", *LETTERS).out
    objects = [json.loads(line) for line in lines.splitlines()]
    # A prompt's text does not depend on its company.
    assert [(o["prompt"], o["text"]) for o in objects[:2]] == [("  two words", match[2]), ("one", match[1])]
    assert objects[2]["prompt"] == "three\nlines"


@pytest.mark.long
def test_ways_to_write_are_options(lmjax, folder):
    def shown(*options):
        result = lmjax("sample", folder / "decoder", "--prompt", "ab", "--max-new-tokens", 4, *options)
        assert result.code == 0, result.err
        return result.out

    greedy = shown("--temperature", 0)
    assert shown("--beams", 1) == shown("--candidates", 1) == greedy
    assert shown("--beams", 2, "--num-samples", 2).startswith("--- 1\nab")
    # A model against itself: all plausible tokens are alike, and the first is taken.
    assert shown("--amateur", folder / "decoder", "--plausibility", 1.0, "--temperature", 0) == greedy
    # A draft, or heads, never change greedy text.
    drafted = lmjax(
        "sample",
        folder / "decoder",
        "--prompt",
        "ab",
        "--max-new-tokens",
        4,
        "--temperature",
        0,
        "--draft",
        folder / "decoder",
        "--draft-length",
        2,
    )
    assert drafted.out == greedy, drafted.err
    assert "kept 2.00 of 2 proposed tokens" in drafted.err
    chat = lmjax("sample", folder / "decoder", "--chat", *LETTERS, stdin=b"hi\n\nho\n")
    assert re.fullmatch(r"[a-z]{4}\n[a-z]{4}\n", chat.out) and chat.code == 0, chat.err
    filled = lmjax("sample", folder / "decoder", "--prefix", "ab", "--suffix", "cd", *LETTERS)
    assert re.fullmatch(r"ab[a-z]{4}cd\n", filled.out), filled.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prefix", "a"), "--suffix: to fill in the middle give --prefix and --suffix"),
        (("--length-penalty", 2.0), "length_penalty=2.0: has a meaning with --beams only"),
        (("--beams", 2, "--num-samples", 3), "num_samples=3"),
        (("--beams", 2, "--candidates", 3), "beam and contrastive"),
        (("--allowed-tokens", 5000), "token id 5000"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
        (("--top-p-least", 2), "set top_p too"),
        (("--amateur", "nowhere"), "nowhere"),
        (("--draft", "nowhere"), "nowhere"),
        (("--draft-length", 3), "draft_length=3: has a meaning with --draft or --self-speculative only"),
        (("--self-speculative",), "has no heads for further tokens"),
        (("--draft", "x", "--self-speculative"), "give one of them"),
        (("--system", "x"), "--chat only"),
        (("--chat", "--num-samples", 2), "leave out --num-samples"),
    ],
)
def test_impossible_options_end_with_one_message(lmjax, folder, options, words):
    result = lmjax("sample", folder / "decoder", *options)
    assert result.code == 2 and words in result.message, result.message
    assert "Traceback" not in result.err


def test_an_encoder_names_masked_tokens(lmjax, folder, tmp_path):
    result = lmjax("fill-mask", folder / "encoder", "a<mask>c<mask>", "--top", 3)
    assert result.code == 0 and "mask 2" in result.out, result.err
    line = lmjax("fill-mask", folder / "encoder", "a<mask>c<mask>", "--top", 3, "--format", "jsonl").out
    masks = json.loads(line)["masks"]
    assert [len(candidates) for candidates in masks] == [3, 3] and masks[0][0]["probability"] > 0
    for options in (("no mask",), (), ("a<mask>", "--texts", "x")):
        result = lmjax("fill-mask", folder / "encoder", *options)
        assert result.code == 2 and ("mask" in result.message or "--texts" in result.message)
    refused = lmjax("sample", folder / "encoder", "--prompt", "a")
    assert refused.code == 2 and "fill-mask" in refused.message


def test_vectors_go_to_files(lmjax, folder, tmp_path):
    (tmp_path / "t.txt").write_text("one\ntwo words\n")
    for name in ("v.npy", "v.jsonl"):
        result = lmjax("embed", folder / "vectors", "--texts", tmp_path / "t.txt", "--output", tmp_path / name)
        assert result.code == 0 and "2 vectors of 16 numbers" in result.out, result.err
    vectors = np.load(tmp_path / "v.npy")
    objects = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [o["text"] for o in objects] == ["one", "two words"]
    np.testing.assert_allclose(vectors, [o["embedding"] for o in objects], rtol=1e-6)
    printed = json.loads(lmjax("embed", folder / "vectors", "--text", "one").out)
    np.testing.assert_allclose(printed["embedding"], vectors[0], rtol=1e-4, atol=1e-6)
    result = lmjax("embed", folder / "vectors", "--text", "one", "--output", "v.txt")
    assert result.code == 2 and ".npy or .jsonl" in result.message
    result = lmjax("embed", folder / "decoder", "--text", "one")
    assert result.code == 2 and "Contrastive" in result.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"\n \n", "has no lines: write a prompt a line"),
        ("a.txt", b"a\xff", "not UTF-8 \\(at byte 1\\)"),
        ("a.jsonl", b'"a"\n{"b": 1}', "a.jsonl, line 2 is neither a string"),
        ("a.jsonl", b"{", "line 1 is not JSON"),
        ("a.jsonl", b'"\\ud800"', "half of a surrogate pair"),
    ],
)
def test_damaged_files_of_prompts_are_refused_by_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_texts(tmp_path / name, fields=("prompt",), what="prompt")


def test_texts_appear_in_order_and_the_first_while_it_is_made(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    seen = []

    def pieces():
        for piece in (Piece(0, "a", False), Piece(1, "x", False), Piece(1, "y", True), Piece(0, "b", True)):
            seen.append(out.getvalue())
            yield piece

    Shown(["p", "q"]).print(pieces())
    assert seen == ["--- 1\np", "--- 1\npa", "--- 1\npa", "--- 1\npa"]
    assert out.getvalue() == "--- 1\npab\n--- 2\nqxy\n"
