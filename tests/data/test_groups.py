"""Examples of several texts: never parted, in their own stretches, cut where it hurts least, refused when wrong."""

import dataclasses
import json

import numpy as np
import pytest

from lmjax.data.config import DataConfig
from lmjax.data.manifest import Manifest
from lmjax.data.prepare.prepare import prepare
from lmjax.data.rows.examples import ExampleRows
from lmjax.data.rows.opening import open_rows
from lmjax.data.rows.pipeline import batches
from lmjax.objectives import DPO, CausalLM
from lmjax.parallel.mesh import MeshConfig
from lmjax.tokenizers import TokenizerConfig
from lmjax.train.config import RunConfig
from lmjax.train.open_corpus import open_corpus
from lmjax.train.setup import lay_out

PAD, EOS, BOS = 256, 257, 258
FIELDS = ("chosen", "rejected")


def records(number):
    return [
        {"prompt": f"ask {n}?", "chosen": f"yes {n}" * (1 + n % 3), "rejected": f"no {n}" * (1 + n % 5)}
        for n in range(number)
    ]


@pytest.fixture
def pairs(tmp_path):
    """(records, options) -> a config of a file that holds them, in shards of some hundred bytes."""

    def write(content, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in content))
        wanted = {"members": FIELDS, "packing": "examples", "valid_fraction": 0.25, "shard_bytes": 700, **options}
        return DataConfig(path=str(path), **wanted)

    return write


def texts_of(rows, tokenizer, row):
    """The texts of each stretch, special tokens left out, and the part of them that has weight."""
    tokens, segments, weights = (np.asarray(array).reshape(rows.num_members, -1) for array in row)
    texts = []
    for member, stretch in enumerate(zip(tokens, segments, weights, strict=True), start=1):
        ids, numbers, counts = stretch
        size = int((numbers > 0).sum())
        assert (numbers == np.where(np.arange(len(numbers)) < size, member, 0)).all()
        assert (ids[size:] == PAD).all() and not counts[size:].any()
        assert set(counts[:size]) <= {0.0, 1.0}
        texts.append((tokenizer.decode(ids[:size]), tokenizer.decode(ids[:size][counts[:size] > 0])))
    return tuple(texts)


def test_the_texts_of_a_record_stay_together(pairs, tokenizer, tmp_path):
    content = records(60)
    config = pairs(content, prompt_field="prompt", add_bos=True)
    manifest = prepare(config, tokenizer, tmp_path / "out", num_workers=1)
    assert len(manifest.shards) > 8
    wanted = {tuple((record["prompt"] + record[field], record[field]) for field in FIELDS) for record in content}
    seen = {}
    for split in ("train", "valid"):
        rows = open_rows(config, split, row_length=2 * 64, seed=0, folder=tmp_path / "out")
        batch = rows.rows(range(len(rows)))
        arrays = zip(batch.tokens_BT, batch.segments_BT, batch.weights_BT, strict=True)
        seen[split] = [texts_of(rows, tokenizer, row) for row in arrays]
        assert len(set(seen[split])) == len(seen[split]) == len(rows)
        assert (batch.tokens_BT[:, 0] == BOS).all()
    assert set(seen["train"]) | set(seen["valid"]) == wanted and not set(seen["train"]) & set(seen["valid"])
    assert len(seen["valid"]) > 5


def test_an_epoch_has_every_example_once_in_an_order_of_its_own(make_shards):
    shards = make_shards([[5, 3, 4, 4], [2, 6], [1, 1, 7, 2]])
    shards.manifest.settings["members"] = list(FIELDS)
    rows, ordered = (ExampleRows(shards, row_length=16, seed=seed) for seed in (3, None))
    assert len(rows) == 5
    np.testing.assert_array_equal(ordered.rows(range(5)).tokens_BT[:, 0], [1, 9, 17, 25, 27])
    epochs = [rows.rows(range(epoch * 5, epoch * 5 + 5)).tokens_BT for epoch in range(3)]
    for tokens in epochs:
        assert sorted(tokens[:, 0]) == [1, 9, 17, 25, 27]
    assert len({tuple(tokens[:, 0]) for tokens in epochs}) > 1
    row = ordered.row(1)
    np.testing.assert_array_equal(row.tokens_BT[0], [9, 10, 11, 12, 0, 0, 0, 0, 13, 14, 15, 16, 0, 0, 0, 0])
    np.testing.assert_array_equal(row.segments_BT[0], [1] * 4 + [0] * 4 + [2] * 4 + [0] * 4)


def test_what_does_not_fit_is_cut_from_the_prompt_and_then_from_the_end(pairs, tokenizer, tmp_path):
    content = [{"prompt": "12345678", "chosen": "abcde", "rejected": "vwxyzVWXYZ"}]
    config = pairs(content, prompt_field="prompt", add_eos=False, valid_fraction=0.0)
    prepare(config, tokenizer, tmp_path / "out", num_workers=1)

    def read(length):
        rows = open_rows(config, "train", row_length=2 * length, seed=None, folder=tmp_path / "out")
        row = rows.row(0)
        return [text for text, _ in texts_of(rows, tokenizer, (row.tokens_BT, row.segments_BT, row.weights_BT))]

    assert read(18) == ["12345678abcde", "12345678vwxyzVWXYZ"]
    assert read(14) == ["5678abcde", "5678vwxyzVWXYZ"]
    assert read(8) == ["8abcde", "8vwxyzVW"]


def test_a_document_is_an_example_where_no_members_are_named(make_shards):
    rows = ExampleRows(make_shards([[5, 1, 30], [2]]), row_length=4, seed=None)
    batch = rows.rows(range(len(rows)))
    np.testing.assert_array_equal(batch.tokens_BT, [[1, 2, 3, 4], [6, 0, 0, 0], [7, 8, 9, 10], [37, 38, 0, 0]])
    np.testing.assert_array_equal(batch.segments_BT, [[1] * 4, [1, 0, 0, 0], [1] * 4, [1, 1, 0, 0]])


def test_a_last_batch_is_filled_with_rows_of_no_weight(make_shards):
    rows = ExampleRows(make_shards([[2, 3, 1]]), row_length=4, seed=None)
    last = list(batches(rows, global_batch_size=2, num_rows=3))[-1]
    np.testing.assert_array_equal(last.weights_BT, [[1, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(last.segments_BT, [[1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"chosen": "a"}, r"line 3: no field 'rejected' \(it has 'chosen'\): set data.members or correct the record"),
        ({"chosen": "a", "rejected": " "}, r"line 3: field 'rejected' is \" \", and an example needs all its texts"),
        ({"chosen": ["a"], "rejected": "b"}, r"line 3: field 'chosen' is \[\"a\"\], not text: correct the record, or"),
        ([1], "line 3: a JSON list, not an object with a 'chosen' field"),
    ],
)
def test_a_wrong_record_is_named(pairs, tokenizer, tmp_path, record, message):
    with pytest.raises(ValueError, match=rf"pairs.jsonl, {message}"):
        prepare(pairs([*records(2), record]), tokenizer, tmp_path / "out", num_workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"packing": "best_fit"}, r"data.packing='best_fit' would tear apart .* set it to examples"),
        ({"members": ("text",)}, "name two fields or more"),
        ({"members": ("text", "text")}, "each once"),
        ({"weight_field": "w"}, "data.weight_field='w' does not go with data.members"),
        ({"split": "tail"}, "data.split=tail would cut through"),
    ],
)
def test_settings_that_would_part_them_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**{"members": FIELDS, "packing": "examples", **options})


def test_text_files_have_no_fields(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("text")
    config = DataConfig(path=str(tmp_path / "a.txt"), members=FIELDS, packing="examples")
    with pytest.raises(ValueError, match=r"a.txt is not JSON lines, and data.members="):
        prepare(config, tokenizer, tmp_path / "out", num_workers=1)


def test_data_and_objective_must_agree_before_anything_is_prepared():
    pairs, plain = DataConfig(members=FIELDS, packing="examples"), DataConfig(packing="segments")
    for objective, data, message in (
        (DPO(), plain, r"data.members=\(\) with data.packing='segments': DPO .* set data.packing=examples"),
        (DPO(), dataclasses.replace(pairs, members=("a", "b", "c")), "compares the 2 texts of an example"),
        (CausalLM(), pairs, "CausalLM as configured reads one text"),
    ):
        with pytest.raises(ValueError, match=message):
            lay_out(RunConfig(name="x", objective=objective, data=data, mesh=MeshConfig(data=8)))


def test_shards_and_recipe_must_agree(pairs, tokenizer, tmp_path):
    config = pairs(records(20))
    folder = tmp_path / "out"
    prepare(config, tokenizer, folder, num_workers=1)
    plain = DataConfig(
        path=config.path, prepared=str(folder), text_field="chosen", shard_bytes=700, valid_fraction=0.25
    )
    with pytest.raises(ValueError, match=r"prepared with data.members=\('chosen', 'rejected'\), here it is \(\)"):
        open_rows(plain, "train", row_length=8, seed=0)
    with pytest.raises(ValueError, match=r"holds data prepared with another data.(text_field|members)"):
        prepare(plain, tokenizer, folder)
    swapped = dataclasses.replace(config, members=FIELDS[::-1], prepared=str(folder))
    with pytest.raises(ValueError, match=r"was prepared with data.members=\['chosen', 'rejected'\], here it is"):
        open_corpus(swapped, TokenizerConfig(path=str(folder / "tokenizer")))
    # Shards made before there were members say nothing of them.
    assert "members" not in DataConfig().preparation()
    assert Manifest.load(folder).settings["members"] == list(FIELDS)


def test_examples_do_not_change_their_length(make_shards):
    with pytest.raises(ValueError, match="data.packing=examples: .* train at one length"):
        ExampleRows(make_shards([[4]]), row_length=4, block_length=8, seed=0)


def test_a_prompt_is_cut_behind_the_begin_of_text_token(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "0123456789", "text": "ab"}) + "\n")
    config = DataConfig(
        path=str(path), prompt_field="q", add_bos=True, add_eos=True, packing="examples", valid_fraction=0.0
    )
    prepare(config, tokenizer, tmp_path / "out")
    for length, text in ((14, "0123456789ab"), (10, "456789ab"), (7, "789ab"), (5, "9ab"), (4, "9ab")):
        rows = open_rows(config, "train", row_length=length, seed=None, folder=tmp_path / "out").row(0)
        kept = [BOS, *text.encode(), EOS][:length]
        assert rows.tokens_BT[0, : len(kept)].tolist() == kept
        assert rows.weights_BT[0, : len(kept)].tolist() == [0.0 if t == BOS or 48 <= t < 58 else 1.0 for t in kept]
