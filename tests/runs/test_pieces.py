"""Text that arrives a few tokens at a time."""

import itertools

import pytest

from lmjax.runs.pieces import Pieces

TEXT = "né €𝄞 end"


def handed_out(content: bytes, sizes, stop=()):
    """What is handed out of bytes that arrive in pieces of these sizes, and of the rest."""
    pieces, begin, parts = Pieces(bytes, stop), 0, []
    for size in sizes:
        parts.append(pieces.add(list(content[begin : begin + size])))
        begin += size
    parts.append(pieces.add(list(content[begin:])))
    return [*parts, pieces.finish()]


def test_no_piece_ends_in_half_a_character():
    content = TEXT.encode()
    for sizes in itertools.product((1, 2, 3), repeat=5):
        parts = handed_out(content, sizes)
        assert "".join(parts) == TEXT and "\ufffd" not in "".join(parts)
    assert handed_out("€".encode(), (1, 1)) == ["", "", "€", ""]
    # Half a character that is never completed is shown as such, at the end.
    assert handed_out("a€".encode()[:-1], (1,)) == ["a", "", "\ufffd"]
    assert handed_out(b"a\xffb", (2,)) == ["a\ufffd", "b", ""]


@pytest.mark.parametrize("stop", [("STOP",), ("xx", "STOP"), ("STOP", "ST_")])
def test_a_stop_string_ends_the_text_wherever_it_is_cut(stop):
    for sizes in itertools.product((1, 2, 4), repeat=4):
        pieces = Pieces(bytes, stop)
        content, begin, text = b"a S STSTOP b STOP", 0, ""
        for size in (*sizes, 99):
            text += pieces.add(list(content[begin : begin + size]))
            # Nothing is handed out that may have to be taken back.
            assert "a S ST".startswith(text)
            begin += size
        assert pieces.ended and text + pieces.finish() == "a S ST"


def test_what_might_have_become_a_stop_string_is_handed_out_at_the_end():
    assert handed_out(b"a STO", (2, 1, 1), stop=("STOP",)) == ["a ", "", "", "", "STO"]
    assert handed_out(b"ab", (1,), stop=()) == ["a", "b", ""]
    # The first of two stop strings counts.
    assert "".join(handed_out(b"one two three", (), stop=("three", "two"))) == "one "


def test_text_that_reads_otherwise_with_further_tokens_is_not_handed_out_twice():
    """A decoder that drops a space at the end, as some tokenizers do."""
    pieces = Pieces(lambda ids: bytes(ids).rstrip(b" "))
    assert [pieces.add(list(part)) for part in (b"a", b" ", b"b ")] == ["a", "", " b"]
    assert pieces.finish() == ""
