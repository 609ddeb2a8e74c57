"""Rows: each token once an epoch, documents never mixed, any length at any place."""

import itertools

import numpy as np
import pytest

from lmjax.data.config import DataConfig
from lmjax.data.rows import packing
from lmjax.data.rows.blocks import PackedRows, WindowRows
from lmjax.data.rows.mixture import MixtureRows
from lmjax.data.rows.opening import open_rows
from lmjax.data.rows.streams import StreamRows

LENGTHS = [[5, 1, 30, 7], [2], [11, 64, 3, 3, 40], [1, 1, 9]]
NUM_TOKENS = sum(map(sum, LENGTHS))


def document_of(token):
    """Number of the document a token of ``make_shards`` is in; 0 for padding."""
    ends = np.cumsum([0, *(length for lengths in LENGTHS for length in lengths)])
    return np.searchsorted(ends, token)


def epoch_of(rows, epoch):
    return rows.rows(range(epoch * len(rows), (epoch + 1) * len(rows)))


@pytest.mark.parametrize("row_length", [1, 4, 16, 50])
def test_windows_visit_each_token_once_an_epoch_and_move(make_shards, row_length):
    rows = WindowRows(make_shards(LENGTHS), row_length=row_length, seed=3)
    assert len(rows) == NUM_TOKENS // row_length
    epochs = [epoch_of(rows, epoch).tokens_BT for epoch in range(4)]
    for tokens in epochs:
        assert len(np.unique(tokens)) == tokens.size
        # Windows are contiguous, on the stream taken as a ring.
        assert set(np.diff(tokens, axis=1).ravel()) <= {1, 1 - NUM_TOKENS}
    starts = {tuple(np.sort(tokens[:, 0]).tolist()) for tokens in epochs}
    assert row_length == 1 or len(starts) == 4
    assert not np.array_equal(epochs[0], epochs[1])


def test_rows_depend_on_the_seed_and_nothing_else(make_shards):
    shards = make_shards(LENGTHS)
    rows, again, other = (WindowRows(shards, row_length=8, seed=seed) for seed in (0, 0, 1))
    backwards = [again.row(i).tokens_BT[0] for i in reversed(range(60))][::-1]
    np.testing.assert_array_equal(rows.rows(range(60)).tokens_BT, backwards)
    assert not np.array_equal(rows.rows(range(60)).tokens_BT, other.rows(range(60)).tokens_BT)


def test_validation_windows_are_in_order(make_shards):
    rows = WindowRows(make_shards(LENGTHS), row_length=10, seed=None)
    expected = np.arange(1, NUM_TOKENS // 10 * 10 + 1).reshape(-1, 10)
    for epoch in (0, 1):
        np.testing.assert_array_equal(epoch_of(rows, epoch).tokens_BT, expected)
    assert epoch_of(rows, 0).segments_BT is None


def test_segments_are_the_documents(make_shards):
    rows = WindowRows(make_shards(LENGTHS), row_length=16, seed=5, segments=True)
    for epoch in range(3):
        batch = epoch_of(rows, epoch)
        documents = document_of(batch.tokens_BT)
        changes = documents[:, 1:] != documents[:, :-1]
        # The ring's seam is a boundary too: the last document does not go on with the first.
        expected = 1 + np.concatenate([np.zeros((len(changes), 1), int), changes.cumsum(1)], 1)
        np.testing.assert_array_equal(batch.segments_BT, expected)


def check_packed(batch):
    """Segments count from 1, each is one stretch of one document, padding comes last."""
    for tokens, segments in zip(batch.tokens_BT, batch.segments_BT, strict=True):
        used = segments[segments > 0]
        np.testing.assert_array_equal(segments[len(used) :], 0)
        np.testing.assert_array_equal(tokens[len(used) :], 0)
        assert used.size == 0 or (used[0] == 1 and set(np.diff(used)) <= {0, 1})
        for segment in range(1, used.max(initial=0) + 1):
            stretch = tokens[segments == segment]
            assert len(set(document_of(stretch))) == 1
            np.testing.assert_array_equal(np.diff(stretch), 1)


@pytest.mark.parametrize("row_length", [4, 16, 64, 100])
@pytest.mark.parametrize("at_once", [2, 1 << 20])
def test_packed_rows_hold_every_document_once(make_shards, monkeypatch, row_length, at_once):
    monkeypatch.setattr(packing, "DOCUMENTS_AT_ONCE", at_once)
    rows = PackedRows(make_shards(LENGTHS), row_length=row_length, seed=1)
    orders = []
    for epoch in range(3):
        batch = epoch_of(rows, epoch)
        check_packed(batch)
        tokens = batch.tokens_BT[batch.segments_BT > 0]
        np.testing.assert_array_equal(np.sort(tokens), np.arange(1, NUM_TOKENS + 1))
        orders.append(batch.tokens_BT.tolist())
        for tokens, segments in zip(batch.tokens_BT, batch.segments_BT, strict=True):
            for document in set(document_of(tokens[segments > 0])):
                length = [n for lengths in LENGTHS for n in lengths][document - 1]
                assert length > row_length or (document_of(tokens) == document).sum() == length
    if len(rows) > 8:
        assert orders[0] != orders[1] != orders[2]


def test_the_plan_is_kept_and_belongs_to_the_data(make_shards, monkeypatch):
    shards = make_shards(LENGTHS)
    first = PackedRows(shards, row_length=16, seed=1)
    assert (shards.folder / "packing").is_dir()
    monkeypatch.setattr(packing, "_write_plan", lambda *arguments: pytest.fail("made again"))
    again = PackedRows(shards, row_length=16, seed=1)
    np.testing.assert_array_equal(epoch_of(first, 0).tokens_BT, epoch_of(again, 0).tokens_BT)
    assert not [path for path in (shards.folder / "packing").iterdir() if path.name.startswith(".")]


def test_a_folder_that_cannot_be_written_to_is_packed_too(make_shards, monkeypatch):
    shards = make_shards(LENGTHS)
    monkeypatch.setattr(packing.os, "access", lambda path, mode: False)
    rows = PackedRows(shards, row_length=16, seed=1)
    check_packed(epoch_of(rows, 0))
    assert not list((shards.folder / "packing").iterdir())


@pytest.mark.parametrize("kind", ["windows", "best_fit"])
def test_the_row_length_may_change_without_repeats_or_gaps(make_shards, kind):
    shards = make_shards(LENGTHS)
    make = WindowRows if kind == "windows" else PackedRows
    by_length = {length: make(shards, row_length=length, block_length=16, seed=2) for length in (4, 8, 16)}
    pieces, consumed = [], 0
    for length, num_rows in ((4, 8), (8, 6), (16, 2), (8, 2)):
        first = consumed // length
        batch = by_length[length].rows(range(first, first + num_rows))
        if kind == "best_fit":
            check_packed(batch)
        pieces.append(batch.tokens_BT.ravel())
        consumed += length * num_rows
    whole = by_length[16].rows(range(consumed // 16)).tokens_BT.ravel()
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("make", [WindowRows, PackedRows])
def test_weights_stay_with_their_tokens(make_shards, make):
    rows = make(make_shards(LENGTHS, weighted=True), row_length=16, seed=0)
    batch = epoch_of(rows, 1)
    assert batch.weights_BT.dtype == np.float32
    np.testing.assert_array_equal(batch.weights_BT, batch.tokens_BT % 8 / 4)
    parts = epoch_of(make(rows.shards, row_length=4, block_length=16, seed=0), 1)
    np.testing.assert_array_equal(parts.weights_BT.reshape(-1, 16), batch.weights_BT)


def test_too_little_data_and_bad_lengths_are_named(make_shards):
    shards = make_shards(LENGTHS)
    with pytest.raises(ValueError, match=f"train holds {NUM_TOKENS} tokens, fewer than one row of 1000"):
        WindowRows(shards, row_length=1000, seed=0)
    with pytest.raises(ValueError, match="row_length=6 does not divide block_length=16"):
        WindowRows(shards, row_length=6, block_length=16, seed=0)
    assert len(PackedRows(shards, row_length=1000, seed=0)) == 1


def test_mixture_draws_each_sources_rows_in_order(make_shards):
    first = WindowRows(make_shards(LENGTHS, name="a"), row_length=8, seed=0)
    second = PackedRows(make_shards(LENGTHS, weighted=True, name="b"), row_length=8, seed=0)
    mixture = MixtureRows([first, second], [3, 1])
    seen = ([], [])
    for index in range(40):
        source, own = mixture.locate(index)
        seen[source].append(own)
        row = mixture.row(index)
        expected = (first, second)[source].row(own)
        np.testing.assert_array_equal(row.tokens_BT, expected.tokens_BT)
        if source == 0:
            assert (row.segments_BT == 1).all() and (row.weights_BT == 1).all()
        else:
            np.testing.assert_array_equal(row.segments_BT, expected.segments_BT)
            np.testing.assert_array_equal(row.weights_BT, expected.weights_BT)
    assert seen == ([*range(30)], [*range(10)])
    taken = [mixture.locate(index)[0] for index in range(len(mixture) + 1)]
    assert taken[:-1].count(0) <= len(first) and taken[:-1].count(1) <= len(second)
    assert taken.count(0) > len(first) or taken.count(1) > len(second)


def test_open_rows_follows_the_config(make_shards):
    folders = tuple(str(make_shards(LENGTHS, name=name).folder) for name in ("a", "b"))
    kinds = {"windows": (WindowRows, False), "segments": (WindowRows, True), "best_fit": (PackedRows, True)}
    for packing_kind, (cls, segments) in kinds.items():
        rows = open_rows(DataConfig(prepared=folders[0], packing=packing_kind), "train", row_length=8, seed=0)
        assert type(rows) is cls and rows.has_segments == segments
    config = DataConfig(mixture=folders, mixture_weights=(1.0, 1.0))
    mixture = open_rows(config, "train", row_length=8, seed=0)
    # The same data twice must not come in the same order twice.
    assert not np.array_equal(mixture.row(0).tokens_BT, mixture.row(1).tokens_BT)
    with pytest.raises(ValueError, match=r"data.prepared is not set"):
        open_rows(DataConfig(), "train", row_length=8, seed=0)
    with pytest.raises(ValueError, match="made with another tokenizer"):
        open_rows(config, "train", row_length=8, seed=0, tokenizer_fingerprint="other")


def test_streams_go_on_from_step_to_step(make_shards):
    shards = make_shards(LENGTHS)
    line = WindowRows(shards, row_length=shards.num_tokens, seed=None).row(0).tokens_BT[0]
    rows = StreamRows(shards, row_length=6, num_streams=3)
    part = shards.num_tokens // 3
    steps = len(rows) // 3
    assert steps == (part - 1) // 5 and steps > 2
    batches = [rows.rows(range(3 * step, 3 * step + 3)).tokens_BT for step in range(steps + 1)]
    for before, after in itertools.pairwise(batches[:-1]):
        np.testing.assert_array_equal(before[:, -1], after[:, 0])
    np.testing.assert_array_equal(batches[-1], batches[0])
    for stream in range(3):
        read = np.concatenate([batch[stream, :-1] for batch in batches[:-1]])
        np.testing.assert_array_equal(read, line[stream * part : stream * part + 5 * steps])
    with pytest.raises(ValueError, match="fewer than one row of 60 for each of 30 streams"):
        StreamRows(shards, row_length=60, num_streams=30)
    with pytest.raises(ValueError, match=r"train at one length"):
        rows.cut(3)
