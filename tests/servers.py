"""Object storage to test with: fsspec's in memory, and real servers on this machine where their packages are there."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator

import pytest

SCHEMES = ("memory", "s3", "gs")


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], str]]:
    """Returns the address of a bucket of a scheme, whose server is started once."""
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        opened = {"memory": _memory, "s3": _s3, "gs": _gs}
        known: dict[str, str] = {}

        def bucket(scheme: str) -> str:
            if scheme not in known:
                known[scheme] = stack.enter_context(contextlib.contextmanager(opened[scheme])(patch))
            return known[scheme]

        yield bucket


@pytest.fixture(params=SCHEMES)
def address(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> str:
    """An address below which there is nothing."""
    return f"{servers(request.param)}/{secrets.token_hex(4)}/run"


def _memory(patch: pytest.MonkeyPatch) -> Iterator[str]:
    yield "memory://bucket"


def _s3(patch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        import fsspec

        with contextlib.suppress(FileExistsError):  # from another file of tests
            fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.stop()


def _gs(patch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("gcsfs")
    server = pytest.importorskip("gcp_storage_emulator.server").create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        port = server._api._httpd.server_port if hasattr(server._api, "_httpd") else server._api._server.server_port
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import fsspec

        fsspec.filesystem("gs", use_listings_cache=False, token="anon").mkdir("bucket")
        yield "gs://bucket"
    finally:
        server.stop()
        os.environ.pop("STORAGE_EMULATOR_HOST", None)
