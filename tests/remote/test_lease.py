"""Leases and objects, in storage in memory, on an S3 server, on a GCS server and in a folder."""

import json
import queue
import secrets
import sys
import threading
import time

import pytest
from servers import SCHEMES, address, servers  # noqa: F401

from lmjax.remote import bucket as bucket_module
from lmjax.remote.address import address_of
from lmjax.remote.bucket import Bucket, Folder, RemoteError
from lmjax.remote.lease import LEASE, LeaseHeldError, leased


@pytest.fixture(params=["folder", *SCHEMES])
def store(request, tmp_path, monkeypatch, servers):  # noqa: F811
    monkeypatch.setattr(bucket_module, "SETTLE_SECONDS", 0.05)
    if request.param == "folder":
        return Folder(tmp_path)
    return Bucket(f"{servers(request.param)}/{secrets.token_hex(4)}")


def hold(store, seconds=0.6, **options):
    return leased(store, "is being trained", seconds=seconds, **{"notify": lambda _: None, **options})


def test_a_second_process_is_refused_and_the_first_gives_it_back(store):
    with hold(store):
        with (
            pytest.raises(LeaseHeldError, match=r"is being trained by process \d+ on .*: wait until it is done"),
            hold(store),
        ):
            pass
        assert store.read(LEASE) is not None
    assert store.read(LEASE) is None
    with hold(store):
        pass


def test_a_lease_that_nobody_renews_is_taken_over_after_its_time(store):
    store.write(LEASE, b'{"owner": "x", "doing": "is being trained", "pid": 12, "host": "h", "seconds": 0.4}')
    told = []
    with hold(store, notify=told.append) as lease:
        lease.confirm()
    assert "process 12 on h" in told[0] and "waiting up to 0 s" in told[0] and "taken over" in told[1]


def test_nobody_waits_for_a_dead_process_of_this_machine(store):
    with hold(store) as lease:
        facts = json.loads(lease._content)
    # 2**22 is above any process's number.
    store.write(LEASE, json.dumps(facts | {"owner": "other", "pid": 2**22 + 1, "seconds": 500}).encode())
    told = []
    with hold(store, seconds=500, notify=told.append) as lease:
        lease.confirm()
        assert json.loads(store.read(LEASE))["owner"] != "other"
    assert not any("waiting" in text for text in told)


def test_who_has_lost_the_lease_is_told_and_does_not_delete_it(store):
    lost = queue.Queue()
    with hold(store, lost=lost.put):
        store.write(LEASE, b'{"owner": "thief", "doing": "is being trained"}')
        assert "is lost" in str(lost.get(timeout=5))
    assert b"thief" in store.read(LEASE)


def test_of_many_that_come_at_once_one_gets_it(store):
    store.write(LEASE, b'{"owner": "gone", "seconds": 0.2}')
    won, refused, done = queue.Queue(), queue.Queue(), threading.Event()

    def come():
        try:
            with hold(store, seconds=1):
                won.put(1)
                done.wait(20)
        except LeaseHeldError:
            refused.put(1)

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        refused.get(timeout=20)
    done.set()
    for thread in threads:
        thread.join()
    assert won.qsize() == 1


def test_objects_are_read_written_listed_and_deleted(address, tmp_path):  # noqa: F811
    bucket = Bucket(address)
    assert bucket.sizes() == {} and bucket.read("a/x") is None
    assert bucket.create("a/x", b"one")
    if not address.startswith("gs:"):  # the emulator overlooks ifGenerationMatch
        assert not bucket.create("a/x", b"two")
    assert bucket.replace("a/x", b"one", b"three") and not bucket.replace("a/x", b"one", b"four")
    assert abs(bucket.modified("a/x") - time.time()) < 100
    (tmp_path / "file").write_bytes(b"12345")
    bucket.upload(tmp_path / "file", "b/y z")
    assert bucket.sizes() == {"a/x": 5, "b/y z": 5} and bucket.sizes("a") == {"a/x": 5}
    bucket.download("b/y z", tmp_path / "below" / "copy")
    assert (tmp_path / "below" / "copy").read_bytes() == b"12345"
    with pytest.raises(RemoteError, match="no-such.*correct the address"):
        bucket.download("no-such", tmp_path / "copy")
    bucket.delete("a/x", "a/x", "b/y z")
    assert bucket.sizes() == {}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("s3:/b/run", "s3://b/run"),
        ("GS://b/run/", "gs://b/run"),
        ("runs/s3", None),
        ("https://x/y", None),
        (None, None),
    ],
)
def test_an_address_is_told_from_a_path(path, found):
    assert address_of(path) == found


def test_a_missing_package_is_named(monkeypatch):
    import fsspec

    if "s3" in fsspec.registry:
        pytest.skip("the package is there")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"s3://bucket/run: .* package s3fs .*pip install 'lmjax\[storage\]'"):
        Bucket("s3://bucket/run")
