"""Rows for evaluation: each token is a target once, whatever the length of the rows."""

import numpy as np
import pytest

from lmjax.data.rows.whole import WholePackedRows, WholeRows, WholeStreamRows

LENGTHS = [[5, 1, 30], [2, 17, 3]]
LEAD = 999


def targets(rows):
    """(token, weight) of every next token that is scored in an epoch of rows."""
    found = []
    for index in range(len(rows)):
        row = rows.row(index)
        tokens_T, weights_T = row.tokens_BT[0], row.weights_BT[0].copy()
        if row.segments_BT is not None:
            weights_T *= row.segments_BT[0] > 0
            weights_T[1:] *= row.segments_BT[0][1:] == row.segments_BT[0][:-1]
        found += [token for token, weight in zip(tokens_T[1:], weights_T[1:], strict=True) if weight]
    return sorted(found)


@pytest.fixture
def shards(make_shards):
    return make_shards(LENGTHS)


def stream(shards):
    tokens_T = np.empty(shards.num_tokens, np.int64)
    shards.read_tokens(0, tokens_T)
    return tokens_T.tolist()


@pytest.mark.parametrize("row_length", [2, 5, 9, 29, 30, 58, 59, 60, 200])
def test_every_token_is_predicted_once_whatever_the_length(shards, row_length):
    everything = stream(shards)
    rows = WholeRows(shards, row_length=row_length, overlap=1, lead_id=LEAD, by_document=False)
    assert targets(rows) == sorted(everything) and rows.row(0).tokens_BT[0, 0] == LEAD
    without = WholeRows(shards, row_length=row_length, overlap=1, lead_id=None, by_document=False)
    assert targets(without) == sorted(everything[1:])
    firsts = {0, 5, 6, 36, 38, 55}
    later = sorted(token for place, token in enumerate(everything) if place not in firsts)
    by_document = WholeRows(shards, row_length=row_length, overlap=1, lead_id=LEAD, by_document=True)
    assert targets(by_document) == later
    assert targets(WholePackedRows(shards, row_length=row_length, overlap=1)) == later


@pytest.mark.parametrize("num_streams", [1, 3, 4])
def test_streams_read_all_and_go_on(shards, num_streams):
    rows = WholeStreamRows(shards, row_length=6, num_streams=num_streams)
    assert targets(rows) == sorted(stream(shards)[1:])
    first, second = rows.row(0).tokens_BT[0], rows.row(num_streams).tokens_BT[0]
    assert first[-1] == second[0]


def test_rows_of_masked_models_hold_every_token_once(shards):
    for rows in (
        WholeRows(shards, row_length=8, overlap=0, lead_id=LEAD, by_document=False),
        WholePackedRows(shards, row_length=8, overlap=0),
    ):
        held = []
        for index in range(len(rows)):
            row = rows.row(index)
            held += row.tokens_BT[0][row.weights_BT[0] > 0].tolist()
            assert row.segments_BT is None or ((row.segments_BT[0] > 0) == (row.weights_BT[0] > 0)).all()
        assert sorted(held) == sorted(stream(shards))


def test_an_unbroken_text_that_fills_its_rows_needs_no_numbers(shards):
    assert not WholeRows(shards, row_length=29, overlap=0, lead_id=None, by_document=False).has_segments
    assert WholeRows(shards, row_length=30, overlap=0, lead_id=None, by_document=False).has_segments
