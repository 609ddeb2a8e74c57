"""Batches: the same whoever reads them and wherever they begin; and on the devices ahead of time."""

import itertools
import threading

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lmjax.data.rows.blocks import PackedRows, WindowRows
from lmjax.data.rows.pipeline import batches, device_batches, process_share
from lmjax.parallel.mesh import MeshConfig, make_mesh
from lmjax.types import Rows

LENGTHS = [[5, 1, 30, 7], [2], [11, 64, 3, 3, 40], [1, 1, 9]]


@pytest.fixture(params=["windows", "segments", "best_fit"])
def rows(request, make_shards):
    shards = make_shards(LENGTHS)
    if request.param == "best_fit":
        return PackedRows(shards, row_length=8, seed=0)
    return WindowRows(shards, row_length=8, seed=0, segments=request.param == "segments")


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(batches_a, batches_b):
    assert len(batches_a) == len(batches_b)
    for a, b in zip(batches_a, batches_b, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_resuming_twice_gives_the_uninterrupted_stream(rows, num_threads):
    num_steps = 2 * len(rows) // 4 + 3  # Into the third epoch.
    whole = take(batches(rows, global_batch_size=4), num_steps)
    assert whole[0].tokens_BT.shape == (4, 8) and whole[0].tokens_BT.dtype == np.int32
    stream = np.concatenate([batch.tokens_BT for batch in whole])
    np.testing.assert_array_equal(stream, rows.rows(range(4 * num_steps)).tokens_BT)
    parts, first = [], 0
    for last in (5, len(rows) // 4 + 1, num_steps):
        part = batches(rows, global_batch_size=4, start_step=first, num_threads=num_threads)
        parts += take(part, last - first)
        first = last
    assert_same(parts, whole)


@pytest.mark.parametrize("process_count", [2, 4])
def test_the_number_of_hosts_changes_nothing(rows, process_count):
    whole = take(batches(rows, global_batch_size=8, start_step=2), 6)
    hosts = [
        take(batches(rows, global_batch_size=8, start_step=2, process_index=h, process_count=process_count), 6)
        for h in range(process_count)
    ]
    joined = [jax.tree.map(lambda *parts: np.concatenate(parts), *step) for step in zip(*hosts, strict=True)]
    assert_same(joined, whole)


def test_first_row_moves_the_stream(rows):
    moved = take(batches(rows, global_batch_size=4, start_step=1, first_row=3), 1)[0]
    np.testing.assert_array_equal(moved.tokens_BT, rows.rows(range(7, 11)).tokens_BT)
    ended = list(batches(rows, global_batch_size=4, first_row=3, num_rows=4))
    assert len(ended) == 1
    np.testing.assert_array_equal(ended[0].tokens_BT, rows.rows(range(3, 7)).tokens_BT)


@pytest.mark.parametrize("process_count", [1, 2])
def test_a_fixed_number_of_rows_ends_with_padding_of_no_weight(rows, process_count):
    found = [
        list(batches(rows, global_batch_size=4, num_rows=9, process_index=h, process_count=process_count))
        for h in range(process_count)
    ]
    assert [len(host) for host in found] == [3] * process_count
    whole = [jax.tree.map(lambda *parts: np.concatenate(parts), *step) for step in zip(*found, strict=True)]
    expected = rows.rows(range(9))
    tokens = np.concatenate([batch.tokens_BT for batch in whole])
    weights = np.concatenate([batch.weights_BT for batch in whole])
    assert tokens.shape == (12, 8)
    np.testing.assert_array_equal(tokens[:9], expected.tokens_BT)
    np.testing.assert_array_equal(weights[9:], 0)
    real = np.ones((9, 8)) if expected.segments_BT is None else expected.segments_BT != 0
    np.testing.assert_array_equal(weights[:9], real)
    assert len({jax.tree.structure(batch) for batch in whole}) == 1
    assert list(batches(rows, global_batch_size=4, num_rows=9, start_step=3)) == []


def test_processes_must_divide_the_batch(rows):
    with pytest.raises(ValueError, match="global_batch_size=6: not divisible by 4"):
        batches(rows, global_batch_size=6, process_count=4)


def sharding_of(**sizes):
    return NamedSharding(make_mesh(MeshConfig(**sizes)), PartitionSpec(("data", "fsdp")))


def test_batches_arrive_sharded_and_equal(rows):
    sharding = sharding_of(data=4, fsdp=2)
    expected = take(batches(rows, global_batch_size=8), 5)
    arriving = device_batches(batches(rows, global_batch_size=8), sharding)
    found = take(arriving, 5)
    assert all(batch.tokens_BT.sharding == sharding for batch in found)
    assert_same(found, expected)
    arriving.close()


def loading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("device_batches")]


def test_an_error_is_raised_where_its_batch_would_be():
    def failing():
        for n in range(3):
            yield Rows(tokens_BT=np.full((8, 4), n, np.int32))
        raise ValueError("shard 7 is damaged")

    arriving = device_batches(failing(), sharding_of(), depth=2)
    found = []
    with pytest.raises(ValueError, match="shard 7 is damaged"):
        for batch in arriving:
            found.append(int(batch.tokens_BT[0, 0]))
    assert found == [0, 1, 2]
    assert not loading_threads()


def test_closing_ends_the_thread_and_it_reads_no_further_than_depth():
    read = []

    def counting():
        for n in itertools.count():
            read.append(n)
            yield Rows(tokens_BT=np.zeros((8, 4), np.int32))

    arriving = device_batches(counting(), sharding_of(), depth=3)
    take(arriving, 2)
    arriving.close()
    assert not loading_threads()
    assert len(read) <= 2 + 3
    take(device_batches(iter([]), sharding_of()), 1)
    assert not loading_threads()


def test_prefetching_is_allowed_under_a_transfer_guard(rows):
    iterator = device_batches(batches(rows, global_batch_size=8), sharding_of())
    with jax.transfer_guard("disallow"):
        guarded = take(iterator, 3)
    iterator.close()
    for there, expected in zip(guarded, take(batches(rows, global_batch_size=8), 3), strict=True):
        np.testing.assert_array_equal(there.tokens_BT, expected.tokens_BT)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "tensor": 4}])
def test_one_process_reads_the_whole_batch(sizes):
    assert process_share(sharding_of(**sizes), 16) == (0, 1)


class FakeSharding:
    """The sharding as one of several processes sees it."""

    def __init__(self, slices):
        self._slices = slices

    def addressable_devices_indices_map(self, shape):
        return {device: (slice(*bounds), slice(None)) for device, bounds in enumerate(self._slices)}


def test_process_share_follows_the_devices():
    assert process_share(FakeSharding([(8, 12), (12, 16)]), 16) == (1, 2)
    assert process_share(FakeSharding([(4, 8), (4, 8)]), 16) == (1, 4)
    with pytest.raises(ValueError, match=r"not one equal part"):
        process_share(FakeSharding([(0, 4), (8, 12)]), 16)
