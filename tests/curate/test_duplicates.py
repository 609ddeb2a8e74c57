"""Clusters are those of a search of all pairs, and MinHash finds what datasketch finds."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.curate.duplicates import ExactDuplicates, NearDuplicates, clusters, sequences


def connected(keys: list[list[int]]) -> list[int]:
    """Returns the first document of each one's cluster, by comparing all pairs until nothing changes."""
    first = list(range(len(keys)))
    changed = True
    while changed:
        changed = False
        for a in range(len(keys)):
            for b in range(len(keys)):
                if any(x == y for x, y in zip(keys[a], keys[b], strict=True)) and first[a] < first[b]:
                    first[b], changed = first[a], True
    return first


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda k: st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), max_size=12)))
def test_clusters_are_what_is_connected(keys):
    width = len(keys[0]) if keys else 1
    packed = [b"%016d" % (10 * value) for row in keys for value in row]
    keys_NK = np.array(packed, "V16").reshape(len(keys), width)
    assert clusters(keys_NK.T, len(keys_NK)).tolist() == connected(keys)


def versions(num_texts: int, seed: int) -> list[str]:
    """Returns texts in pairs, the second of which has some words replaced: from none to half of them."""
    rng = random.Random(seed)
    texts = []
    for number in range(num_texts):
        words = ["".join(rng.choices("abcdefgh", k=5)) for _ in range(150)]
        other = list(words)
        for place in rng.sample(range(150), round(75 * number / num_texts)):
            other[place] = "".join(rng.choices("ijklmnop", k=5))
        texts += [" ".join(words), " ".join(other)]
    return texts


def test_signatures_estimate_what_datasketch_estimates():
    pytest.importorskip("datatrove")
    pytest.importorskip("rensa")
    datasketch = pytest.importorskip("datasketch")
    rule = NearDuplicates(bands=32, rows=8)
    signature_of = rule.signatures()
    texts = versions(40, seed=0)

    def oracle(text):
        values = datasketch.MinHash(num_perm=256, seed=3)
        values.update_batch([piece.encode() for piece in sequences(text.split(), rule.words)])
        return values

    ours, theirs, true = [], [], []
    for a, b in zip(texts[::2], texts[1::2], strict=True):
        ours.append(np.mean(signature_of(a) == signature_of(b)))
        theirs.append(oracle(a).jaccard(oracle(b)))
        one, other = (set(sequences(text.split(), rule.words)) for text in (a, b))
        true.append(len(one & other) / len(one | other))
    errors = np.abs(np.array([ours, theirs]) - true)
    assert errors.mean(axis=1).max() < 0.02 and errors.max() < 0.12
    assert min(ours) < 0.1 and max(ours) == 1.0


def test_clusters_are_those_of_datasketch_within_one_percent():
    pytest.importorskip("datatrove")
    pytest.importorskip("rensa")
    datasketch = pytest.importorskip("datasketch")
    rule, rng = NearDuplicates(), random.Random(1)
    texts = versions(150, seed=1)[::2]
    for number in range(120):  # a copy of a copy, too
        words = texts[number if number < 100 else number + 100].split()
        words[rng.randrange(len(words))] = "changed"
        texts.append(" ".join(words))
    keys_of = rule.keys()
    keys_NK = np.array([key for text in texts for key in keys_of(text)], "V16").reshape(len(texts), -1)
    ours = len(set(clusters(keys_NK.T, len(keys_NK)).tolist()))
    index, theirs = datasketch.MinHashLSH(num_perm=112, params=(14, 8)), 0
    for number, text in enumerate(texts):
        values = datasketch.MinHash(num_perm=112, seed=5)
        values.update_batch([piece.encode() for piece in sequences(text.split(), rule.words)])
        theirs += not index.query(values)
        index.insert(str(number), values)
    assert abs(ours - theirs) <= 0.01 * theirs
    assert abs(ours - 150) <= 1


def test_exact_and_simplified_keys():
    exact = ExactDuplicates().keys()
    assert exact("a b") == exact("a b") != exact("A b")
    pytest.importorskip("datatrove")
    simplified = ExactDuplicates(simplified=True).keys()
    assert simplified("Über 12  Häuser, grün!") == simplified("uber 345 hauser GRUN")
    assert simplified("!!!") != simplified("???")
    near = NearDuplicates().keys() if pytest.importorskip("rensa") else None
    assert near is not None and near("!!!") != near("???") and near("one two") == near("ONE, two")
    # Scripts without spaces are compared by characters: one in forty differs.
    text = "我们在学校里学习数学和语文并且每天下午去图书馆看书然后回家吃饭休息睡觉第二天再来上课"
    assert set(near(text * 3)) & set(near(text * 2 + text[:-1] + "了"))
