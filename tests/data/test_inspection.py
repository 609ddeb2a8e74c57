"""What `lmjax inspect` says of prepared data is what is there, counted by hand."""

import itertools
import json

import numpy as np
import pytest

from lmjax.cli.inspect import run
from lmjax.data import duplicates
from lmjax.data.inspection import inspect_data, prepared_folders
from lmjax.data.rows.blocks import PackedRows, WindowRows

LENGTHS = [[5, 1, 30, 7], [2], [11, 64, 3, 3, 40], [1, 1, 9]]


def test_figures_are_those_of_the_rows_that_training_would_read(make_shards):
    shards = make_shards(LENGTHS)
    found = inspect_data(shards.folder, "train", sequence_length=16)
    assert (found.documents, found.tokens, found.longest, found.median) == (13, 177, 64, 5)
    assert sum(documents for _, _, documents, _ in found.lengths) == 13
    assert (4, 8, 2, 12) in found.lengths and (64, 128, 1, 64) in found.lengths
    packed = PackedRows(shards, row_length=16, seed=0)
    best_fit, windows = found.packings["best_fit"], found.packings["windows"]
    assert best_fit.rows == len(packed) and best_fit.fill == pytest.approx(177 / (16 * len(packed)))
    # The documents of 30, 64 and 40 tokens are longer than a row.
    assert best_fit.cut == 3 / 13 and best_fit.lost == 0
    assert windows.rows == len(WindowRows(shards, row_length=16, seed=0)) == 11
    bounds = np.cumsum([0, *itertools.chain(*LENGTHS)])
    cut = sum(begin // 16 != (end - 1) // 16 for begin, end in itertools.pairwise(bounds))
    assert windows.cut == cut / 13 and windows.lost == pytest.approx(1 / 177)
    examples = found.packings["examples"]
    assert examples.rows == 13 and examples.lost == pytest.approx((14 + 48 + 24) / 177)


def test_duplicates_are_counted(make_shards, monkeypatch):
    shards = make_shards([[50] * 6])
    copies = np.arange(50)
    other = np.concatenate([copies[:48], [7, 7]])
    documents = [copies, copies, copies[::-1], other, np.arange(100, 150), copies]
    monkeypatch.setattr(duplicates, "sample_documents", lambda *_: iter(documents))
    found = duplicates.estimate_duplicates(shards)
    assert (found.compared, found.exact, found.near) == (6, 2 / 6, 3 / 6)


def test_minhash_estimates_the_overlap():
    rng = np.random.default_rng(0)
    shared, own = rng.integers(0, 50_000, 600), rng.integers(0, 50_000, (2, 300))
    pair = [np.concatenate([shared, one]).astype(np.int32) for one in own]
    # 596 sequences in common of about 1,200; the standard deviation of 64 values is 0.06.
    same = (duplicates.minhash(pair[0]) == duplicates.minhash(pair[1])).mean()
    assert abs(same - 0.5) < 0.2
    assert (duplicates.minhash(pair[0]) == duplicates.minhash(own[0].astype(np.int32))).mean() < 0.6


def test_a_sample_is_spread_over_the_split(make_shards):
    shards = make_shards(LENGTHS)
    firsts = [int(tokens[0]) for tokens in duplicates.sample_documents(shards, 4)]
    starts = np.cumsum([1, *itertools.chain(*LENGTHS)])
    assert firsts == [starts[0], starts[3], starts[6], starts[9]]


def test_the_command_prints_text_json_and_a_picture(tmp_path, tokenizer, capsys):
    from lmjax.data.config import DataConfig
    from lmjax.data.prepare.prepare import prepare

    (tmp_path / "text").mkdir()
    for number in range(12):
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number} \x1b[31m\n" * 3)
    for name in ("a", "b"):
        config = DataConfig(path=str(tmp_path / "text"), split="tail", valid_fraction=0.1)
        prepare(config, tokenizer, tmp_path / "data" / name, num_workers=1)
    run([str(tmp_path / "data" / "a"), "--sequence-length", "64", "--png", str(tmp_path / "picture.png")])
    printed = capsys.readouterr().out
    assert "12 documents" in printed and "best_fit" in printed and "row 1: " in printed
    assert "\x1b" not in printed and "document" in printed and (tmp_path / "picture.png").stat().st_size > 1000
    run([str(tmp_path / "data"), "--json", "--split", "valid"])
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"a", "b"} and found["a"]["documents"] == 12
    with pytest.raises(ValueError, match="holds no prepared data"):
        prepared_folders(tmp_path / "text")
