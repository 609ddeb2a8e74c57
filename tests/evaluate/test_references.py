"""BLEU and ROUGE of texts whose overlap is known, and what a file of references must be."""

import pytest

from lmjax.evaluate.references import overlaps, read_references

SENTENCE = "the quick brown fox jumps over the lazy dog"


def test_overlaps_by_hand():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    same = overlaps([SENTENCE], [[SENTENCE]])
    assert same == {"bleu": pytest.approx(100.0), "rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert overlaps(["zzz"], [[SENTENCE]])["rouge1"] == 0.0
    # Two of three words of the text, and two of four of the best reference: F = 2 * 2/3 * 1/2 / (2/3 + 1/2).
    several = overlaps(["a b x", SENTENCE], [["q q q", "a b c d"], [SENTENCE]])
    assert several["rouge1"] == pytest.approx((4 / 7 + 1) / 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a", "reference": []}', r"'reference' is \[\]: give at least one text"),
        ('{"prompt": "a", "reference": ["b", 1]}', "'reference' is 1: must be some text"),
        ('{"prompt": 1, "reference": "b"}', "'prompt' is 1"),
        ('{"prompt": "a"}', "each line must be as"),
    ],
)
def test_a_file_of_references_is_checked(tmp_path, line, words):
    path = tmp_path / "references.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=words):
        read_references(path)
    path.write_text('{"prompt": "a", "reference": "b"}\n{"prompt": "c", "reference": ["d", "e"]}')
    assert read_references(path) == (["a", "c"], [["b"], ["d", "e"]])
