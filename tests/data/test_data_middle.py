"""Fill-in-the-middle in preparation: what comes back, where the cuts fall, and what decides them."""

import json
import re

import numpy as np
import pytest

from lmjax.data.config import DataConfig
from lmjax.data.prepare.documents import Document
from lmjax.data.prepare.middle import middle_last
from lmjax.data.prepare.prepare import prepare, prepared_key
from lmjax.data.rows.shard_reader import open_shards
from lmjax.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer({"<eos>": 256, "<fim_prefix>": 257, "<fim_suffix>": 258, "<fim_middle>": 259})
PREFIX, SUFFIX, MIDDLE, EOS = (bytes([byte]) for byte in (2, 3, 4, 1))
TEXTS = [f"№{n} " + "naïve text" * (n % 7) for n in range(600)]


def stored(folder, split):
    """The documents of a split as text, special tokens as control characters."""
    shards = open_shards(folder, split)
    tokens, numbers = (np.empty(shards.num_tokens, np.int32) for _ in range(2))
    shards.read_tokens(0, tokens)
    shards.read_segments(0, numbers)
    special = {256: EOS, 257: PREFIX, 258: SUFFIX, 259: MIDDLE}
    joined = [
        b"".join(special.get(t, bytes([t % 256])) for t in tokens[numbers == n]) for n in range(1, numbers[-1] + 1)
    ]
    return [document.decode() for document in joined]


def undo(document):
    """The text, its order and the sizes of its parts."""
    assert document.endswith(EOS.decode())
    parts = re.fullmatch(r"\x02(.*)\x03(.*)\x04(.*)", document[:-1])
    if parts is None:
        return document[:-1], "plain", ()
    prefix, suffix, rest = parts.groups()
    return prefix + rest + suffix, "PSM" if prefix else "SPM or empty", (len(prefix), len(suffix))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("middle")
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, options in (
        ("plain", {}),
        ("half", {"fim_rate": 0.5}),
        ("units", {"fim_rate": 0.5, "shard_bytes": 4096}),
    ):
        prepare(DataConfig(path=str(path), valid_fraction=0.2, **options), TOKENIZER, folder / name, num_workers=1)
    return folder


def test_every_document_comes_back_in_its_split_and_its_place(prepared):
    orders = []
    for split in ("train", "valid"):
        plain, half = stored(prepared / "plain", split), stored(prepared / "half", split)
        assert [undo(document)[0] for document in half] == [document[:-1] for document in plain]
        orders += [undo(document)[1] for document in half]
        # Draws are of the text: cut in other units, the same documents are rewritten in the same way.
        assert stored(prepared / "units", split) == half
    assert len(orders) == len(TEXTS)
    assert abs(orders.count("plain") / len(TEXTS) - 0.5) < 3 * np.sqrt(0.25 / len(TEXTS))
    assert orders.count("PSM") > 100 and orders.count("SPM or empty") > 100


def test_cuts_are_uniform_over_the_characters_and_the_orders_as_asked():
    config = DataConfig(fim_rate=1.0, fim_spm_fraction=0.0)
    cuts = []
    for number in range(4000):
        document = middle_last(config, Document(name="", parts=((f"{number:09d}", 1.0),)))
        (prefix, _), (suffix, _), _ = document.parts
        assert document.markers == (("<fim_prefix>",), ("<fim_suffix>",), ("<fim_middle>",))
        cuts.append((len(prefix), 9 - len(suffix)))
    counts = np.zeros((10, 10))
    np.add.at(counts, tuple(np.transpose(cuts)), 1)
    expected = np.triu(np.full((10, 10), 2.0), 1) + np.eye(10)
    expected *= 4000 / expected.sum()
    upper = expected > 0
    assert counts[~upper].sum() == 0
    degrees = upper.sum() - 1
    assert abs(((counts - expected)[upper] ** 2 / expected[upper]).sum() - degrees) < 3 * np.sqrt(2 * degrees)
    always_spm = DataConfig(fim_rate=1.0, fim_spm_fraction=1.0)
    spm = middle_last(always_spm, Document(name="", parts=(("abc", 1.0),)))
    assert spm.markers == (("<fim_prefix>", "<fim_suffix>"), ("<fim_middle>",), ())
    (suffix, _), (prefix, _), (middle, _) = spm.parts
    assert prefix + middle + suffix == "abc"
    empty = Document(name="", parts=(("", 1.0),))
    assert middle_last(config, empty) is empty


def test_shards_made_without_it_stay_good_and_others_are_others(prepared):
    def key(**options):
        return prepared_key(DataConfig(path=str(prepared / "a.jsonl"), **options), TOKENIZER.vocabulary)

    assert key() == key(fim_spm_fraction=0.1)
    assert len({key(), key(fim_rate=0.5), key(fim_rate=0.5, fim_spm_fraction=0.1)}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fim_rate": 1.5}, r"data\.fim_rate=1\.5"),
        ({"fim_spm_fraction": -1.0}, r"data\.fim_spm_fraction=-1\.0"),
        ({"fim_markers": ("a", "a", "b")}, r"data\.fim_markers="),
        ({"fim_rate": 0.5, "prompt_field": "q"}, r"data\.fim_rate=0\.5 would cut through .* data\.prompt_field='q'"),
    ],
)
def test_impossible_settings_are_refused_by_field(options, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**options)


def test_a_tokenizer_without_markers_is_refused_before_anything_is_written(prepared, tmp_path):
    config = DataConfig(path=str(prepared / "a.jsonl"), fim_rate=0.5)
    with pytest.raises(ValueError, match=r"data\.fim_rate=0\.5 needs a '<fim_prefix>' token"):
        prepare(config, ByteTokenizer({"<eos>": 256}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
